"""A model as the server sees it, whatever its framework, and how it is found in its artifact."""

from __future__ import annotations

import ctypes
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.payloads.codec import Outputs, Tiles
from components.earthengine.untrusted import documents, zips

ARCHIVE = "model.mar"
ONNX = "model.onnx"
SAVED_MODEL = "saved_model.pb"
_MANIFEST = "MAR-INF/MANIFEST.json"


class ServedModel(Protocol):
    """A loaded model, and what runs it: framework, version and threads, to be told."""

    contract: ModelContract
    runtime: str

    def predict(self, tiles: Tiles) -> Outputs:
        """The answers to raw tiles `[N, C, H, W]`, one a tile in each output."""


def last_line(error: Exception) -> str:
    """What a framework's error says: its last line, cut."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]


def load(path: Path) -> ServedModel:
    """The model in an artifact: a `.mar`, a folder with `model.mar`, or a SavedModel with `model.yaml` in it.

    With ONNX Runtime where export made ONNX of it, else, and where there is CUDA, with its own framework. Imports only
    what runs it.

    Raises:
        ModelError: no such artifact, a broken one, or what runs it is not installed.
        ContractError: its `model.yaml` is missing or breaks a rule.
    """
    if not path.exists():
        raise ModelError(f"{path} does not exist; give a .mar, or a folder with {ARCHIVE} or {SAVED_MODEL}")
    archive = path / ARCHIVE if path.is_dir() else path
    if archive.exists() and not archive.is_dir():
        return _pytorch(archive)
    if (path / SAVED_MODEL).is_file():
        return _tensorflow(path)
    there = ", ".join(sorted(child.name for child in path.iterdir())[:10]) or "nothing"
    raise ModelError(f"{path} holds {there}; it must hold {ARCHIVE} (PyTorch) or {SAVED_MODEL} (TensorFlow)")


def read_archive(path: Path, name: str | None = None) -> tuple[ModelContract, bytes]:
    """The contract and a file in a `.mar`, else the TorchScript; nothing is written to disk.

    The Python that an archive carries for TorchServe is never run, nor a requirements file heeded.

    Raises:
        ModelError: it is no archive of ours, or one that claims more than it may (see `zips`).
        ContractError: its `model.yaml` breaks a rule.
    """
    try:
        with zips.opened(path) as archive:
            for text in (_MANIFEST, FILE_NAME):
                if (size := archive.getinfo(text).file_size) > documents.MAX_BYTES:
                    raise ValueError(f"its {text} has {size:,} bytes; at most {documents.MAX_BYTES:,} are read")
            name = name or json.loads(zips.read(archive, _MANIFEST))["model"]["serializedFile"]
            contract, content = zips.read(archive, FILE_NAME).decode("utf-8"), zips.read(archive, name)
    except KeyError as error:
        raise ModelError(
            f"{path} is no archive of ours: {error.args[0]}; it needs {_MANIFEST} "
            f"with model.serializedFile, that file, and {FILE_NAME}: archive the model again"
        ) from None
    except (*zips.FAULTS, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from None
    return ModelContract.parse(contract, f"{path}: {FILE_NAME}"), content


def _pytorch(archive: Path) -> ServedModel:
    try:
        with zips.opened(archive) as opened:
            has_onnx = ONNX in opened.namelist()
    except zips.FAULTS as error:
        raise _unreadable(archive, error) from None
    if has_onnx and not _torch_has_cuda():
        _need("onnxruntime", "PyTorch", archive)
        return _onnx(archive, *read_archive(archive, ONNX))
    _need("torch", "PyTorch", archive)
    from containers.serving.torch_model import TorchModel

    return TorchModel(archive)


def _tensorflow(folder: Path) -> ServedModel:
    if (folder / ONNX).is_file() and not _tensorflow_has_gpu():
        _need("onnxruntime", "TensorFlow", folder)
        return _onnx(folder, ModelContract.read(folder), (folder / ONNX).read_bytes())
    _need("tensorflow", "TensorFlow", folder)
    from containers.serving.tensorflow_model import TensorFlowModel

    return TensorFlowModel(folder)


def _onnx(path: Path, contract: ModelContract, content: bytes) -> ServedModel:
    from containers.serving.onnx_model import OnnxModel

    return OnnxModel(path, contract, content)


def _has_driver(framework: str) -> bool:
    """Whether there is CUDA's driver, and the framework installed; without, its import of seconds is spared."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return find_spec(framework) is not None


def _torch_has_cuda() -> bool:
    if not _has_driver("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def _tensorflow_has_gpu() -> bool:
    if not _has_driver("tensorflow"):
        return False
    from containers.serving.tensorflow_model import gpus

    return bool(gpus())


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} cannot be read as a .mar ({error}); archive the model again")


def _need(module: str, framework: str, path: Path) -> None:
    if find_spec(module) is None:
        raise ModelError(
            f"{path} is a {framework} model and {module} is not installed here; use the serving image for {framework}"
        )
