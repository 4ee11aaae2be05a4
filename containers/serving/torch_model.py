"""A PyTorch model: TorchScript in a `.mar` that torch-model-archiver writes."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from components.earthengine.errors import ModelError
from components.earthengine.payloads.codec import Outputs, Tiles
from components.earthengine.untrusted import torchscript
from containers.serving.cores import cores
from containers.serving.model import last_line, read_archive


class TorchModel:
    """TorchScript whose `forward(tiles)` takes `[N, C, H, W]` float32 and returns outputs by name.

    On CUDA where torch finds it. One thread calls it: OpenMP, with which PyTorch uses the cores, keeps a set of threads
    for each that does, and with a thread a request TorchScript was a third slower.
    """

    def __init__(self, archive: Path) -> None:
        self.contract, script = read_archive(archive)
        threads = cores()
        torch.set_num_threads(threads)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        where = f"on {torch.cuda.get_device_name()}" if self._device.type == "cuda" else f"{threads} threads"
        self.runtime = f"PyTorch {torch.__version__}, {where}"
        try:
            module = torchscript.load(io.BytesIO(script), self._device)
        except ValueError as error:
            raise ModelError(
                f"{archive}: PyTorch {torch.__version__} cannot load its TorchScript ({error}); it is damaged, or made "
                "to attack who loads it, and must not be served"
            ) from None
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
            outputs = self._module(torch.from_numpy(tiles).to(self._device))
        if not isinstance(outputs, dict):
            raise ModelError(f"the model's forward returns {type(outputs).__name__}; expected Dict[str, Tensor]")
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}
