"""The codecs, one module a payload format, and which there are."""

from __future__ import annotations

from components.earthengine.errors import PayloadError
from components.earthengine.payloads.codec import Codec, Outputs, Tiles
from components.earthengine.payloads.grpc_tf_tensors import GrpcTfTensors
from components.earthengine.payloads.nd_arrays import NdArrays
from components.earthengine.payloads.serialized_tf_tensors import SerializedTfTensors

__all__ = ["CODECS", "MAX_PAYLOAD_BYTES", "Codec", "Outputs", "Tiles", "codec"]

# The default of maxPayloadBytes of ee.Model.fromVertexAi, and what a shared public endpoint of
# Vertex AI lets through in either direction ("Custom container requirements for inference").
MAX_PAYLOAD_BYTES = 1_500_000

CODECS: dict[str, Codec] = {each.format: each for each in (SerializedTfTensors(), NdArrays(), GrpcTfTensors())}


def codec(payload_format: str) -> Codec:
    """The codec of a payload format.

    Raises:
        PayloadError: no codec of this name; the text names those there are.
    """
    try:
        return CODECS[payload_format]
    except KeyError:
        raise PayloadError(
            f"payload format {payload_format} has no codec; there are {', '.join(CODECS)}: "
            "set payload_format in model.yaml to one of these"
        ) from None
