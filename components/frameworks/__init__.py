"""What differs between PyTorch and TensorFlow: loading, running and exporting a model, a module each."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from numpy.typing import NDArray

from components.earthengine.errors import ModelError
from components.earthengine.untrusted.files import stays_inside

if TYPE_CHECKING:
    from components.earthengine.contract import ModelContract
    from components.earthengine.payloads.codec import Outputs, Tiles


# The exported PyTorch model, in the export's folder and in the archive; either framework's as ONNX where it converts.
TORCHSCRIPT_NAME = "model.pt"
ONNX_NAME = "model.onnx"


class Backend(Protocol):
    """What each framework's module offers."""

    def load(self, directory: Path, contract: ModelContract, allow_pickle: bool) -> Any:
        """The trained model, ready to be called, in evaluation mode.

        Raises:
            ModelError: the file is missing, corrupt, of no known kind, hostile, or needs code that was not allowed.
        """

    def channels(self, model: Any, contract: ModelContract) -> int | None:
        """How many channels the model says that it takes; None where it does not say."""

    def answer(self, model: Any, given: NDArray[Any]) -> Any:
        """What the model answers to an array in the layout and type that it wants: arrays."""

    def export(self, model: Any, contract: ModelContract, destination: Path, given: NDArray[Any]) -> None:
        """Write the model, wrapped to take raw tiles of any size, to a folder; `given` is as for `answer`.

        The model is spent then: it may have lost its weights, to make room for the exported one.

        Raises:
            ModelError: the model cannot be exported.
        """

    def load_exported(self, folder: Path) -> Callable[[Tiles], Outputs]:
        """An exported model as a function from raw tiles `[N, C, H, W]` to its answers."""


def of(contract: ModelContract) -> Backend:
    """The framework that a contract names; importing it takes seconds, so only that one is imported."""
    return cast("Backend", importlib.import_module(f"{__name__}.{contract.framework}"))


def beside(directory: Path, name: str, where: str, what: str) -> Path:
    """The file or folder that model.yaml names; `where` in it and `what` it is, for an error.

    Raises:
        ModelError: it does not exist, a link in it leads out of the directory, or it is neither file nor folder.
    """
    path = directory / name
    try:
        stays_inside(directory, path)
    except (ValueError, OSError) as error:
        raise ModelError(f"{path}, which model.yaml names {where}, is not read: {error}") from None
    if not path.exists():
        raise ModelError(f"{path}, which model.yaml names {where}, does not exist; put {what} there")
    return path


def first_line(error: Exception) -> str:
    """What an error says, cut to one line: the first, or after a traceback the one that says what failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0] == "in user code:":
        lines = [line for line in lines if re.match(r"\w+Error: ", line)] or lines
    if lines and lines[0].startswith("The following operation failed in the TorchScript interpreter"):
        lines = lines[-1:]
    return lines[0] if lines else type(error).__name__
