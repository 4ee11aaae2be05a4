"""The emulator with one image more: ``serving-echo``, a server of a few lines that starts at once.

SHARED_TIMEOUT_S in the environment stands in for the 60 s of shared endpoints, and LAST_ANSWER_S for those that an
undeployed server has for what it was asked before; no test should wait for them. WRITES_LEFT names a file: while it is
there, it holds the number of the write, of those to come, at which the emulator is killed. OPERATION_S is what an
operation takes at least, and PYTORCH_SERVER a program, given an HTTP port and a gRPC port, in place of
``serving-pytorch``.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from containers.vertex_local import __main__, store
from containers.vertex_local.servers import images, server
from containers.vertex_local.services import operations, predictions

_ECHO = str(Path(__file__).with_name("echo_server.py"))


def echo(http_port: int, grpc_port: int) -> list[str]:
    return [sys.executable, _ECHO, str(http_port), str(grpc_port)]


def counted(write: Callable[..., None], counter: Path) -> Callable[..., None]:
    def count_down(*arguments: Any) -> None:
        if counter.exists():
            left = int(counter.read_text()) - 1
            counter.write_text(str(left))
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        write(*arguments)

    return count_down


if __name__ == "__main__":
    images.IMAGES["serving-echo"] = echo
    if program := os.environ.get("PYTORCH_SERVER"):
        images.IMAGES["serving-pytorch"] = lambda *ports: [sys.executable, program, *map(str, ports)]
    if "OPERATION_S" in os.environ:
        operations._SHORTEST_S = float(os.environ["OPERATION_S"])
    if "SHARED_TIMEOUT_S" in os.environ:
        predictions._SHARED_TIMEOUT_S = float(os.environ["SHARED_TIMEOUT_S"])
    if "LAST_ANSWER_S" in os.environ:
        server._LAST_ANSWER_S = float(os.environ["LAST_ANSWER_S"])
    if "WRITES_LEFT" in os.environ:
        for method in ("write", "delete"):
            setattr(store.Store, method, counted(getattr(store.Store, method), Path(os.environ["WRITES_LEFT"])))
    sys.exit(__main__.main())
