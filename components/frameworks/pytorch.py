"""PyTorch models: TorchScript, a state dict with its code, or (on request) a pickled module.

Exported as TorchScript whose `forward(tiles)` takes raw float32 tiles `[N, C, H, W]` and returns a
dictionary from output names to tensors, channels last; and as ONNX where it converts (see `onnx`).
"""

# No `from __future__ import annotations`: TorchScript reads the annotations themselves.

import importlib.util
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.payloads.codec import Outputs, Tiles
from components.earthengine.untrusted import torchscript, zips
from components.frameworks import TORCHSCRIPT_NAME, beside, first_line
from components.frameworks.torchscript import save_torchscript

# TorchScript although torch deprecates it: TorchServe and a server without Python code load nothing else.


def load(directory: Path, contract: ModelContract, allow_pickle: bool) -> nn.Module:
    """See `Backend.load`."""
    path = beside(directory, contract.model.file, "as model.file", "the trained model")
    if path.is_dir():
        raise ModelError(f"{path} is a folder; model.file of a PyTorch model is a file")
    try:
        if _is_torchscript(path):
            model = torchscript.load(path, "cpu")
        elif allow_pickle:
            model = _with_own_code(directory, contract, path)
        else:
            raise ModelError(_not_allowed(contract, path))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path} cannot be loaded: {first_line(error)}; save the model again") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{path} holds a {type(model).__name__}, not a module; for a state dict name the code that builds its "
            "module as model.code, such as net.py:build"
        )
    for weight in model.parameters():
        weight.requires_grad = False
    # A frozen TorchScript is in evaluation mode for good and cannot be told again.
    return model.eval() if hasattr(model, "training") else model


def _not_allowed(contract: ModelContract, path: Path) -> str:
    code = contract.model.code
    what = (
        f"needs the code {code} beside it, which may do anything when it is run"
        if code
        else "is neither TorchScript nor, with model.code given, a state dict; if it is a whole pickled module, "
        "loading it runs any code inside it"
    )
    return (
        f"{path} {what}: save it with torch.jit.script(model).save(path), or, where you trust its origin, allow it "
        "(--allow-pickle, allow_pickle=True)"
    )


def _with_own_code(directory: Path, contract: ModelContract, path: Path) -> Any:
    """A model that runs code of its directory when it is loaded."""
    # Where the model's own modules are found, after all that is installed; so are those of a pickle. Never without
    # leave: PyTorch itself asks for modules that may be installed, and would take the directory's.
    sys.path.append(str(directory))
    try:
        if contract.model.code:
            return _from_state_dict(directory, contract.model.code, path)
        return torch.load(path, map_location="cpu", weights_only=False)
    finally:
        sys.path.remove(str(directory))


def channels(model: nn.Module, contract: ModelContract) -> None:
    """See `Backend.channels`; a module does not say."""


def answer(model: nn.Module, given: NDArray[Any]) -> Any:
    """See `Backend.answer`."""
    with torch.inference_mode():
        return _to_numpy(model(torch.from_numpy(given)))


def export(model: nn.Module, contract: ModelContract, destination: Path, given: NDArray[Any]) -> None:
    """See `Backend.export`; scripted, or traced where it cannot be scripted; as ONNX too where it converts."""
    # Takes a third of a second, which loading a model need not pay.
    from components.frameworks import onnx, pytorch_onnx

    listed, scripted = _listed(model, contract, given)
    wrapped = _Wrapped(scripted, contract).eval()
    destination.mkdir(parents=True, exist_ok=True)
    save_torchscript(torch.jit.script(_Named(wrapped, contract).eval()), destination / TORCHSCRIPT_NAME)
    # Traced by itself a module gives the plainer graph; scripted it keeps its branches.
    forms = [wrapped] if listed is None else [_Wrapped(listed, contract).eval(), wrapped]
    try:
        pytorch_onnx.convert(forms, contract, destination)
    except ModelError as error:
        onnx.drop(contract, destination, str(error))
    # PyTorch 2.13's exporter never lets go of the weights (torch._C._jit_onnx_list_model_parameters keeps them).
    for weight in wrapped.state_dict(keep_vars=True).values():
        weight.data = weight.new_empty(0)


def load_exported(folder: Path) -> Callable[[Tiles], Outputs]:
    """See `Backend.load_exported`."""
    model = torch.jit.load(folder / TORCHSCRIPT_NAME, map_location="cpu").eval()
    return lambda tiles: answer(model, tiles)


