from __future__ import annotations

import base64
from typing import Any

import numpy as np
import orjson
import pytest

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import codec, tensors
from tests.earthengine.payloads.conftest import outputs_of, tiles_of

SERIALIZED = codec("SERIALIZED_TF_TENSORS")


def proto(array: Any) -> bytes:
    return tensors.encode(np.asarray(array)).SerializeToString()


def text(array: Any) -> str:
    return base64.urlsafe_b64encode(proto(array)).decode()


def body(*instances: Any) -> bytes:
    return orjson.dumps({"instances": instances})


def instance(**parts: Any) -> dict[str, Any]:
    zeros = np.zeros((2, 3, 1), np.float32)
    return {"red": text(zeros), "green": text(zeros), **parts}


def test_a_request_looks_as_earth_engine_sends_it(rich: ModelContract) -> None:
    tiles = tiles_of(rich, 2, 3, 4)
    instances = orjson.loads(SERIALIZED.encode_request(rich, tiles))["instances"]
    assert [list(each) for each in instances] == [
        ["red", "series", "patch", "quality", "height", "year", "winter", "region"]
    ] * 2
    found = {name: tensors.parse(base64.urlsafe_b64decode(value + "=="), name) for name, value in instances[1].items()}
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "red": ((3, 4, 1), "float32"),
        "series": ((3, 4, 3), "float32"),
        "patch": ((3, 4, 2, 2), "float32"),
        "quality": ((3, 4, 1), "uint8"),
        "height": ((3, 4, 1), "float64"),
        "year": ((), "float32"),
        "winter": ((), "bool"),
        "region": ((), "object"),
    }
    np.testing.assert_array_equal(found["series"][2, 3], tiles[1, 1:4, 2, 3])
    np.testing.assert_array_equal(found["patch"][2, 3].ravel(), tiles[1, 4:8, 2, 3])


def test_every_writing_of_base64_is_read(plain: ModelContract) -> None:
    red = np.frombuffer(bytes(range(232, 254)) + b"\xfb\x3f", np.float32).reshape(2, 3, 1)
    web = base64.urlsafe_b64encode(proto(red)).decode()
    standard = base64.b64encode(proto(red)).decode()
    assert "_" in web
    for value in (web, web.rstrip("="), standard, standard.rstrip("="), {"b64": standard}, {"b64": web}):
        tiles = SERIALIZED.decode_request(plain, body(instance(red=value)))
        np.testing.assert_array_equal(tiles[0, 0], red[..., 0])


def test_slashes_may_be_escaped_as_some_encoders_do(plain: ModelContract) -> None:
    red = np.full((2, 3, 1), np.frombuffer(b"\xff\xff\xff\x3f", np.float32)[0])
    escaped = body(instance(red=base64.b64encode(proto(red)).decode())).replace(b"/", b"\\/")
    assert b"\\/" in escaped
    np.testing.assert_array_equal(SERIALIZED.decode_request(plain, escaped)[0, 0], red[..., 0])


