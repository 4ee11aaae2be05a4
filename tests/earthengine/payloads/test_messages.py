"""Our messages against the generator and against TensorFlow's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.earthengine.contract import ModelContract
from components.earthengine.payloads import codec, messages_pb2, tensors
from tests.earthengine.payloads.conftest import outputs_of, tiles_of

ROOT = Path(__file__).parents[3]
FOLDER = Path("components/earthengine/payloads")
GRPC = codec("GRPC_TF_TENSORS")


def test_the_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    out = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *out, str(FOLDER / "messages.proto")]
    subprocess.run(command, cwd=ROOT, check=True)
    for name in ("messages_pb2.py", "messages_pb2.pyi"):
        assert (ROOT / FOLDER / name).read_text() == (tmp_path / FOLDER / name).read_text(), f"regenerate {name}"


@pytest.fixture(scope="module")
def real() -> Any:
    """TensorFlow Serving's messages, in this process beside ours."""
    from tensorflow_serving.apis import predict_pb2

    return predict_pb2


def test_every_field_has_the_number_and_type_that_tensorflow_gives_it(real: Any) -> None:
    from tensorflow.core.example import example_pb2, feature_pb2
    from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
    from tensorflow.core.protobuf import meta_graph_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

    theirs = {
        "TensorProto": tensor_pb2.TensorProto,
        "TensorShapeProto": tensor_shape_pb2.TensorShapeProto,
        "PredictRequest": real.PredictRequest,
        "PredictResponse": real.PredictResponse,
        "ModelSpec": model_pb2.ModelSpec,
        "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
        "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
        "SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
        "SignatureDef": meta_graph_pb2.SignatureDef,
        "TensorInfo": meta_graph_pb2.TensorInfo,
        "Example": example_pb2.Example,
        "Features": feature_pb2.Features,
        "Feature": feature_pb2.Feature,
        "BytesList": feature_pb2.BytesList,
        "FloatList": feature_pb2.FloatList,
        "Int64List": feature_pb2.Int64List,
    }
    assert set(theirs) == set(messages_pb2.DESCRIPTOR.message_types_by_name)
    for name, message in theirs.items():
        for field in messages_pb2.DESCRIPTOR.message_types_by_name[name].fields:
            other = message.DESCRIPTOR.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (
                other.number,
                other.type,
                other.is_repeated,
            )
    for value in messages_pb2.DataType.DESCRIPTOR.values:
        assert types_pb2.DataType.Value(value.name) == value.number


def test_a_request_is_tensorflows_byte_for_byte(real: Any, rich: ModelContract) -> None:
    import tensorflow as tf

    tiles = tiles_of(rich, 2, 3, 4)
    body = GRPC.encode_request(rich, tiles)
    request = real.PredictRequest.FromString(body)
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs["red"])[..., 0], tiles[:, 0])
    rebuilt = real.PredictRequest()
    for name, proto in request.inputs.items():
        rebuilt.inputs[name].ParseFromString(tf.io.serialize_tensor(tf.make_ndarray(proto)).numpy())
    assert rebuilt.SerializeToString(deterministic=True) == request.SerializeToString(deterministic=True)
    np.testing.assert_array_equal(GRPC.decode_request(rich, rebuilt.SerializeToString()), tiles)


def test_an_answer_is_tensorflows(real: Any, rich: ModelContract) -> None:
    import tensorflow as tf

    outputs = outputs_of(rich, 2, 3, 4)
    response = real.PredictResponse.FromString(GRPC.encode_response(rich, outputs))
    assert tf.make_ndarray(response.outputs["chances"]).tolist() == outputs["chances"].tolist()
    response.model_spec.version.value = 3
    decoded = GRPC.decode_response(rich, response.SerializeToString())
    np.testing.assert_array_equal(decoded["covariance"], outputs["covariance"])


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "uint8", "int16", "int32", "int64", "uint16", "bool"]
)
@pytest.mark.parametrize("values", [[0], [1], [0, 1, 1, 0, 1, 0]])
def test_tensors_agree_with_tensorflow_however_they_are_written(real: Any, dtype: str, values: list[int]) -> None:
    import tensorflow as tf

    array = np.resize(np.array(values, dtype), (2, 3, 1))
    same = np.broadcast_to(np.array(values, dtype), (6,)) if len(values) == 1 else np.array(values, dtype)
    written = [
        tf.make_tensor_proto(array),
        tf.make_tensor_proto(same.tolist(), dtype, (2, 3, 1)),
        tf.make_tensor_proto(same[-1].item(), dtype, (2, 3, 1)),
    ]
    for proto in written:
        data = proto.SerializeToString()
        decoded = tensors.parse(data, "it")
        expected = tf.make_ndarray(proto)
        np.testing.assert_array_equal(decoded, expected)
        assert decoded.dtype == expected.dtype
    assert tensors.encode(array).SerializeToString() == tf.io.serialize_tensor(array).numpy()
    parsed = tf.io.parse_tensor(tensors.encode(array).SerializeToString(), dtype)
    np.testing.assert_array_equal(parsed.numpy(), array)
