from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers

from components.earthengine.contract import ModelContract
from components.export import export_model
from components.frameworks import ONNX_NAME
from components.frameworks import onnx as onnx_framework
from components.source import SourceModel
from tests.conftest import WriteModel, assert_close, assert_same_answers
from tests.frameworks.test_tensorflow import TWO, VECTOR, Module, random_tiles, with_signature, write

__all__ = ["write"]  # a fixture

# Height and width; the golden tiles are 16 x 16.
SIZES = ((16, 16), (5, 13), (1, 1))


def check_onnx(directory: Path, tmp_path: Path, sizes: tuple[tuple[int, int], ...] = SIZES) -> onnx.ModelProto:
    """Export; ONNX Runtime must answer tiles of these sizes as the source model does. The ONNX model."""
    folder = tmp_path / "exported"
    contract = export_model(directory, folder)
    source, run = SourceModel(directory), onnx_framework.load_exported(folder)
    for size in sizes:
        tiles = random_tiles(contract, *size)
        assert_same_answers(run(tiles), source.predict(tiles))
    onnx.checker.check_model(folder / ONNX_NAME, full_check=True)
    return onnx.load(folder / ONNX_NAME)


def sequential(*given: Any, shape: tuple[int | None, ...] = (None, None, 2)) -> Any:
    return keras.Sequential([keras.Input(shape), *given])