def test_other_shapes_and_types_are_read(rich: ModelContract) -> None:
    tiles = tiles_of(rich, 1, 2, 3)
    sent = orjson.loads(SERIALIZED.encode_request(rich, tiles))["instances"][0]
    sent["red"] = text(tiles[0, 0].astype(np.int16))
    sent["year"] = text(tiles[0, -3, :1, 0].astype(np.float64))
    np.testing.assert_array_equal(SERIALIZED.decode_request(rich, body(sent)), tiles)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"red": 1}, "instance 1, band red: a number; expected a string"),
        ({"red": None}, "instance 1, band red: null"),
        ({"red": "é"}, "is not base64"),
        ({"red": "a" * 5}, "is not base64"),
        ({"red": "a b="}, "is not base64"),
        ({"red": "____"}, "instance 1, band red: 3 bytes that are no TensorProto"),
        (
            {"red": text(np.zeros((3, 2, 1), np.float32))},
            r"1, band red: .*shape \(3, 2, 1\); expected .*shape \(2, 3, 1\)",
        ),
        (
            {"red": text(np.zeros((2, 3, 2), np.float32))},
            r"1, band red: .*shape \(2, 3, 2\); expected .*shape \(2, 3, 1\)",
        ),
        ({"green": text(np.float32(0))}, r"instance 1, band green: float32 of shape \(\)"),
        (
            {"blue": text(np.float32(0))},
            "instance 1: 'blue' is unknown; expected the bands and properties red, green",
        ),
    ],
)
def test_a_bad_instance_is_named(plain: ModelContract, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        SERIALIZED.decode_request(plain, body(instance(), instance(**changed)))


@pytest.mark.parametrize("shape", [(0, 3, 1), (2, 0, 1), (6,), ()])
def test_the_first_band_must_have_a_size(plain: ModelContract, shape: tuple[int, ...]) -> None:
    with pytest.raises(PayloadError, match=r"instance 0, band red: shape .*; expected \(height, width, 1\)"):
        SERIALIZED.decode_request(plain, body(instance(red=text(np.zeros(shape, np.float32)))))


def test_a_small_body_cannot_ask_for_much_memory(plain: ModelContract) -> None:
    from components.earthengine.payloads.messages_pb2 import TensorProto

    one = TensorProto(dtype="DT_FLOAT", float_val=[1])
    for size in (4000, 4000, 1):
        one.tensor_shape.dim.add(size=size)
    value = base64.urlsafe_b64encode(one.SerializeToString()).decode()
    with pytest.raises(PayloadError, match=r"a batch of shape \(1, 2, 4000, 4000\) has more than"):
        SERIALIZED.decode_request(plain, body({"red": value, "green": value}))


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "not JSON"),
        (b'{"instances": [NaN]}', "not JSON"),
        (b"[]", 'no key "instances"'),
        (b'{"instance": []}', 'no key "instances"'),
        (b'{"instances": []}', "an empty list"),
        (b'{"instances": {}}', "an object"),
        (b'{"instances": [[1]]}', "instance 0 is a list; expected an object of red, green"),
        (b'{"instances": [{}]}', "instance 0: red is missing, green is missing"),
    ],
)
def test_a_bad_body_is_explained(plain: ModelContract, sent: bytes, said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        SERIALIZED.decode_request(plain, sent)


def test_one_output_is_bare_and_several_are_named(plain: ModelContract, rich: ModelContract) -> None:
    single = orjson.loads(SERIALIZED.encode_response(plain, outputs_of(plain, 2, 3, 4)))["predictions"]
    assert [type(each) for each in single] == [str, str]
    assert "=" not in single[0]
    assert tensors.parse(base64.urlsafe_b64decode(single[0] + "=="), "").shape == (3, 4, 1)
    several = orjson.loads(SERIALIZED.encode_response(rich, outputs_of(rich, 2, 3, 4)))["predictions"]
    assert [list(each) for each in several] == [["crop", "chances", "covariance"]] * 2


def test_other_answers_are_read(plain: ModelContract) -> None:
    crop = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for value in (text(crop), text(crop[..., None]), {"crop": text(crop)}, {"b64": text(crop)}):
        answer = orjson.dumps({"predictions": [value], "deployedModelId": "7"})
        decoded = SERIALIZED.decode_response(plain, answer)["crop"]
        np.testing.assert_array_equal(decoded, crop[None])
        assert decoded.dtype == np.uint8


@pytest.mark.parametrize(
    ("predictions", "said"),
    [
        ([1], "prediction 0, output crop: a number"),
        (
            [text(np.zeros((2, 2))), text(np.zeros((2, 3)))],
            r"prediction 1, output crop: float64 of shape \(2, 3\)",
        ),
        ([{"crops": ""}], "prediction 0: crop is missing, 'crops' is unknown"),
        ([text(np.zeros(3))], r"output crop: shape \(1, 3\); expected \(N, height, width\)"),
    ],
)
def test_a_bad_answer_is_explained(plain: ModelContract, predictions: list[Any], said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        SERIALIZED.decode_response(plain, orjson.dumps({"predictions": predictions}))


def test_answers_of_several_outputs_must_have_names(rich: ModelContract) -> None:
    with pytest.raises(PayloadError, match="prediction 0 is a string; expected an object of crop, chances"):
        SERIALIZED.decode_response(rich, orjson.dumps({"predictions": [""]}))