class _Wrapped(nn.Module):
    """A model with the contract's normalisation, padding, cast, layout and cropping in its graph.

    Takes raw tiles, answers a list. Every branch is decided by the contract, so that tracing burns nothing in.
    """

    factors: Tensor
    offsets: Tensor

    def __init__(self, model: nn.Module, contract: ModelContract) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("factors", torch.tensor(contract.factors).reshape(1, -1, 1, 1))
        self.register_buffer("offsets", torch.tensor(contract.offsets).reshape(1, -1, 1, 1))
        self.scales = any(factor != 1 for factor in contract.factors)
        self.shifts = any(offset != 0 for offset in contract.offsets)
        self.table = contract.table
        self.multiple = contract.model.multiple
        # TorchScript keeps a list of tensors as an attribute, but not a list of types.
        self.input_like = torch.empty(0, dtype=getattr(torch, contract.model.type))
        self.channels_first = contract.layout == "channels_first"
        self.crops = contract.output_tile is None
        self.ranks = [output.dimensions for output in contract.outputs]
        self.outputs_like = [torch.empty(0, dtype=getattr(torch, output.number)) for output in contract.outputs]

    def forward(self, tiles: Tensor) -> list[Tensor]:
        height, width = tiles.shape[2], tiles.shape[3]
        given = tiles
        if self.scales:
            given = given * self.factors
        if self.shifts:
            given = given + self.offsets
        if self.table:
            given = given.flatten(1)
        elif self.multiple > 1:
            given = self.reflected(self.reflected(given, 2), 3)
        given = given.to(self.input_like.dtype)
        if not self.channels_first and not self.table:
            given = given.permute(0, 2, 3, 1).contiguous()
        answers: list[Tensor] = self.model(given)
        outputs: list[Tensor] = []
        for i, rank in enumerate(self.ranks):
            output = self.finished(answers[i], rank, height, width)
            outputs.append(output.to(self.outputs_like[i].dtype).contiguous())
        return outputs

    def reflected(self, tiles: Tensor, axis: int) -> Tensor:
        """Reflect the end of an axis up to the multiple, more than once where the tile is small."""
        size = tiles.shape[axis]
        period = 2 * size - 2 + 1 // size  # 1, not 0, for a single pixel
        index = torch.arange(size + (-size) % self.multiple, device=tiles.device) % period
        return tiles.index_select(axis, torch.minimum(index, period - index))

    def finished(self, answer: Tensor, rank: int, height: int, width: int) -> Tensor:
        """One output as `[N, height, width, ...]`."""
        if rank == 0 and (answer.dim() == 2 or answer.dim() == 4):
            answer = answer.squeeze(1 if self.channels_first else -1)
        if answer.dim() == rank + 1:
            answer = answer.unsqueeze(1).unsqueeze(1)
        elif rank > 0 and self.channels_first:
            answer = answer.movedim([rank + 1, rank + 2], [1, 2])
        if self.crops:
            answer = answer[:, :height, :width]
        return answer


class _Named(nn.Module):
    """The same, answering by name."""

    def __init__(self, wrapped: nn.Module, contract: ModelContract) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.names = [output.name for output in contract.outputs]

    def forward(self, tiles: Tensor) -> dict[str, Tensor]:
        answers: list[Tensor] = self.wrapped(tiles)
        outputs: dict[str, Tensor] = {}
        for i, name in enumerate(self.names):
            outputs[name] = answers[i]
        return outputs


class _FromOne(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: Tensor) -> list[Tensor]:
        return [self.model(given)]


class _FromSeveral(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: Tensor) -> list[Tensor]:
        answers: list[Tensor] = []
        for answer in self.model(given):
            answers.append(answer)  # noqa: PERF402 -- TorchScript unrolls a tuple in this form only
        return answers


class _FromNamed(nn.Module):
    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, given: Tensor) -> list[Tensor]:
        answer: dict[str, Tensor] = self.model(given)
        if len(answer) == 1:
            return list(answer.values())
        return [answer[name] for name in self.names]


def _listed(
    model: nn.Module, contract: ModelContract, given: NDArray[Any]
) -> tuple[nn.Module | None, torch.jit.ScriptModule]:
    """The model returning a list in the contract's order, whatever it returned: in Python if it is, and scripted."""
    example = torch.from_numpy(given)
    with torch.inference_mode():
        answer = model(example)

    def listed(inner: nn.Module) -> nn.Module:
        if isinstance(answer, dict):
            return _FromNamed(inner, [output.name for output in contract.outputs])
        return _FromSeveral(inner) if isinstance(answer, (list, tuple)) else _FromOne(inner)

    plain = None if isinstance(model, torch.jit.ScriptModule) else listed(model)
    try:
        return plain, torch.jit.script(listed(model))
    except Exception as error:
        reason = first_line(error)
    try:
        traced = torch.jit.trace(model, example, strict=False, check_trace=False)
        return plain, torch.jit.script(listed(traced))
    except Exception as error:
        raise ModelError(
            f"the model can be neither scripted ({reason}) nor traced ({first_line(error)}); "
            "make torch.jit.script(model) work and save its result as model.file"
        ) from error


def _from_state_dict(directory: Path, code: str, path: Path) -> Any:
    file, function = code.split(":")
    source = beside(directory, file, "in model.code", "the model's code")
    spec = importlib.util.spec_from_file_location(f"model_code_{source.stem}", source)
    if spec is None or spec.loader is None:
        raise ModelError(f"{source} is not Python code; name a .py file in model.code")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        build = getattr(module, function, None)
        model = build() if callable(build) else None
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"{source} cannot be run: {reason}; correct the code") from error
    if model is None:
        raise ModelError(f"{source} has no function or class {function}, which model.code names; correct model.code")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    try:
        model.load_state_dict(weights)
    except Exception as error:
        reason = " ".join(str(error).split())[:500]
        raise ModelError(
            f"{path} does not fit what {code} builds: {reason}; correct model.code or model.file"
        ) from error
    return model


def _is_torchscript(path: Path) -> bool:
    """Whether a file is TorchScript: a zip with code in it, which pickles of torch.save lack.

    Raises:
        ValueError: it is a zip out of bounds.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zips.opened(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _to_numpy(answer: Any) -> Any:
    if isinstance(answer, Tensor):
        return answer.numpy()
    if isinstance(answer, dict):
        return {name: tensor.numpy() for name, tensor in answer.items()}
    if isinstance(answer, (list, tuple)):
        return [np.asarray(tensor) for tensor in answer]
    raise TypeError(f"the model returns a {type(answer).__name__}, not tensors")
