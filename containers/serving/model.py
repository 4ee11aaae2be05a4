"""A model as the server sees it, whatever its framework, and how it is found in its artifact."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.payloads.codec import Outputs, Tiles

ARCHIVE = "model.mar"
SAVED_MODEL = "saved_model.pb"


class ServedModel(Protocol):
    """A loaded model."""

    contract: ModelContract

    def predict(self, tiles: Tiles) -> Outputs:
        """The answers to raw tiles `[N, C, H, W]`, one a tile in each output."""


def last_line(error: Exception) -> str:
    """What a framework's error says: its last line, cut."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]


def load(path: Path) -> ServedModel:
    """The model in an artifact: a `.mar`, a folder with `model.mar`, or a SavedModel with `model.yaml` in it.

    Imports the framework that the artifact needs, and only that.

    Raises:
        ModelError: no such artifact, a broken one, or its framework is not installed.
        ContractError: its `model.yaml` is missing or breaks a rule.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist; give a .mar, or a folder with {ARCHIVE} or {SAVED_MODEL}")
    archive = path / ARCHIVE if path.is_dir() else path
    if archive.is_file():
        _need("torch", "PyTorch", archive)
        from containers.serving.torch_model import TorchModel

        return TorchModel(archive)
    if (path / SAVED_MODEL).is_file():
        _need("tensorflow", "TensorFlow", path)
        from containers.serving.tensorflow_model import TensorFlowModel

        return TensorFlowModel(path)
    there = ", ".join(sorted(child.name for child in path.iterdir())[:10]) or "nothing"
    raise ModelError(f"{path} holds {there}; it must hold {ARCHIVE} (PyTorch) or {SAVED_MODEL} (TensorFlow)")


def _need(module: str, framework: str, path: Path) -> None:
    if find_spec(module) is None:
        raise ModelError(
            f"{path} is a {framework} model and {framework} is not installed here; "
            f"use the serving image for {framework}"
        )