def test_a_classifier_of_pixels(write: WriteModel, tmp_path: Path) -> None:
    model = sequential(
        layers.Conv2D(8, 1, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Conv2D(3, 1, activation="softmax"),
    )
    graph = check_onnx(write(model, outputs=VECTOR), tmp_path).graph
    operators = [node.op_type for node in graph.node]
    # Transposes cancel out but for the one at the end; the slow softmax is split.
    assert operators.count("Transpose") == 1
    assert "Softmax" not in operators


def unet() -> Any:
    given = keras.Input((None, None, 2))
    wide = layers.Conv2D(4, 3, padding="same", activation="silu")(given)
    deep = layers.SeparableConv2D(8, 3, padding="same", activation="gelu")(layers.MaxPooling2D()(wide))
    deep = layers.LayerNormalization()(layers.Conv2D(8, 3, 2, "same", activation="swish")(deep))
    up = layers.Conv2DTranspose(4, 3, 2, "same")(layers.UpSampling2D()(deep))
    joined = layers.Concatenate()([wide, up])
    answer = layers.Conv2D(2, 1, activation="sigmoid")(joined)
    return keras.Model(given, answer)


def test_a_unet_on_tiles_of_any_size(write: WriteModel, tmp_path: Path) -> None:
    check_onnx(write(unet(), source={"multiple": 4}, outputs=VECTOR), tmp_path)


def test_weights_that_are_taken_out_of_the_graph_while_it_is_converted(write: WriteModel, tmp_path: Path) -> None:
    model = sequential(
        layers.Conv2D(40, 3, padding="same"),
        layers.SeparableConv2D(40, 6, depth_multiplier=2, padding="same"),
        layers.Conv2DTranspose(20, 2, 2, "same"),
        layers.Dense(60),
        layers.AveragePooling2D(2),
        layers.Dense(2),
    )
    graph = check_onnx(write(model, outputs=VECTOR), tmp_path).graph
    assert len(graph.input) == 1
    # Two of the separable convolution, and one each of the transposed one and the first dense layer.
    assert sum(len(weight.raw_data) > 4096 for weight in graph.initializer) == 4


def test_normalisation_types_and_a_number_a_pixel(write: WriteModel, tmp_path: Path) -> None:
    bands = [{"name": "r", "factor": 0.5, "offset": 1}, {"name": "g"}]
    outputs = [{"name": "a", "dimensions": 0, "type": "double"}]
    check_onnx(write(sequential(layers.Conv2D(1, 1)), bands=bands, outputs=outputs), tmp_path)


def test_a_saved_model_with_several_outputs(write: WriteModel, tmp_path: Path) -> None:
    """In the contract's order, which is not the alphabet's."""
    directory = write(with_signature, file="saved", outputs=TWO[::-1])
    graph = check_onnx(directory, tmp_path).graph
    assert [output.name for output in graph.output] == ["b", "a"]


def test_an_output_named_like_the_input(write: WriteModel, tmp_path: Path) -> None:
    check_onnx(write(sequential(layers.Conv2D(1, 1)), outputs=[{"name": "tiles", "dimensions": 0}]), tmp_path)


def test_a_model_of_one_size(write: WriteModel, tmp_path: Path) -> None:
    model = sequential(layers.Flatten(), layers.Dense(4 * 4), layers.Reshape((4, 4, 1)), shape=(4, 4, 2))
    check_onnx(write(model, tile=[4, 4]), tmp_path, ((4, 4),))


def test_a_table(write: WriteModel, tmp_path: Path) -> None:
    properties = [{"name": name} for name in "pqr"]
    model = sequential(layers.Dense(5, activation="relu"), layers.Dense(3, activation="softmax"), shape=(3,))
    directory = write(model, bands=None, tile=None, scale=None, properties=properties, outputs=VECTOR)
    check_onnx(directory, tmp_path, ((1, 1),))


class Unsupported(Module):
    """Answers with what ONNX has no operator for."""

    def both(self, x: Any) -> dict[str, Any]:
        total = tf.reduce_sum(x, -1)
        return {"a": tf.math.bessel_i0(total) * 1e-9, "b": x}


def unsupported(path: Path) -> None:
    module = Unsupported()
    spec = tf.TensorSpec([None, None, None, 2], tf.float32)
    tf.saved_model.save(module, str(path), tf.function(module.both, input_signature=[spec]))


def test_what_does_not_convert_is_left_out(
    write: WriteModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    export_model(write(unsupported, file="saved", outputs=TWO), tmp_path / "exported")
    assert not (tmp_path / "exported" / ONNX_NAME).exists()
    (record,) = caplog.records
    assert record.getMessage().startswith("the server will run this model as TensorFlow, not with ONNX Runtime: ")
    assert "BesselI0" in record.getMessage()
    assert not capfd.readouterr().out


def test_weights_that_onnx_cannot_hold(
    write: WriteModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnx_framework, "MAX_BYTES", 27)
    directory = write(sequential(layers.Conv2D(2, 1)), outputs=VECTOR)  # 2 x 2 + 2 weights
    export_model(directory, tmp_path / "one")
    assert (tmp_path / "one" / ONNX_NAME).exists()
    monkeypatch.setattr(onnx_framework, "MAX_BYTES", 23)
    export_model(directory, tmp_path / "other")
    assert not (tmp_path / "other" / ONNX_NAME).exists()
    assert "of which ONNX holds" in caplog.text


@pytest.mark.parametrize("build", [unet, lambda: sequential(layers.Conv2D(2, 1))])
def test_nothing_is_said_where_all_agrees(
    write: WriteModel,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    build: Callable[[], Any],
) -> None:
    with caplog.at_level(logging.WARNING):
        export_model(write(build(), source={"multiple": 4}, outputs=VECTOR), tmp_path / "exported")
    assert not caplog.text
    printed = capfd.readouterr()
    assert not printed.out
    assert "WARNING" not in printed.err


def test_the_exported_folder_is_still_a_saved_model(write: WriteModel, tmp_path: Path) -> None:
    directory = write(sequential(layers.Conv2D(2, 1)), outputs=VECTOR)
    export_model(directory, tmp_path / "exported")
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    tiles = random_tiles(ModelContract.read(directory), 4, 4)
    expected = SourceModel(directory).predict(tiles)
    assert_close(loaded.signatures["tiles"](tiles=tf.constant(tiles))["v"].numpy(), expected["v"])
    assert np.isfinite(expected["v"]).all()
