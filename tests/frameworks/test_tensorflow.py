from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ContractError, ModelError
from components.export import export_model
from components.frameworks import of, tensorflow
from components.golden import Golden
from components.source import SourceModel
from tests.conftest import WriteModel, assert_close

SIZES = ((1, 1), (5, 13))
TWO = [{"name": "a", "dimensions": 0}, {"name": "b", "dimensions": 1}]
VECTOR = [{"name": "v", "dimensions": 1}]


@pytest.fixture
def write(write_model: WriteModel) -> WriteModel:
    """`write_model` for TensorFlow; the model is a Keras model or a function that saves to a path."""

    def of_tensorflow(model: Any, file: str = "net.keras", source: Any = None, **changes: Any) -> Path:
        save = model.save if isinstance(model, keras.Model) else model
        return write_model(save, framework="tensorflow", model={"file": file} | (source or {}), **changes)

    return of_tensorflow


def random_tiles(contract: ModelContract, height: int, width: int) -> Any:
    return np.random.default_rng(1).normal(0, 9, (2, contract.channels, height, width)).astype(np.float32)


def check_export(directory: Path, tmp_path: Path, sizes: tuple[tuple[int, int], ...] = SIZES) -> list[dict[str, Any]]:
    """Export; the exported model must answer tiles of these sizes as the source model does. The answers."""
    contract = export_model(directory, tmp_path / "exported")
    source = SourceModel(directory)
    batches = [random_tiles(contract, *size) for size in sizes]
    answers = list(map(of(contract).load_exported(tmp_path / "exported"), batches))
    for batch, answer in zip(batches, answers, strict=True):
        expected = source.predict(batch)
        assert sorted(answer) == sorted(expected)
        for name, array in expected.items():
            assert answer[name].dtype == array.dtype
            assert_close(answer[name], array)
    return list(answers)


def convolution(shape: tuple[int | None, ...] = (None, None, 2), **arguments: Any) -> Any:
    return keras.Sequential([keras.Input(shape), keras.layers.Conv2D(3, 3, padding="same", **arguments)])


@pytest.mark.parametrize("shape", [(None, None, 2), (16, 16, 2)])
def test_keras(write: WriteModel, tmp_path: Path, shape: tuple[int | None, ...]) -> None:
    """Built for any size, and built for a fixed one."""
    answers = check_export(write(convolution(shape), outputs=VECTOR), tmp_path)
    assert answers[1]["v"].shape == (2, 5, 13, 3)


@pytest.mark.filterwarnings("ignore:.*HDF5 file.*:UserWarning")
def test_legacy_h5(write: WriteModel, tmp_path: Path) -> None:
    check_export(write(convolution(), file="net.h5", outputs=VECTOR), tmp_path)


def test_fixed_size_channels_first(write: WriteModel, tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((2, 16, 16)), keras.layers.BatchNormalization(axis=1), keras.layers.Permute((2, 3, 1))]
    )
    again = tensorflow.load(
        write(model, source={"layout": "channels_first"}), ModelContract.read(tmp_path / "model"), allow_pickle=False
    )
    assert again.input_shape == (None, 2, None, None)


def test_dropout_and_batch_norm_are_in_evaluation_mode(write: WriteModel, tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((None, None, 2)), keras.layers.BatchNormalization(epsilon=1e-9), keras.layers.Dropout(0.5)]
    )
    directory = write(model, outputs=VECTOR)
    answer = check_export(directory, tmp_path)[1]["v"]
    tiles = random_tiles(ModelContract.read(directory), 5, 13)
    np.testing.assert_allclose(answer, tiles.transpose(0, 2, 3, 1), 1e-4, 1e-4)


def test_multiple_of_32_on_small_tiles(write: WriteModel, tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((None, None, 2)), keras.layers.AveragePooling2D(32), keras.layers.UpSampling2D(32)]
    )
    directory = write(model, source={"multiple": 32}, outputs=VECTOR, tile=[1, 1])
    for answer, (height, width) in zip(check_export(directory, tmp_path), SIZES, strict=True):
        assert answer["v"].shape == (2, height, width, 2)
    single = [tensorflow.load_exported(tmp_path / "exported")(np.full((1, 2, 1, 1), 7, np.float32))]
    assert single[0]["v"].ravel().tolist() == [7, 7]


