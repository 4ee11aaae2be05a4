"""What the emulator starts for the URI of a serving image, in place of the container."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InvalidArgumentError
from . import torchserve

ImageCommand = Callable[[int, int], list[str]]
"""From an HTTP port and a gRPC port to the command line of a server that listens on them."""

# Google's prebuilt images belong to no project; one of the same name elsewhere is somebody's own.
_PREBUILT = re.compile(r"[^/]+/vertex-ai(?:-restricted)?/prediction/[^/]+")
_PYTORCH = re.compile(r"pytorch-(?:cpu|gpu)\.\d+-\d+")
_TENSORFLOW = re.compile(r"(?:tf2|tf_opt)-(?:cpu|gpu)\.(?:\d+-\d+|nightly)")


@dataclass(frozen=True)
class Routes:
    """Where a server answers health checks and predictions."""

    health: str
    predict: str


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
        FailedPreconditionError: the program is not installed.
    """
    name = _name_of(image_uri)
    if name in IMAGES:
        return IMAGES[name]
    if _is_prebuilt(image_uri, _PYTORCH):
        torchserve.check_installed(image_uri)
        return torchserve.command
    if _is_prebuilt(image_uri, _TENSORFLOW):
        # The project's own server answers TensorFlow Serving's requests, for SavedModels with model.yaml in them.
        return _own_server
    raise InvalidArgumentError(
        f"containerSpec.imageUri {image_uri!r} names no server that runs on this machine;"
        f" known by the last part of their path are {', '.join(sorted(IMAGES))}, and Google's own under"
        " REGION-docker.pkg.dev/vertex-ai/prediction/: pytorch-cpu.N-N, tf2-cpu.N-N and their gpu kin;"
        " an emulator started with --runner docker runs any image"
    )


def is_own(image_uri: str) -> bool:
    """Whether an image is one of this project's."""
    return _name_of(image_uri) in IMAGES


def prebuilt_routes(image_uri: str) -> Routes | None:
    """The routes of a prebuilt PyTorch image, which need not be given with the model; none for other images."""
    return Routes("/ping", "/predictions/model") if _is_prebuilt(image_uri, _PYTORCH) else None


def _is_prebuilt(image_uri: str, names: re.Pattern[str]) -> bool:
    return bool(_PREBUILT.fullmatch(image_uri) and names.fullmatch(_name_of(image_uri)))


def _name_of(image_uri: str) -> str:
    return re.sub(r"[@:].*$", "", image_uri.rpartition("/")[2])
