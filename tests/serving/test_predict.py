"""The server answers requests in Earth Engine's formats, and refuses bad ones, on real sockets."""

from __future__ import annotations

import grpc
import httpx
import numpy as np
import orjson
import pytest

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.payloads import CODECS, codec
from tests.serving.conftest import Server, Start

# Of the contract's patch: tf.Example has no shapes.
TILES = np.arange(2 * 2 * 8 * 6, dtype=np.float32).reshape(2, 2, 8, 6)


@pytest.fixture(scope="module", params=["torch_server", "tensorflow_server"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("payload_format", sorted(CODECS.keys() - {"ND_ARRAYS"}))
def test_two_outputs(server: Server, two: ModelContract, payload_format: PayloadFormat) -> None:
    chosen = codec(payload_format)
    body = chosen.encode_request(two, TILES)
    answer = server.post(body).content if chosen.transport == "http" else server.call(body)
    outputs = chosen.decode_response(two, answer)
    np.testing.assert_array_equal(outputs["total"], TILES.sum(1))
    np.testing.assert_array_equal(outputs["pair"], np.moveaxis(TILES, 1, 3) * 2)


def test_health(server: Server) -> None:
    for method in ("GET", "HEAD"):
        assert httpx.request(method, server.url + "/health").status_code == 200
    assert server.call(b"", "/grpc.health.v1.Health/Check") == b"\x08\x01"


def test_nothing_goes_wrong_at_the_start(server: Server) -> None:
    # TensorFlow tells of oneDNN and of missing CUDA drivers before any variable can stop it.
    others = [line for line in server.lines if not line.startswith(("{", "I0000", "WARNING: All log messages before"))]
    assert others == []
    assert [entry["message"].partition(" ")[0] for entry in server.entries[:2]] == ["HTTP", "ready:"]


@pytest.fixture(scope="module")
def one_output(start: Start, archive: object) -> Server:
    routes = {"AIP_HEALTH_ROUTE": "/v1/endpoints/7/deployedModels/8", "AIP_HTTP_PORT": "0"}
    routes["AIP_PREDICT_ROUTE"] = routes["AIP_HEALTH_ROUTE"] + ":predict"
    server = start("--grpc-port", "0", ports=False, AIP_STORAGE_URI=str(archive), **routes)
    server.wait_for("ready")
    return server


@pytest.mark.parametrize("path", ["/predict", "/v1/endpoints/7/deployedModels/8:predict"])
@pytest.mark.parametrize("payload_format", ["SERIALIZED_TF_TENSORS", "ND_ARRAYS"])
def test_the_answer_is_in_the_style_of_the_request(
    one_output: Server, one: ModelContract, payload_format: PayloadFormat, path: str
) -> None:
    chosen = codec(payload_format)
    answer = one_output.post(chosen.encode_request(one, TILES), path)
    assert answer.headers["content-type"] == "application/json"
    np.testing.assert_array_equal(chosen.decode_response(one, answer.content)["total"], TILES.sum(1))
    first = answer.json()["predictions"][0]
    assert isinstance(first, list if payload_format == "ND_ARRAYS" else str)


def test_vertex_ais_routes(one_output: Server) -> None:
    for path in ("/health", "/v1/endpoints/7/deployedModels/8"):
        assert httpx.get(one_output.url + path).status_code == 200
    for answer, status in (
        (httpx.get(one_output.url + "/nowhere"), 404),
        (httpx.get(one_output.url + "/predict"), 405),
    ):
        assert answer.status_code == status
        assert answer.json()["error"]


def test_a_large_request(one_output: Server, one: ModelContract) -> None:
    tiles = np.random.default_rng(0).random((40, 2, 128, 128), dtype=np.float32)
    for chosen in (codec("SERIALIZED_TF_TENSORS"), codec("GRPC_TF_TENSORS")):
        body = chosen.encode_request(one, tiles)
        assert len(body) > 5_000_000
        answer = one_output.post(body).content if chosen.transport == "http" else one_output.call(body)
        total = chosen.decode_response(one, answer)["total"].astype(np.float32)
        np.testing.assert_allclose(total, tiles.sum(1), rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\x00", "not JSON"),
        (b"{}", 'no key "instances"'),
        (b'{"instances": [1]}', "instance 0 is a number; expected an object of red, green"),
        (b'{"instances": [{"red": "", "green": ""}]}', "instance 0, band red"),
        (b'{"instances": [[[[1]]]]}', "instance 0 has shape [1, 1, 1]; expected [2, height, width]"),
        (b'{"instances": [[[[1]], [[2]]]]}', "ND_ARRAYS has no names on the wire"),
    ],
)
def test_a_bad_request_is_refused_and_the_server_goes_on(server: Server, body: bytes, said: str) -> None:
    answer = server.post(body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert said in answer.json()["error"]
    assert httpx.get(server.url + "/health").status_code == 200


def test_a_bad_message_is_refused_and_the_server_goes_on(server: Server, two: ModelContract) -> None:
    for body, said in ((b"\xff", "no PredictRequest"), (b"", "red is missing")):
        with pytest.raises(grpc.RpcError) as caught:
            server.call(body)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert said in (caught.value.details() or "")
    assert server.call(codec("GRPC_TF_TENSORS").encode_request(two, TILES))


def test_a_tile_that_breaks_the_model_is_no_fault_of_the_request(torch_server: Server, two: ModelContract) -> None:
    tiles = np.full((1, 2, 2, 2), 666, np.float32)
    answer = torch_server.post(codec("SERIALIZED_TF_TENSORS").encode_request(two, tiles))
    assert answer.status_code == 500
    assert "the model failed on tiles of shape (1, 2, 2, 2)" in answer.json()["error"]
    with pytest.raises(grpc.RpcError) as caught:
        torch_server.call(codec("GRPC_TF_TENSORS").encode_request(two, tiles))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert torch_server.post(orjson.dumps({})).status_code == 400
