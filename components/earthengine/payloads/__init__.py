"""The codecs, one module a payload format, and which there are."""

from __future__ import annotations

from components.earthengine.contract import PayloadFormat
from components.earthengine.payloads.codec import Codec, Outputs, Tiles
from components.earthengine.payloads.detection import grpc_codec, http_codec
from components.earthengine.payloads.grpc_serialized_tf_tensors import GrpcSerializedTfTensors
from components.earthengine.payloads.grpc_tf_examples import GrpcTfExamples
from components.earthengine.payloads.grpc_tf_tensors import GrpcTfTensors
from components.earthengine.payloads.nd_arrays import NdArrays
from components.earthengine.payloads.raw_json import RawJson
from components.earthengine.payloads.serialized_tf_tensors import SerializedTfTensors

__all__ = ["CODECS", "MAX_PAYLOAD_BYTES", "UNTYPED", "Codec", "Outputs", "Tiles", "codec", "grpc_codec", "http_codec"]

# The default of maxPayloadBytes of ee.Model.fromVertexAi, and what a shared public endpoint of
# Vertex AI lets through in either direction ("Custom container requirements for inference").
MAX_PAYLOAD_BYTES = 1_500_000

# Numbers in JSON have no type.
UNTYPED: frozenset[PayloadFormat] = frozenset({"RAW_JSON", "ND_ARRAYS"})

CODECS: dict[PayloadFormat, Codec] = {
    each.format: each
    for each in (
        SerializedTfTensors(),
        RawJson(),
        NdArrays(),
        GrpcTfTensors(),
        GrpcSerializedTfTensors(),
        GrpcTfExamples(),
    )
}


def codec(payload_format: PayloadFormat) -> Codec:
    """The codec of a payload format."""
    return CODECS[payload_format]
