"""The gRPC side with the clients that TensorFlow Serving and gRPC publish."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from components.earthengine.contract import ModelContract
from components.earthengine.payloads.messages_pb2 import DataType
from containers.serving import model_metadata
from tests.conftest import contract_of
from tests.serving.conftest import Server, Start

SERVICE = "tensorflow.serving.PredictionService"


def refusal(caught: pytest.ExceptionInfo[grpc.RpcError]) -> tuple[grpc.StatusCode, str]:
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code(), caught.value.details() or ""


def test_predict(sleeper: Server) -> None:
    tiles = np.random.default_rng(0).random((2, 3, 5, 1), np.float32) + 1000
    request = predict_pb2.PredictRequest()
    for name in ("red", "green"):
        request.inputs[name].CopyFrom(tf.make_tensor_proto(tiles))
    with sleeper.channel() as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    np.testing.assert_allclose(tf.make_ndarray(answer.outputs["total"]), tiles * 2)


def test_get_model_metadata(sleeper: Server) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "any"
    with sleeper.channel() as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.GetModelMetadata(request, timeout=30)
        assert answer.model_spec.name == "mixed"
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert answer.metadata["signature_def"].Unpack(signatures)
        for fields in ([], ["signature_def", "other"]):
            del request.metadata_field[:]
            request.metadata_field.extend(fields)
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetModelMetadata(request, timeout=30)
            code, details = refusal(caught)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert details.endswith("allowed: signature_def")
    signature = signatures.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert sorted(signature.inputs) == ["green", "red"]
    assert list(signature.outputs) == ["total"]
    for info in (*signature.inputs.values(), signature.outputs["total"]):
        assert shape_of(info) == [-1, -1, -1, 1]
    assert signature.inputs["red"].dtype == tf.float32.as_datatype_enum


def shape_of(info: Any) -> list[int]:
    return [dim.size for dim in info.tensor_shape.dim]


def test_the_signature_is_of_the_contract() -> None:
    found = model_metadata.signature(
        contract_of(
            bands=[{"name": "series", "shape": [12], "type": "int16"}],
            properties=[{"name": "day"}, {"name": "soil", "type": "string", "values": ["clay", "sand"]}],
            outputs=[{"name": "vector", "dimensions": 1}, {"name": "matrix", "dimensions": 2, "type": "double"}],
        )
    )
    assert {name: (info.dtype, shape_of(info)) for name, info in (*found.inputs.items(), *found.outputs.items())} == {
        "series": (DataType.DT_INT16, [-1, -1, -1, 12]),
        "day": (DataType.DT_FLOAT, [-1]),
        "soil": (DataType.DT_STRING, [-1]),
        "vector": (DataType.DT_FLOAT, [-1, -1, -1, -1]),
        "matrix": (DataType.DT_DOUBLE, [-1, -1, -1, -1, -1]),
    }


def test_the_signature_of_a_table() -> None:
    found = model_metadata.signature(
        contract_of(bands=None, tile=None, scale=None, properties=[{"name": "day"}, {"name": "series", "shape": [3]}])
    )
    shapes = {name: shape_of(info) for name, info in (*found.inputs.items(), *found.outputs.items())}
    assert shapes == {"day": [-1], "series": [-1, 3], "total": [-1]}


@pytest.mark.parametrize("method", [f"/{SERVICE}/Classify", "/another.Service/Predict", "/grpc.health.v1.Health/List"])
def test_an_unknown_method(sleeper: Server, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        sleeper.call(b"", method)
    assert refusal(caught)[0] is grpc.StatusCode.UNIMPLEMENTED


def test_health(sleeper: Server) -> None:
    with sleeper.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="another"), timeout=30)
        assert refusal(caught)[0] is grpc.StatusCode.NOT_FOUND


def test_watch_tells_of_each_change(start: Start) -> None:
    server = start(module="tests.serving.sleeper", SLEEPER_LOADS_S="0.5")
    states: list[int] = []
    seen = threading.Event()
    with server.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=30)

        def follow() -> None:
            try:
                for answer in watch:
                    states.append(answer.status)
                    if len(states) == 2:
                        seen.set()
            except grpc.RpcError:
                pass

        follower = threading.Thread(target=follow)
        follower.start()
        assert seen.wait(20)
        begin = time.monotonic()
        server.process.terminate()
        follower.join(20)
    kind = health_pb2.HealthCheckResponse
    assert states == [kind.NOT_SERVING, kind.SERVING, kind.NOT_SERVING]
    assert server.end()[0] == 0
    # Who watches is not waited for.
    assert time.monotonic() - begin < 5


def test_a_long_error_still_arrives(start: Start, sleeper: Server) -> None:
    """It travels in a header, of which clients take 8 KiB."""
    request = predict_pb2.PredictRequest()
    for letter in "abc":
        request.inputs[letter + "\U0001f30d" * 500].dtype = 1
    with pytest.raises(grpc.RpcError) as caught:
        sleeper.call(request.SerializeToString())
    code, details = refusal(caught)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "red is missing" in details


def test_answers_are_signed(start: Start, one: ModelContract) -> None:
    server = start(module="tests.serving.sleeper", AIP_DEPLOYED_MODEL_ID="42")
    server.wait_for("ready")
    request = predict_pb2.PredictRequest()
    for name in ("red", "green"):
        request.inputs[name].CopyFrom(tf.make_tensor_proto(np.full((1, 1, 1, 1), 1000, np.float32)))
    with server.channel() as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    assert answer.model_spec.version_label == "42"
    assert list(answer.outputs) == ["total"]
