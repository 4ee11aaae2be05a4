"""From TensorFlow to ONNX (see `onnx`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from components.disk import telling_of_disk
from components.earthengine.contract import ModelContract
from components.earthengine.errors import DiskError, ModelError
from components.frameworks import ONNX_NAME, first_line
from components.frameworks.onnx import OPSET, refuse_unless_it_fits, rewrite, split_softmax, write

# Up to this size constants stay in the graph: sizes and axes, which the converter must see, and biases.
_SMALL_BYTES = 4096


def convert(signature: Any, contract: ModelContract, folder: Path) -> None:
    """Write what a signature `tiles` answers to a folder as model.onnx.

    Raises:
        ModelError: it does not convert.
        DiskError: the disk is full, or may not be written.
    """
    refuse_unless_it_fits(sum(variable.dtype.size * variable.shape.num_elements() for variable in signature.variables))
    names = [output.name for output in contract.outputs]
    # In the graph it is tiles:0, so that an output may be named tiles.
    spec = tf.TensorSpec([None, contract.channels, None, None], tf.float32, "tiles")
    function = tf.function(lambda tiles: signature(tiles=tiles), input_signature=[spec], autograph=False)
    try:
        model, weights = _converted(function.get_concrete_function())
        outputs = {output.name: output for output in model.graph.output}
        del model.graph.output[:]
        model.graph.output.extend(outputs[name] for name in names)
        _write_erfc_by_erf(model)
        split_softmax(model)
        with telling_of_disk(folder / ONNX_NAME):
            write(folder / ONNX_NAME, model, weights.items())
    except DiskError:
        raise
    # The converter may raise anything.
    except Exception as error:
        raise ModelError(f"it cannot be converted to ONNX ({first_line(error)})") from error


def _converted(function: Any) -> tuple[onnx.ModelProto, dict[str, NDArray[np.uint8]]]:
    """A function's graph with outputs by name, and the weights that it lacks, in bytes.

    With the weights in the graph tf2onnx 1.17 takes 57 times their memory, and two minutes for 350 MB.
    """
    with _quiet_logs():
        import tf2onnx

        graph = tf2onnx.tf_loader.convert_variables_to_constants_large_model(function)
        weights = _taken_out(graph)
        names = [tensor.name for tensor in function.outputs]
        model, _ = tf2onnx.convert.from_graph_def(
            graph,
            input_names=[function.inputs[0].name, *weights],
            output_names=names,
            tensors_to_rename=dict(zip(names, sorted(function.structured_outputs), strict=True)),
            opset=OPSET,
        )
    return model, weights


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Without notes on what is deprecated, and on operators without a counterpart, which `onnx.drop` names."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _taken_out(graph: Any) -> dict[str, NDArray[np.uint8]]:
    """Make the larger constants of a graph its inputs; the bytes of each, by the input's name."""
    weights = {}
    for node in graph.node:
        if node.op == "Const" and len(node.attr["value"].tensor.tensor_content) > _SMALL_BYTES:
            array = tf.make_ndarray(node.attr["value"].tensor)
            weights[f"{node.name}:0"] = array.reshape(-1).view(np.uint8)
            node.op = "Placeholder"
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
            del node.attr["value"]
    return weights


def _write_erfc_by_erf(model: onnx.ModelProto) -> None:
    """Write erfc(x), of which Keras's GELU is made and which ONNX lacks, as 1 - erf(x)."""

    def by_erf(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if node.op_type != "Erfc":
            return [node]
        (answer,) = node.output
        one, erf = f"{answer}.one", f"{answer}.erf"
        model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), one))
        return [helper.make_node("Erf", list(node.input), [erf]), helper.make_node("Sub", [one, erf], [answer])]

    rewrite(model, by_erf)
