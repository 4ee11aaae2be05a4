"""PredictRequest and PredictResponse of tensorflow.serving.PredictionService, to and from arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import batches, tensors
from components.earthengine.payloads.messages_pb2 import PredictRequest, PredictResponse, TensorProto

GRPC_METHOD = "/tensorflow.serving.PredictionService/Predict"


def request(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A serialized PredictRequest with these inputs."""
    message = PredictRequest()
    for name, array in arrays.items():
        tensors.put(array, message.inputs[name])
    return message.SerializeToString()


def parse(body: bytes) -> PredictRequest:
    """The PredictRequest in a body.

    Raises:
        PayloadError: there is none.
    """
    try:
        return PredictRequest.FromString(body)
    except DecodeError:
        raise PayloadError(
            f"the message is no PredictRequest ({len(body)} bytes); send tensorflow.serving.PredictRequest with inputs"
        ) from None


def inputs(contract: ModelContract, body: bytes) -> Mapping[str, TensorProto]:
    """The tensor of each part of a contract in a PredictRequest.

    Raises:
        PayloadError: no PredictRequest, or a part that is missing or unknown.
    """
    found = parse(body).inputs
    names = [part.name for part in contract.sent]
    batches.check_names(found, names, "the request's inputs", "bands and properties")
    return found


def response(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A serialized PredictResponse with these outputs."""
    message = PredictResponse()
    for name, array in arrays.items():
        tensors.put(array, message.outputs[name])
    return message.SerializeToString()


def outputs(body: bytes) -> dict[str, NDArray[Any]]:
    """The arrays `[N, ...]` in a PredictResponse, under the names that it gives.

    Raises:
        PayloadError: no PredictResponse, or a tensor that is none.
    """
    try:
        found = PredictResponse.FromString(body).outputs
    except DecodeError:
        raise PayloadError(f"{len(body)} bytes are no PredictResponse; expected one with outputs") from None
    return {name: batch(proto, f"output {name[:100]}") for name, proto in found.items()}


def batch(proto: TensorProto, where: str) -> NDArray[Any]:
    """The array `[N, ...]` in a tensor, N at least 1."""
    array = tensors.decode(proto, where)
    if array.ndim == 0 or len(array) == 0:
        raise PayloadError(f"{where}: shape {array.shape}; expected one entry a tile first, at least one")
    return array


def entry_bytes(name: str, proto: int) -> int:
    """Bytes that an input of this name takes in a request, of its TensorProto's bytes."""
    return tensors.field_bytes(tensors.field_bytes(len(name)) + tensors.field_bytes(proto))