class Module(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """Two outputs that tell what went in; `given` notes the shape's layout."""

    def __init__(self, channel_axis: int = -1) -> None:
        super().__init__()
        self.weight = tf.Variable(2.0)
        self.channel_axis = channel_axis

    def both(self, x: Any) -> dict[str, Any]:
        total = tf.reduce_sum(tf.cast(x, tf.float32), self.channel_axis)
        return {"b": tf.stack([total, total * self.weight], self.channel_axis), "a": total}


SPEC = tf.TensorSpec([None, None, None, None], tf.float32)


def with_signature(path: Path) -> None:
    module = Module()
    function = tf.function(module.both, input_signature=[SPEC])
    tf.saved_model.save(module, str(path), signatures=function)


def without_signature(as_tuple: bool) -> Callable[[Path], None]:
    class Called(Module):
        @tf.function(input_signature=[SPEC])  # type: ignore[untyped-decorator]  # TensorFlow has no types
        def __call__(self, x: Any) -> Any:
            answer = self.both(x)
            return (answer["a"], answer["b"]) if as_tuple else answer

    return lambda path: tf.saved_model.save(Called(), str(path), signatures={})


@pytest.mark.parametrize("save", [with_signature, without_signature(False), without_signature(True)])
def test_saved_model_of_a_module(write: WriteModel, tmp_path: Path, save: Callable[[Path], None]) -> None:
    directory = write(save, file="saved", outputs=TWO)
    answer = check_export(directory, tmp_path)[1]
    total = random_tiles(ModelContract.read(directory), 5, 13).sum(1)
    np.testing.assert_allclose(answer["a"], total, 1e-5, 1e-5)
    np.testing.assert_allclose(answer["b"][..., 1], 2 * total, 1e-5, 1e-5)


def test_channels_first_module_with_types_and_properties(write: WriteModel, tmp_path: Path) -> None:
    module = Module(1)

    def save(path: Path) -> None:
        spec = tf.TensorSpec([None, 2, None, None], tf.int32)
        tf.saved_model.save(module, str(path), signatures=tf.function(module.both, input_signature=[spec]))

    directory = write(
        save,
        file="saved",
        source={"layout": "channels_first", "type": "int32"},
        bands=[{"name": "red", "factor": 10, "offset": 100}],
        properties=[{"name": "year", "factor": 0.5, "offset": 2}],
        outputs=[{"name": "a", "dimensions": 0, "type": "uint8"}, {"name": "b", "dimensions": 1, "type": "double"}],
    )
    export_model(directory, tmp_path / "exported")
    tiles = np.array([[[[-9.97]], [[4]]]], np.float32)
    answer = tensorflow.load_exported(tmp_path / "exported")(tiles)
    # -9.97 * 10 + 100 = 0.3, cast to 0; 4 * 0.5 + 2 = 4.
    assert answer["a"].dtype == np.uint8
    assert answer["a"].tolist() == [[[4]]]
    assert answer["b"].dtype == np.float64
    assert answer["b"].tolist() == [[[[4, 8]]]]
    assert Golden.load(tmp_path / "exported").outputs["a"].dtype == np.uint8


def test_one_answer_a_patch(write: WriteModel, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)])
    directory = write(model, tile=[2, 2], overlap=[1, 1], output_tile=[1, 1], outputs=VECTOR)
    assert check_export(directory, tmp_path, ((4, 4),))[0]["v"].shape == (2, 1, 1, 3)


def test_one_answer_a_patch_of_one_size_only(write: WriteModel, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Flatten(), keras.layers.Dense(3)])
    directory = write(model, tile=[4, 4], output_tile=[1, 1], outputs=VECTOR)
    assert check_export(directory, tmp_path, ((4, 4),))[0]["v"].shape == (2, 1, 1, 3)


