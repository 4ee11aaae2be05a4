"""From PyTorch to ONNX (see `onnx`)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from components.disk import telling_of_disk
from components.earthengine.contract import ModelContract
from components.earthengine.errors import DiskError, ModelError
from components.frameworks import ONNX_NAME, first_line
from components.frameworks.onnx import OPSET, refuse_unless_it_fits, split_softmax, write
from components.frameworks.quiet import quiet_export

# One number of a weight of one dimension that is read by its place makes PyTorch 2.13's exporter take all of them for
# sizes of an array, at 64 bytes each (measured). Biases and normalisations have thousands.
_LONGEST_VECTOR = 1_000_000


def convert(forms: Sequence[nn.Module], contract: ModelContract, folder: Path) -> None:
    """Write the first of a model's forms that converts to a folder as model.onnx; each answers a list of tensors.

    Raises:
        ModelError: none of them converts.
        DiskError: the disk is full, or may not be written.
    """
    path = folder / ONNX_NAME
    reasons = []
    for form in forms:
        try:
            with telling_of_disk(path):
                graph, weights = _converted(form, contract, path)
                split_softmax(graph)
                write(path, graph, ((name, _bytes(weight)) for name, weight in weights.items()))
            return
        except DiskError:
            raise
        # The exporter, and the model's own code, may raise anything.
        except Exception as error:
            reasons.append(first_line(error))
    raise ModelError(f"it cannot be converted to ONNX ({'; '.join(dict.fromkeys(reasons))})")


def _converted(form: nn.Module, contract: ModelContract, path: Path) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """A form's graph, by way of a file, and the weights that it lacks: they stay where they lie, to be in memory once.

    The exporter that torch recommends today (dynamo) takes no module that needs a multiple of some size.
    """
    _refuse_unless_it_fits(form)
    width, height = contract.patch
    example = torch.zeros(1, contract.channels, height, width)
    with warnings.catch_warnings(record=True) as said, quiet_export(), torch.inference_mode():
        warnings.simplefilter("always")
        traced = torch.jit.trace(_Several(form), example, check_trace=False)
        if burnt := [str(warning.message) for warning in said if warning.category is TracerWarning]:
            raise ModelError(f"a branch depends on what is given: {burnt[0]}")
        torch.onnx.export(
            traced,
            (example,),
            path,
            dynamo=False,
            opset_version=OPSET,
            export_params=False,
            do_constant_folding=False,  # ONNX Runtime does, when it loads
            input_names=["tiles"],
            output_names=[output.name for output in contract.outputs],
            dynamic_axes={"tiles": {0: "count", 2: "height", 3: "width"}},
        )
    model = onnx.load(path)
    weights = {given.name: _attribute(traced, given.name) for given in model.graph.input[1:]}
    for output in model.graph.output:
        # Sizes are those of the example where the exporter lost track of the dynamic ones.
        for size in output.type.tensor_type.shape.dim:
            size.Clear()
    return model, weights


def _refuse_unless_it_fits(form: nn.Module) -> None:
    weights = form.state_dict().values()
    refuse_unless_it_fits(sum(weight.nbytes for weight in weights))
    if any(weight.dim() == 1 and len(weight) > _LONGEST_VECTOR for weight in weights):
        raise ModelError(f"it has a weight of one dimension and more than {_LONGEST_VECTOR} numbers")


class _Several(nn.Module):
    """A list that a module answers as what the exporter takes for several outputs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.module(tiles))


def _attribute(module: nn.Module, path: str) -> Tensor:
    found: Tensor = functools.reduce(getattr, path.split("."), module)  # type: ignore[assignment]
    return found


def _bytes(weight: Tensor) -> NDArray[np.uint8]:
    return weight.contiguous().reshape(-1).view(torch.uint8).numpy()
