from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import codec, predict_messages, tensors
from components.earthengine.payloads.messages_pb2 import Example, PredictRequest
from tests.earthengine.payloads.conftest import PLAIN, tiles_of

EXAMPLES = codec("GRPC_TF_EXAMPLES")
# Its patch is 8 x 5 by one reading of the overlap, 6 x 4 by the other, and 4 x 3 without any.
WIDE = ModelContract.parse(PLAIN.replace("tile: [4, 4]", "tile: [4, 3]\noverlap: [2, 1]"))
FEATURE: dict[str, list[Any]] = {"area": [1.5], "monthly": [1.0, 2.0, 3.0], "irrigated": [1], "soil": [b"loam"]}


def example(**features: list[Any]) -> bytes:
    """A tf.Example whose lists are of the kind of their first value; an empty one says nothing at all."""
    made = Example()
    for name, values in features.items():
        feature = made.features.feature[name]
        match values:
            case [bytes(), *_]:
                feature.bytes_list.value.extend(values)
            case [int(), *_]:
                feature.int64_list.value.extend(values)
            case [_, *_]:
                feature.float_list.value.extend(values)
    return made.SerializeToString()


def request(*examples: bytes, name: str = "input", shape: tuple[int, ...] | None = None) -> bytes:
    strings = np.empty(len(examples), tensors.STRING)
    strings[:] = examples
    return predict_messages.request({name: strings.reshape(shape or strings.shape)})


def sent_examples(body: bytes) -> list[bytes]:
    inputs = PredictRequest.FromString(body).inputs
    assert list(inputs) == ["input"]
    assert [dim.size for dim in inputs["input"].tensor_shape.dim] == [len(inputs["input"].string_val)]
    return list(inputs["input"].string_val)


@pytest.fixture(scope="module")
def tf() -> Any:
    import tensorflow

    return tensorflow


def test_tensorflow_parses_what_is_sent(tf: Any, rich: ModelContract) -> None:
    tiles = tiles_of(rich, 2, 4, 4)
    examples = sent_examples(EXAMPLES.encode_request(rich, tiles))
    shapes = {
        "red": (4, 4),
        "series": (4, 4, 3),
        "patch": (4, 4, 2, 2),
        "quality": (4, 4),
        "height": (4, 4),
        "year": (),
        "winter": (),
    }
    features = {name: tf.io.FixedLenFeature(shape, tf.float32) for name, shape in shapes.items()}
    parsed = tf.io.parse_example(examples, {**features, "region": tf.io.FixedLenFeature((), tf.string)})
    np.testing.assert_array_equal(parsed["red"], tiles[:, 0])
    np.testing.assert_array_equal(parsed["series"], np.moveaxis(tiles[:, 1:4], 1, 3))
    np.testing.assert_array_equal(parsed["patch"].numpy().reshape(2, 4, 4, 4), np.moveaxis(tiles[:, 4:8], 1, 3))
    np.testing.assert_array_equal(parsed["year"], tiles[:, -3, 0, 0])
    regions = [rich.properties[2].values[int(place)].encode() for place in tiles[:, -1, 0, 0]]
    assert parsed["region"].numpy().tolist() == regions


def test_what_tensorflow_writes_is_read(tf: Any, table: ModelContract) -> None:
    def feature(**kind: Any) -> Any:
        return tf.train.Feature(**kind)

    written = tf.train.Example(
        features=tf.train.Features(
            feature={
                "area": feature(float_list=tf.train.FloatList(value=[1.5])),
                "monthly": feature(int64_list=tf.train.Int64List(value=[1, -2, 3])),
                "irrigated": feature(int64_list=tf.train.Int64List(value=[1])),
                "soil": feature(bytes_list=tf.train.BytesList(value=[b"sand, gravel"])),
            }
        )
    )
    tiles = EXAMPLES.decode_request(table, request(written.SerializeToString()))
    assert tiles.ravel().tolist() == [1.5, 1, -2, 3, 1, 2]


def test_our_bytes_are_tensorflows_example(tf: Any, rich: ModelContract) -> None:
    (ours,) = sent_examples(EXAMPLES.encode_request(rich, tiles_of(rich, 1, 2, 2)))
    theirs = tf.train.Example.FromString(ours)
    theirs.DiscardUnknownFields()
    assert Example.FromString(theirs.SerializeToString()) == Example.FromString(ours)


@pytest.mark.parametrize("name", ["input", "inputs", "serialized_examples", "red"])
@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_the_tensor_may_have_any_name(plain: ModelContract, name: str, shape: tuple[int, ...]) -> None:
    tiles = tiles_of(plain, 2, 3, 3)
    sent = sent_examples(EXAMPLES.encode_request(plain, tiles))
    np.testing.assert_array_equal(EXAMPLES.decode_request(plain, request(*sent, name=name, shape=shape)), tiles)


@pytest.mark.parametrize(("height", "width"), [(5, 8), (4, 6), (3, 4), (3, 3), (7, 7), (1, 1)])
def test_height_and_width_are_the_patchs_the_tiles_or_a_squares(height: int, width: int) -> None:
    tiles = tiles_of(WIDE, 2, height, width)
    np.testing.assert_array_equal(EXAMPLES.decode_request(WIDE, EXAMPLES.encode_request(WIDE, tiles)), tiles)


