"""The emulator with one image more: ``serving-echo``, a server of a few lines that starts at once."""

import sys
from pathlib import Path

from containers.vertex_local import __main__
from containers.vertex_local.servers import images

_ECHO = str(Path(__file__).with_name("echo_server.py"))


def echo(http_port: int, grpc_port: int) -> list[str]:
    return [sys.executable, _ECHO, str(http_port), str(grpc_port)]


if __name__ == "__main__":
    images.IMAGES["serving-echo"] = echo
    sys.exit(__main__.main())
