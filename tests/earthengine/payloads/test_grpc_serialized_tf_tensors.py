from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import codec, tensors
from components.earthengine.payloads.grpc_serialized_tf_tensors import GrpcSerializedTfTensors
from components.earthengine.payloads.messages_pb2 import DataType, PredictRequest, PredictResponse
from tests.earthengine.payloads.conftest import outputs_of, tiles_of

BASE64 = codec("GRPC_SERIALIZED_TF_TENSORS")
BARE = GrpcSerializedTfTensors(bare=True)

WRITINGS: dict[str, Callable[[bytes], bytes]] = {
    "web-safe": base64.urlsafe_b64encode,
    "web-safe unpadded": lambda proto: base64.urlsafe_b64encode(proto).rstrip(b"="),
    "standard": base64.b64encode,
    "standard unpadded": lambda proto: base64.b64encode(proto).rstrip(b"="),
    "bare": lambda proto: proto,
}


def proto(array: Any) -> bytes:
    return tensors.encode(np.asarray(array)).SerializeToString()


def strings(texts: list[bytes], *shape: int) -> Any:
    array = np.empty(len(texts), tensors.STRING)
    array[:] = texts
    return tensors.encode(array.reshape(shape or (len(texts),)))


def request(**texts: list[bytes]) -> bytes:
    made = PredictRequest()
    for name, each in texts.items():
        made.inputs[name].CopyFrom(strings(each))
    return made.SerializeToString()


def test_a_request_looks_as_earth_engine_sends_it(rich: ModelContract) -> None:
    tiles = tiles_of(rich, 2, 3, 4)
    sent = PredictRequest.FromString(BASE64.encode_request(rich, tiles)).inputs
    assert {name: (each.dtype, [dim.size for dim in each.tensor_shape.dim]) for name, each in sent.items()} == {
        name: (DataType.DT_STRING, [2])
        for name in ("red", "series", "patch", "quality", "height", "year", "winter", "region")
    }
    series = tensors.parse(base64.urlsafe_b64decode(sent["series"].string_val[1] + b"=="), "series")
    np.testing.assert_array_equal(series[2, 3], tiles[1, 1:4, 2, 3])


def test_tensorflow_itself_decodes_a_request(rich: ModelContract) -> None:
    import tensorflow as tf

    tiles = tiles_of(rich, 1, 3, 4)
    (text,) = PredictRequest.FromString(BASE64.encode_request(rich, tiles)).inputs["red"].string_val
    red = tf.io.parse_tensor(tf.io.decode_base64(text), tf.float32)
    np.testing.assert_array_equal(red.numpy()[..., 0], tiles[0, 0])


@pytest.mark.parametrize("first", WRITINGS)
@pytest.mark.parametrize("second", WRITINGS)
def test_every_writing_and_mixture_is_read(plain: ModelContract, first: str, second: str) -> None:
    # Bytes of which web-safe and standard base64 differ.
    red = np.frombuffer(bytes(range(232, 254)) + b"\xfb\x3f", np.float32).reshape(2, 3, 1)
    green = red[::-1]
    pair = [WRITINGS[first](proto(red)), WRITINGS[second](proto(green))]
    tiles = BASE64.decode_request(plain, request(red=pair, green=pair[::-1]))
    np.testing.assert_array_equal(tiles[0], np.stack([red, green])[..., 0])
    np.testing.assert_array_equal(tiles[1], np.stack([green, red])[..., 0])


def test_a_column_of_strings_is_read(plain: ModelContract) -> None:
    tiles = tiles_of(plain, 3, 2, 2)
    sent = PredictRequest.FromString(BASE64.encode_request(plain, tiles))
    sent.inputs["red"].CopyFrom(strings(list(sent.inputs["red"].string_val), 3, 1))
    np.testing.assert_array_equal(BASE64.decode_request(plain, sent.SerializeToString()), tiles)


