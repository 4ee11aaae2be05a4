"""A worker whose model takes as many seconds as the first value of a batch says; see Sleeper."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from components.earthengine.contract import ModelContract
from components.earthengine.payloads import Outputs, Tiles
from containers.serving import worker
from tests.serving.contracts import contract_text

CRASH = -1


class Sleeper:
    """Sums the bands, after the first value in seconds.

    Fails on 666, answers at once to anything larger, and reads an address that is nobody's for `CRASH`. Its contract is
    that of a folder, else its own.
    """

    runtime = "a pillow"

    def __init__(self, path: Path) -> None:
        time.sleep(float(os.environ.get("SLEEPER_LOADS_S", "0")))
        self.contract = (
            ModelContract.read(path) if path.is_absolute() else ModelContract.parse(contract_text("pytorch"))
        )

    def predict(self, tiles: Tiles) -> Outputs:
        seconds = float(tiles.flat[0])
        if seconds == CRASH:
            ctypes.string_at(0)
        if seconds == 666:
            raise RuntimeError("a line\nsuch a tile breaks the model")
        if seconds < 666:
            time.sleep(seconds)
        return {"total": tiles.sum(1)}


if __name__ == "__main__":
    worker.main(Sleeper)
