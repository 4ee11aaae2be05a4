"""The emulator with one image more: ``serving-echo``, a server of a few lines that starts at once.

SHARED_TIMEOUT_S in the environment stands in for the 60 s of shared endpoints, and LAST_ANSWER_S for those that an
undeployed server has for what it was asked before; no test should wait for them.
"""

import os
import sys
from pathlib import Path

from containers.vertex_local import __main__
from containers.vertex_local.servers import images, server
from containers.vertex_local.services import predictions

_ECHO = str(Path(__file__).with_name("echo_server.py"))


def echo(http_port: int, grpc_port: int) -> list[str]:
    return [sys.executable, _ECHO, str(http_port), str(grpc_port)]


if __name__ == "__main__":
    images.IMAGES["serving-echo"] = echo
    if "SHARED_TIMEOUT_S" in os.environ:
        predictions._SHARED_TIMEOUT_S = float(os.environ["SHARED_TIMEOUT_S"])
    if "LAST_ANSWER_S" in os.environ:
        server._LAST_ANSWER_S = float(os.environ["LAST_ANSWER_S"])
    sys.exit(__main__.main())