@pytest.mark.parametrize("each", [BASE64, BARE], ids=["base64", "bare"])
def test_what_is_bare_comes_back_bare(each: GrpcSerializedTfTensors, rich: ModelContract) -> None:
    outputs = outputs_of(rich, 2, 3, 4)
    answer = each.encode_response(rich, outputs)
    for name, found in PredictResponse.FromString(answer).outputs.items():
        assert len(found.string_val) == 2
        for text in found.string_val:
            array = tensors.parse(text if each is BARE else base64.urlsafe_b64decode(text + b"=="), name)
            assert array.shape == {"crop": (3, 4, 1), "chances": (3, 4, 5), "covariance": (3, 4, 5, 2)}[name]
    for reader in (BASE64, BARE):
        for name, array in reader.decode_response(rich, answer).items():
            np.testing.assert_array_equal(array, outputs[name])
    tiles = tiles_of(rich, 2, 3, 4)
    np.testing.assert_array_equal(BASE64.decode_request(rich, each.encode_request(rich, tiles)), tiles)


def test_bare_tensors_take_fewer_bytes_and_instance_bytes_knows(rich: ModelContract) -> None:
    tiles = tiles_of(rich, 1, 9, 7)
    for each in (BASE64, BARE):
        taken = len(each.encode_request(rich, tiles))
        assert taken <= each.instance_bytes(rich, 7, 9) < taken + 100
    assert BARE.instance_bytes(rich, 7, 9) < 0.8 * BASE64.instance_bytes(rich, 7, 9)


GOOD = base64.urlsafe_b64encode(proto(np.zeros((2, 3, 1), np.float32)))


@pytest.mark.parametrize(
    ("green", "said"),
    [
        ([GOOD], "^band green: 1 instances; expected 2, as many as the others have"),
        ([GOOD] * 3, "^band green: 3 instances; expected 2"),
        ([GOOD, GOOD[:-3]], "^instance 1, band green: "),
        ([GOOD, b"a b c d"], "^instance 1, band green: 'a b c d', 7 characters, is not base64"),
        ([GOOD, GOOD[:5] + b"!" + GOOD[6:]], "^instance 1, band green: .* is not base64"),
        ([GOOD, b""], "^instance 1, band green: the tensor's type is DT_INVALID"),
        ([GOOD, proto(np.zeros((2, 3, 1), np.float32))[:-1]], "^instance 1, band green: .* are no TensorProto"),
        ([GOOD, proto(np.zeros((3, 2, 1), np.float32))], r"^instance 1, band green: float32 of shape \(3, 2, 1\)"),
        ([GOOD, proto(np.zeros((2, 3, 1)))], r"^instance 1, band green: float64 of shape"),
        ([proto(np.array(b"a", object))] * 2, "^instance 0, band green: "),
    ],
)
def test_a_bad_tile_is_named(plain: ModelContract, green: list[bytes], said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        BASE64.decode_request(plain, request(red=[GOOD] * 2, green=green))


def test_a_tensor_of_numbers_is_refused(plain: ModelContract) -> None:
    sent = PredictRequest.FromString(request(red=[GOOD] * 2, green=[GOOD] * 2))
    sent.inputs["green"].CopyFrom(tensors.encode(np.zeros((2, 2, 3, 1), np.float32)))
    with pytest.raises(PayloadError, match=r"^band green: float32 of shape \(2, 2, 3, 1\); expected strings \(2,\)"):
        BASE64.decode_request(plain, sent.SerializeToString())
    sent.inputs["green"].CopyFrom(strings([GOOD] * 4, 2, 2))
    with pytest.raises(PayloadError, match=r"^band green: strings of shape \(2, 2\); expected strings \(2,\)"):
        BASE64.decode_request(plain, sent.SerializeToString())


def test_bands_must_be_those_of_the_contract(plain: ModelContract) -> None:
    with pytest.raises(PayloadError, match=r"green is missing, 'blue' is unknown; expected .* red, green"):
        BASE64.decode_request(plain, request(red=[GOOD], blue=[GOOD]))
    with pytest.raises(PayloadError, match="no PredictRequest"):
        BASE64.decode_request(plain, b"\xff")


def test_a_bad_answer_is_named(plain: ModelContract) -> None:
    answer = PredictResponse()
    answer.outputs["crop"].CopyFrom(strings([GOOD, b"!"]))
    with pytest.raises(
        PayloadError, match=r"^prediction 1, output crop: '!', 1 characters, is not base64|no TensorProto"
    ):
        BASE64.decode_response(plain, answer.SerializeToString())
    answer.outputs["cloud"].CopyFrom(strings([GOOD]))
    with pytest.raises(PayloadError, match="the answer: 'cloud' is unknown; expected the outputs crop"):
        BASE64.decode_response(plain, answer.SerializeToString())
