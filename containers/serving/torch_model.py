"""A PyTorch model: TorchScript in a `.mar` that torch-model-archiver writes."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import torch

from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.payloads.codec import Outputs, Tiles
from containers.serving.model import last_line

_MANIFEST = "MAR-INF/MANIFEST.json"


class TorchModel:
    """TorchScript whose `forward(tiles)` takes `[N, C, H, W]` float32 and returns outputs by name."""

    def __init__(self, archive: Path) -> None:
        contract, script = _read(archive)
        self.contract = ModelContract.parse(contract, f"{archive}: {FILE_NAME}")
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        try:
            module = torch.jit.load(io.BytesIO(script), map_location="cpu")
        except RuntimeError as error:
            raise ModelError(
                f"{archive}: PyTorch {torch.__version__} cannot load its TorchScript ({last_line(error)}); "
                "export the model with this version or an older one"
            ) from None
        module.eval()
        # A module that was frozen before has no mode left, and is as fast as it gets.
        self._module = torch.jit.freeze(module) if hasattr(module, "training") else module

    def predict(self, tiles: Tiles) -> Outputs:
        """The answers to raw tiles `[N, C, H, W]`, one a tile in each output."""
        with torch.inference_mode():
            outputs = self._module(torch.from_numpy(tiles))
        if not isinstance(outputs, dict):
            raise ModelError(f"the model's forward returns {type(outputs).__name__}; expected Dict[str, Tensor]")
        return {name: tensor.numpy() for name, tensor in outputs.items()}


def _read(path: Path) -> tuple[str, bytes]:
    """The contract and the TorchScript in an archive; nothing is written to disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read(_MANIFEST))
            script = archive.read(manifest["model"]["serializedFile"])
            return archive.read(FILE_NAME).decode("utf-8"), script
    except KeyError as error:
        raise ModelError(
            f"{path} is no archive of ours: {error.args[0]}; it needs {_MANIFEST} "
            f"with model.serializedFile, that file, and {FILE_NAME}: archive the model again"
        ) from None
    except (OSError, zipfile.BadZipFile, ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be read as a .mar ({error}); archive the model again") from None
