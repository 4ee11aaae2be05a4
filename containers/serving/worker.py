"""The process of the model: it loads it, then answers one request at a time, until the server closes the channel.

    python -m containers.serving.worker MODEL SOCKET ANSWERS TILES

The server starts it (worker_process.py) with the descriptors of a channel's end. A framework that crashes, or takes
all memory, ends this process: the server, which has the ports and the requests that wait, goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from components.earthengine.errors import ContractError, ModelError, PayloadError, PipelineError
from components.earthengine.payloads import Outputs, Tiles, batches
from containers.serving import log, memory, model
from containers.serving.channel import LARGEST_MESSAGE, Channel
from containers.serving.model import ServedModel

_log = logging.getLogger("serving")

# TorchScript specialises its graph in the first calls.
_WARM_UP_CALLS = 2
# prctl(2): the signal to get when the thread that started this process ends.
_PR_SET_PDEATHSIG = 1
# Of an error's text and of its stack: a character takes up to 12 bytes of a message.
_LONGEST = LARGEST_MESSAGE // 32
# proc_pid_oom_score_adj(5): of all processes the first to be killed.
_FIRST_KILLED = "1000"


def main(load: Callable[[Path], ServedModel] = model.load) -> None:
    """Load the model that the command line names, say so or why not, and answer."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_KILLED, encoding="ascii")
    memory.keep()
    log.start()
    name, *descriptors = sys.argv[1:]
    channel = Channel(*map(int, descriptors))
    # The server is gone: nobody is left to tell.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(channel, lambda: _ready(load, name))


def _serve(channel: Channel, obtain: Callable[[], ServedModel]) -> None:
    try:
        served = obtain()
    except PipelineError as error:
        channel.send(_told(error))
        return
    # As an array, since that of many bands is longer than a message.
    contract = np.frombuffer(served.contract.dump().encode(), np.uint8)
    channel.send({"runtime": served.runtime}, {"contract": contract})
    while True:
        _, tiles = channel.receive()
        try:
            outputs = _checked(served, **tiles)
        except ModelError as error:
            channel.send(_told(error))
        else:
            channel.send({}, outputs)


def _ready(load: Callable[[Path], ServedModel], name: str) -> ServedModel:
    """The model, loaded and warm."""
    try:
        served = load(Path(name))
    except PipelineError:
        raise
    # A framework may raise anything.
    except Exception as error:
        _log.exception("%s cannot be loaded", name)
        raise ModelError(f"{name} cannot be loaded ({type(error).__name__}: {error}); see above") from None
    width, height = served.contract.patch
    for _ in range(_WARM_UP_CALLS):
        _checked(served, np.zeros((1, served.contract.channels, height, width), np.float32))
    return served


def _checked(served: ServedModel, tiles: Tiles) -> Outputs:
    """The model's answers, refused unless they are what its contract says."""
    try:
        outputs = served.predict(tiles)
    except ModelError:
        raise
    # A framework may raise anything, and the model must outlive it.
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"the model failed on tiles of shape {tiles.shape}: {type(error).__name__}: {lines[-1][:500]}"
        ) from error
    try:
        return batches.check_outputs(served.contract, outputs, len(tiles))
    except PayloadError as error:
        raise ModelError(f"the model does not answer as model.yaml says: {error}") from None


def _told(error: PipelineError) -> dict[str, Any]:
    """An error as a message; see `worker_process`."""
    kind = ContractError if isinstance(error, ContractError) else ModelError
    stack = "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else ""
    return {"error": kind.__name__, "text": str(error)[:_LONGEST], "stack": stack[-_LONGEST:]}


if __name__ == "__main__":
    main()
    logging.shutdown()
    # A framework's threads are not waited for.
    os._exit(0)
