"""How long the server takes to start, beside the framework alone."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

from benchmarks.models import Model
from benchmarks.processes import Group
from benchmarks.server import Server
from components.frameworks import TORCHSCRIPT_NAME

_ROUNDS = 3
_LOAD = {
    "pytorch": "import sys, torch; torch.jit.load(sys.argv[1]); print(flush=True)",
    "tensorflow": "import sys, tensorflow; tensorflow.saved_model.load(sys.argv[1]); print(flush=True)",
}


def start_seconds(model: Model, log: Path) -> tuple[float, float]:
    """Seconds until the server is healthy, above those of the framework's import and load; and the latter.

    Each in a fresh process, in turns; the first round only fills the page cache.
    """
    served, alone = [], []
    for _ in range(1 + _ROUNDS):
        alone.append(_load_seconds(model, log))
        begin = time.perf_counter()
        with Server(model.served, log):
            served.append(time.perf_counter() - begin)
    above = [mine - framework for mine, framework in zip(served[1:], alone[1:], strict=True)]
    return statistics.median(above), statistics.median(alone[1:])


def _load_seconds(model: Model, log: Path) -> float:
    framework = model.contract.framework
    path = model.exported / TORCHSCRIPT_NAME if framework == "pytorch" else model.exported
    begin = time.perf_counter()
    with Group([sys.executable, "-c", _LOAD[framework], str(path)], log, piped=True) as group:
        if group.process.stdout is None or not group.process.stdout.readline():
            raise RuntimeError(group.complaint("it could not load the model"))
        return time.perf_counter() - begin