def test_lambda_layer_is_refused(write: WriteModel) -> None:
    model = keras.Sequential([keras.Input((None, None, 2)), keras.layers.Lambda(lambda x: x * 2)])
    with pytest.raises(ModelError, match=r"net.keras cannot be loaded: .*[Ll]ambda.*; save the model again"):
        SourceModel(write(model, outputs=VECTOR))


@pytest.mark.parametrize("file", ["net.keras", "net.h5"])
def test_corrupt_model_file(write: WriteModel, file: str) -> None:
    with pytest.raises(ModelError, match=rf"{file} cannot be loaded: .*; save the model again"):
        SourceModel(write(lambda path: path.write_bytes(b"garbage"), file=file))


def test_corrupt_saved_model(write: WriteModel) -> None:
    def save(path: Path) -> None:
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"garbage")

    with pytest.raises(
        ModelError, match=r"saved is refused: saved_model.pb is none .*; if it is your own model, save it again"
    ):
        SourceModel(write(save, file="saved"))


def test_missing_and_unknown_files(write: WriteModel) -> None:
    with pytest.raises(
        ModelError, match=r"net.keras, which model.yaml names as model.file, does not exist; put the tr"
    ):
        SourceModel(write(None))
    with pytest.raises(
        ModelError, match=r"net.txt is of no kind that is known; allowed: a .keras or .h5 file, a SavedMo"
    ):
        SourceModel(write(lambda path: path.touch(), file="net.txt"))


def test_saved_model_that_cannot_be_called(write: WriteModel) -> None:
    with pytest.raises(ModelError, match="neither a serving_default signature nor a __call__; save it with one"):
        SourceModel(write(lambda path: tf.saved_model.save(tf.Module(), str(path)), file="saved"))


def test_saved_model_with_an_input_a_band(write: WriteModel) -> None:
    def save(path: Path) -> None:
        module = tf.Module()
        module.add = tf.function(lambda red, green: {"a": red + green}, input_signature=[SPEC, SPEC])
        tf.saved_model.save(module, str(path), signatures=module.add)

    with pytest.raises(ModelError, match=r"takes 2 inputs \(green, red\), not one image; save it with one input"):
        SourceModel(write(save, file="saved"))


@pytest.mark.parametrize("names", ["r", "rgb"])
def test_too_many_or_few_bands(write: WriteModel, tmp_path: Path, names: str) -> None:
    directory = write(convolution(), bands=[{"name": name} for name in names], outputs=VECTOR)
    said = rf"declares: {len(names)} channels \({', '.join(names)}\), channels_last, float32 of shape \[4, 16, 16, "
    with pytest.raises(ContractError, match=said + r".*it says: .*takes 2 channels; correct bands, model.layout"):
        export_model(directory, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_wrong_layout(write: WriteModel, tmp_path: Path) -> None:
    directory = write(convolution(), source={"layout": "channels_first"}, outputs=VECTOR)
    with pytest.raises(ContractError, match=r"channels_first, float32 of shape \[4, 2, 16, 16\].*it says: .*[Ii]nput"):
        export_model(directory, tmp_path / "exported")


def test_wrong_rank_of_output(write: WriteModel, tmp_path: Path) -> None:
    with pytest.raises(
        ContractError, match=r"output total .* \[4, 16, 16, 3\] \(channels_last\).*declare dimensions: 1"
    ):
        export_model(write(convolution()), tmp_path / "exported")


def test_a_layer_that_tensorflow_cannot_trace_is_named(write: WriteModel, tmp_path: Path) -> None:
    """Keras 3.15 computes the sizes of this one in Python."""
    model = keras.Sequential([keras.Input((None, None, 2)), keras.layers.UpSampling2D(interpolation="bilinear")])
    with pytest.raises(ModelError, match=r"cannot be exported for tiles of any size: .*calling UpSampling2D\.call\(\)"):
        export_model(write(model, outputs=VECTOR), tmp_path / "exported")
