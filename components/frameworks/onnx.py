"""ONNX, which the server runs with ONNX Runtime where a PyTorch model converts to it and answers alike.

Kept beside the TorchScript as `model.onnx`: `tiles` `[N, C, H, W]` float32 to the contract's outputs, channels last.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper, shape_inference
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.payloads.codec import Outputs, Tiles
from components.frameworks import ONNX_NAME, first_line
from components.frameworks.quiet import quiet_export

log = logging.getLogger(__name__)

# The newest in which ReduceMax still has its axes as an attribute; PyTorch's exporter knows 7 to 20.
_OPSET = 17
# A message of protobuf, which an ONNX file is, cannot be larger (protobuf.dev, "Proto limits").
_MAX_BYTES = 2**31 - 1
# One number of a weight of one dimension that is read by its place makes PyTorch 2.13's exporter take all of them for
# sizes of an array, at 64 bytes each (measured). Biases and normalisations have thousands.
_LONGEST_VECTOR = 1_000_000


def convert(forms: Sequence[nn.Module], contract: ModelContract, folder: Path) -> None:
    """Write the first of a model's forms that converts to a folder as model.onnx; each answers a list of tensors.

    Raises:
        ModelError: none of them converts.
    """
    path = folder / ONNX_NAME
    reasons = []
    for form in forms:
        try:
            graph, weights = _converted(form, contract, path)
            split_softmax(graph)
            with path.open("wb") as file:
                _write(file, graph, weights)
            return
        # The exporter, and the model's own code, may raise anything.
        except Exception as error:
            reasons.append(first_line(error))
    raise ModelError(f"it cannot be converted to ONNX ({'; '.join(dict.fromkeys(reasons))})")


def drop(folder: Path, reason: str) -> None:
    """Leave an export without ONNX, and say why."""
    (folder / ONNX_NAME).unlink(missing_ok=True)
    log.warning("the server will run this model as TorchScript, not with ONNX Runtime: %s", reason)


def load_exported(folder: Path) -> Callable[[Tiles], Outputs]:
    """See `Backend.load_exported`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; what fails is raised too
    # All would lay weights out anew, which takes 2.6 times their memory while a model is loaded; this takes 1.2.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = onnxruntime.InferenceSession(folder / ONNX_NAME, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0].name  # not tiles where an output has that name
    names = [output.name for output in session.get_outputs()]
    return lambda tiles: dict(zip(names, session.run(None, {given: tiles}), strict=True))


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
            opset_version=_OPSET,
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
    if (size := sum(weight.nbytes for weight in weights)) > _MAX_BYTES:
        raise ModelError(f"its weights take {size / 1e9:.1f} GB, of which ONNX holds 2.1")
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


def split_softmax(model: onnx.ModelProto) -> None:
    """Write each Softmax whose axis is not the last as what it is made of.

    ONNX Runtime 1.31 transposes there and back around these: of 3 classes on 8 tiles of 64 x 64 that took 2.6 ms of
    the 4 ms of a whole classifier; the five operators take 0.4 ms.
    """
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in shape_inference.infer_shapes(model).graph.value_info
    }
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
        if node.op_type == "Softmax" and axis not in (-1, ranks.get(node.input[0], 0) - 1):
            model.graph.node.extend(_softmax(node.input[0], node.output[0], axis))
            model.graph.initializer.append(numpy_helper.from_array(np.array([axis]), f"{node.output[0]}.axes"))
        else:
            model.graph.node.append(node)


def _softmax(given: str, answer: str, axis: int) -> list[onnx.NodeProto]:
    largest, shifted, powers, total, axes = (f"{answer}.{part}" for part in ("max", "shifted", "exp", "sum", "axes"))
    return [
        helper.make_node("ReduceMax", [given], [largest], axes=[axis]),
        helper.make_node("Sub", [given, largest], [shifted]),
        helper.make_node("Exp", [shifted], [powers]),
        helper.make_node("ReduceSum", [powers, axes], [total]),
        helper.make_node("Div", [powers, total], [answer]),
    ]


def _write(file: BinaryIO, model: onnx.ModelProto, weights: dict[str, Tensor]) -> None:
    """Write a model whose graph takes its weights as inputs as one that holds them.

    Pieces of a message merge when they are put one after the other, so that each weight goes from its tensor to the
    file: a message that held them all would take their memory twice more.
    """
    inputs = {given.name: given.type.tensor_type for given in model.graph.input}
    del model.graph.input[1:]
    file.write(model.SerializeToString())
    for name, weight in weights.items():
        kind = inputs[name]
        tensor = onnx.TensorProto(name=name, data_type=kind.elem_type, dims=weight.shape).SerializeToString()
        tensor += _field(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, weight.nbytes)
        initializer = _field(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, len(tensor) + weight.nbytes)
        graph = _field(onnx.ModelProto.GRAPH_FIELD_NUMBER, len(initializer) + len(tensor) + weight.nbytes)
        file.write(graph + initializer + tensor)
        file.write(weight.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _field(number: int, length: int) -> bytes:
    """What stands before the content of a field that has a length (protobuf.dev, "Encoding")."""
    head = bytearray([number << 3 | 2])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*head, length])
