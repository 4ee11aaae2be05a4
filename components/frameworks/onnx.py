"""ONNX, which the server runs with ONNX Runtime where a model converts to it and answers alike.

Kept beside the framework's own form as `model.onnx`: its only input are tiles `[N, C, H, W]` float32, its outputs the
contract's, channels last. What converts a model is beside each framework: `pytorch_onnx`, `tensorflow_onnx`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.payloads.codec import Outputs, Tiles
from components.frameworks import ONNX_NAME

log = logging.getLogger(__name__)

# The newest in which ReduceMax still has its axes as an attribute; PyTorch's exporter knows 7 to 20.
OPSET = 17
# A message of protobuf, which an ONNX file is, cannot be larger (protobuf.dev, "Proto limits").
MAX_BYTES = 2**31 - 1
_FORMS = {"pytorch": "TorchScript", "tensorflow": "TensorFlow"}


def refuse_unless_it_fits(weights_bytes: int) -> None:
    """Raise ModelError for weights that ONNX cannot hold."""
    if weights_bytes > MAX_BYTES:
        raise ModelError(f"its weights take {weights_bytes / 1e9:.1f} GB, of which ONNX holds {MAX_BYTES / 1e9:.1f}")


def drop(contract: ModelContract, folder: Path, reason: str) -> None:
    """Leave an export without ONNX, and say why."""
    (folder / ONNX_NAME).unlink(missing_ok=True)
    form = _FORMS[contract.framework]
    log.warning("the server will run this model as %s, not with ONNX Runtime: %s", form, reason)


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


def split_softmax(model: onnx.ModelProto) -> None:
    """Write each Softmax whose axis is not the last as what it is made of.

    ONNX Runtime 1.31 transposes there and back around these: of 3 classes on 8 tiles of 64 x 64 that took 2.6 ms of
    the 4 ms of a whole classifier; the five operators take 0.4 ms.
    """
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in shape_inference.infer_shapes(model).graph.value_info
    }

    def split(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
        if node.op_type != "Softmax" or axis in (-1, ranks.get(node.input[0], 0) - 1):
            return [node]
        model.graph.initializer.append(numpy_helper.from_array(np.array([axis]), f"{node.output[0]}.axes"))
        return _softmax(node.input[0], node.output[0], axis)

    rewrite(model, split)


def rewrite(model: onnx.ModelProto, nodes_for: Callable[[onnx.NodeProto], list[onnx.NodeProto]]) -> None:
    """Put in place of each node of a graph what a function gives for it."""
    nodes = [new for node in model.graph.node for new in nodes_for(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _softmax(given: str, answer: str, axis: int) -> list[onnx.NodeProto]:
    largest, shifted, powers, total, axes = (f"{answer}.{part}" for part in ("max", "shifted", "exp", "sum", "axes"))
    return [
        helper.make_node("ReduceMax", [given], [largest], axes=[axis]),
        helper.make_node("Sub", [given, largest], [shifted]),
        helper.make_node("Exp", [shifted], [powers]),
        helper.make_node("ReduceSum", [powers, axes], [total]),
        helper.make_node("Div", [powers, total], [answer]),
    ]


def write(path: Path, model: onnx.ModelProto, weights: Iterable[tuple[str, NDArray[np.uint8]]]) -> None:
    """Write a model whose graph takes its weights as inputs as one that holds them.

    Pieces of a message merge when they are put one after the other, so that each weight goes from where it lies to the
    file: a message that held them all would take their memory twice more.

    Args:
        path: the file.
        model: its first input is the tiles, all others are weights.
        weights: the bytes of each, by the name of its input.
    """
    inputs = {given.name: given.type.tensor_type for given in model.graph.input}
    del model.graph.input[1:]
    with path.open("wb") as file:
        file.write(model.SerializeToString())
        for name, weight in weights:
            kind = inputs[name]
            dims = [size.dim_value for size in kind.shape.dim]
            tensor = onnx.TensorProto(name=name, data_type=kind.elem_type, dims=dims).SerializeToString()
            tensor += _field(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, weight.nbytes)
            initializer = _field(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, len(tensor) + weight.nbytes)
            graph = _field(onnx.ModelProto.GRAPH_FIELD_NUMBER, len(initializer) + len(tensor) + weight.nbytes)
            file.write(graph + initializer + tensor)
            file.write(weight.data)


def _field(number: int, length: int) -> bytes:
    """What stands before the content of a field that has a length (protobuf.dev, "Encoding")."""
    head = bytearray([number << 3 | 2])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*head, length])
