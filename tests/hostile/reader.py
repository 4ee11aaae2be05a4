"""Reads hostile files in a process of its own, in 4 GiB more than it has at the beginning.

Arguments: the reader, and the folders to read. Each gives a line of JSON: what was raised, how long it took and how
much more memory than before was in use at once. A file that is not read within a minute ends the process.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from components.earthengine.errors import PipelineError

ROOM_BYTES = 4 << 30
SECONDS = 60


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def contract(folder: Path) -> None:
    from components.earthengine.contract import ModelContract

    ModelContract.read(folder)


def directory(folder: Path) -> None:
    from components.export import export_model

    with tempfile.TemporaryDirectory() as made:
        try:
            export_model(folder, Path(made) / "exported")
        except PipelineError:
            assert not list(Path(made).iterdir()), "an export is left behind"
            raise


def server(folder: Path) -> None:
    from containers.serving.model import load

    load(folder)


def golden(folder: Path) -> None:
    from components.golden import Golden

    Golden.load(folder)


def data(folder: Path) -> None:
    from components.data import read_data
    from components.earthengine.contract import ModelContract

    (file,) = (each for each in folder.iterdir() if each.name.startswith("data"))
    read_data(ModelContract.read(folder), str(file))


READERS: dict[str, Callable[[Path], None]] = {
    "contract": contract,
    "pytorch": directory,
    "tensorflow": directory,
    "sample": directory,
    "server": server,
    "golden": golden,
    "data": data,
}


def main(name: str, harmless: Path, folders: list[Path]) -> None:
    read = READERS[name]
    read(harmless)  # what is imported and kept takes no part in what is measured
    used = _status("VmSize") + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (used, used))
    for folder in folders:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, begun = _status("VmRSS"), time.monotonic()
        signal.alarm(SECONDS)
        try:
            read(folder)
            error: BaseException | None = None
        except BaseException as raised:
            error = raised
        signal.alarm(0)
        told = {
            "folder": folder.name,
            "refused": isinstance(error, PipelineError),
            "error": f"{type(error).__name__}: {error}"[:3000],
            "seconds": time.monotonic() - begun,
            "bytes": max(_status("VmHWM") - before, 0),
        }
        del error
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), [Path(each) for each in sys.argv[3:]])