def test_whole_numbers_are_read_as_int64() -> None:
    green = list(range(12))
    tiles = EXAMPLES.decode_request(WIDE, request(example(red=[float(v) for v in green], green=green)))
    assert tiles[0, 1].tolist() == tiles[0, 0].tolist() == [green[:4], green[4:8], green[8:]]


def test_a_feature_of_a_table_is_read(table: ModelContract) -> None:
    tiles = EXAMPLES.decode_request(table, request(example(**FEATURE), example(**{**FEATURE, "soil": [b"clay"]})))
    assert tiles.shape == (2, 6, 1, 1)
    assert tiles[:, :, 0, 0].tolist() == [[1.5, 1, 2, 3, 1, 1], [1.5, 1, 2, 3, 1, 0]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"area": []}, r"^instance 1, property area: an empty feature; expected a float_list"),
        ({"area": [1.0, 2.0]}, "^instance 1, property area: 2 values; expected 1 of them"),
        ({"area": [b"1.5"]}, "^instance 1, property area"),
        ({"area": [float("nan")]}, "^instance 1, property area: nan; expected finite"),
        ({"monthly": [1.0, 2.0]}, "^instance 1, property monthly: 2 values; expected 3 of them"),
        ({"soil": [1.0]}, "^instance 1, property soil"),
        ({"soil": [1]}, "^instance 1, property soil"),
        ({"soil": [b"Clay"]}, "^instance 1, property soil: 'Clay'; expected one of clay, loam"),
        ({"soil": [b"\xff"]}, "^instance 1, property soil: .*; expected one of clay, loam"),
        ({"soil": [b"clay", b"loam"]}, "^instance 1, property soil: 2 values"),
        ({"slope": [1.0]}, "^instance 1: 'slope' is unknown; expected the bands and properties area, monthly"),
    ],
    ids=str,
)
def test_a_bad_feature_is_named(table: ModelContract, changes: dict[str, list[Any]], said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        EXAMPLES.decode_request(table, request(example(**FEATURE), example(**{**FEATURE, **changes})))


def test_a_missing_feature_is_named(table: ModelContract) -> None:
    without = {name: values for name, values in FEATURE.items() if name != "monthly"}
    with pytest.raises(PayloadError, match=r"^instance 1: monthly is missing"):
        EXAMPLES.decode_request(table, request(example(**FEATURE), example(**without)))


@pytest.mark.parametrize(
    ("green", "said"),
    [
        ([[1.0] * 4, [1.0] * 9], "^instance 1, band green: 9 values; expected 1 a pixel, as many pixels as instance 0"),
        (
            [[1.0] * 5, [1.0] * 5],
            "^instance 0, band green: 5 values without a shape are no tile; expected 16, 4 rows of 4",
        ),
        ([[1.0] * 9, [1.0] * 9], r"^instance 0, band green: shape \(3, 3, 1\); expected \(2, 2, 1\)"),
        ([[b"1"] * 4, [b"1"] * 4], "^instance 0, band green: bytes_list; expected a float_list"),
        ([[1.0] * 4, [b"1"] * 4], "^instance 1, band green: bytes_list; expected a float_list"),
    ],
    ids=["other size", "no tile", "other than red", "strings", "strings in the second"],
)
def test_a_bad_band_is_named(plain: ModelContract, green: list[list[Any]], said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        EXAMPLES.decode_request(plain, request(*(example(red=[1.0] * 4, green=each) for each in green)))


def test_an_array_band_has_so_many_values_a_pixel(rich: ModelContract) -> None:
    (sent,) = sent_examples(EXAMPLES.encode_request(rich, tiles_of(rich, 1, 2, 2)))
    changed = Example.FromString(sent)
    changed.features.feature["series"].float_list.value.append(1)
    with pytest.raises(PayloadError, match=r"^instance 0, band series: 13 values; expected 3 a pixel"):
        EXAMPLES.decode_request(rich, request(changed.SerializeToString()))


def test_a_body_without_examples_is_refused(plain: ModelContract) -> None:
    with pytest.raises(PayloadError, match="the request's inputs are nothing; expected input, strings"):
        EXAMPLES.decode_request(plain, b"")
    with pytest.raises(PayloadError, match=r"the request's inputs are red float32 \(1, 2, 2, 1\)"):
        EXAMPLES.decode_request(plain, predict_messages.request({"red": np.zeros((1, 2, 2, 1), np.float32)}))
    with pytest.raises(PayloadError, match=r"^instance 1: 2 bytes .*are no tf.Example"):
        EXAMPLES.decode_request(plain, request(example(red=[1.0], green=[1.0]), b"\x0a\xff"))
    with pytest.raises(PayloadError, match=r"input object \(2, 2\); expected input, strings"):
        EXAMPLES.decode_request(plain, request(*[example(red=[1.0], green=[1.0])] * 4, shape=(2, 2)))
