"""The server with a model that takes as many seconds as the first value of a batch says; see Sleeper."""

from __future__ import annotations

import os
import sys
import time

from components.earthengine.contract import ModelContract
from components.earthengine.payloads import Outputs, Tiles
from containers.serving import __main__ as server
from containers.serving import model
from tests.serving.conftest import contract_text


class Sleeper:
    """Sums the bands, after the first value in seconds; fails on 666, and answers at once to anything larger."""

    runtime = "a pillow"

    def __init__(self) -> None:
        time.sleep(float(os.environ.get("SLEEPER_LOADS_S", "0")))
        self.contract = ModelContract.parse(contract_text("pytorch"))

    def predict(self, tiles: Tiles) -> Outputs:
        seconds = float(tiles.flat[0])
        if seconds == 666:
            raise RuntimeError("a line\nsuch a tile breaks the model")
        if seconds < 666:
            time.sleep(seconds)
        return {"total": tiles.sum(1)}


if __name__ == "__main__":
    model.load = lambda path: Sleeper()  # noqa: ARG005  as model.load is called
    os._exit(server.main(["--model", "sleeper", *sys.argv[1:]]))
