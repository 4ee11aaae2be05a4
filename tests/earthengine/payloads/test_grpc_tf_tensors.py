from __future__ import annotations

import numpy as np
import pytest

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import codec, tensors
from components.earthengine.payloads.messages_pb2 import PredictRequest, PredictResponse
from tests.earthengine.payloads.conftest import outputs_of, tiles_of

GRPC = codec("GRPC_TF_TENSORS")


def test_a_request_looks_as_earth_engine_sends_it(rich: ModelContract) -> None:
    tiles = tiles_of(rich, 2, 3, 4)
    request = PredictRequest.FromString(GRPC.encode_request(rich, tiles))
    found = {name: tensors.decode(proto, name) for name, proto in request.inputs.items()}
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "red": ((2, 3, 4, 1), "float32"),
        "series": ((2, 3, 4, 3), "float32"),
        "patch": ((2, 3, 4, 2, 2), "float32"),
        "quality": ((2, 3, 4, 1), "uint8"),
        "height": ((2, 3, 4, 1), "float64"),
        "year": ((2,), "float32"),
        "winter": ((2,), "bool"),
        "region": ((2,), "object"),
    }
    np.testing.assert_array_equal(found["series"][1, 2, 3], tiles[1, 1:4, 2, 3])


def test_other_shapes_names_and_signatures_are_read(rich: ModelContract) -> None:
    tiles = tiles_of(rich, 2, 3, 4)
    request = PredictRequest.FromString(GRPC.encode_request(rich, tiles))
    request.model_spec.name = "anything"
    request.model_spec.signature_name = "whatever"
    request.inputs["red"].CopyFrom(tensors.encode(tiles[:, 0]))
    request.inputs["year"].CopyFrom(tensors.encode(tiles[:, -3, :1, 0]))
    np.testing.assert_array_equal(GRPC.decode_request(rich, request.SerializeToString()), tiles)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((), r"band green: shape \(\); expected one entry a tile first"),
        ((0, 2, 3, 1), "expected one entry a tile first"),
        ((3, 2, 3, 1), "band green: 3 instances; expected 2"),
        ((2, 3, 2, 1), r"band green: shape \(3, 2, 1\); expected \(2, 3, 1\)"),
        ((2, 6), r"band green: shape \(6,\); expected \(2, 3, 1\)"),
    ],
)
def test_a_bad_band_is_named(plain: ModelContract, shape: tuple[int, ...], said: str) -> None:
    request = PredictRequest.FromString(GRPC.encode_request(plain, tiles_of(plain, 2, 2, 3)))
    request.inputs["green"].CopyFrom(tensors.encode(np.zeros(shape, np.float32)))
    with pytest.raises(PayloadError, match=said):
        GRPC.decode_request(plain, request.SerializeToString())


def test_bands_must_be_those_of_the_contract(plain: ModelContract) -> None:
    with pytest.raises(PayloadError, match="the request's inputs: red is missing, green is missing"):
        GRPC.decode_request(plain, b"")
    with pytest.raises(PayloadError, match="no PredictRequest"):
        GRPC.decode_request(plain, b"\xff")


def test_an_answer_has_a_last_axis(rich: ModelContract) -> None:
    response = PredictResponse.FromString(GRPC.encode_response(rich, outputs_of(rich, 2, 3, 4)))
    shapes = {name: tensors.decode(proto, name).shape for name, proto in response.outputs.items()}
    assert shapes == {"crop": (2, 3, 4, 1), "chances": (2, 3, 4, 5), "covariance": (2, 3, 4, 5, 2)}


def test_an_answer_without_the_last_axis_is_read(plain: ModelContract) -> None:
    response = PredictResponse()
    crop = np.ones((2, 3, 4), np.int32)
    response.outputs["crop"].CopyFrom(tensors.encode(crop))
    np.testing.assert_array_equal(GRPC.decode_response(plain, response.SerializeToString())["crop"], crop)
