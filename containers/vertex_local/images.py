"""What the emulator starts for the URI of a serving image, in place of the container."""

import re
import sys
from collections.abc import Callable

from .errors import InvalidArgumentError

ImageCommand = Callable[[int, int], list[str]]
"""From an HTTP port and a gRPC port to the command line of a server that listens on them."""


def _own_server(http_port: int, grpc_port: int) -> list[str]:
    ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    return [sys.executable, "-m", "containers.serving", "--host", "127.0.0.1", *ports]


IMAGES: dict[str, ImageCommand] = {
    "serving-pytorch": _own_server,
    "serving-tensorflow": _own_server,
}


def command_for(image_uri: str) -> ImageCommand:
    """The program behind an image, known by the last part of its path.

    Raises:
        InvalidArgumentError: no image, or one that stands for no program here.
    """
    name = re.sub(r"[@:].*$", "", image_uri.rpartition("/")[2])
    try:
        return IMAGES[name]
    except KeyError:
        raise InvalidArgumentError(
            f"containerSpec.imageUri {image_uri!r} names no server that runs on this machine;"
            f" known by the last part of their path: {', '.join(sorted(IMAGES))}"
        ) from None
