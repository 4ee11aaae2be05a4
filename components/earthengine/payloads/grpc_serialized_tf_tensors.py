"""GRPC_SERIALIZED_TF_TENSORS: a PredictRequest whose tensors hold what SERIALIZED_TF_TENSORS would send.

Request: `inputs["<band>"]` strings `[N]`, one serialized TensorProto a tile in web-safe base64, for models whose
graph decodes that (`earthengine model prepare`). Response: `outputs["<output>"]` strings `[N]` likewise. That base64
is kept inside gRPC is INFERRED: bare TensorProtos are taken too, and answered in kind (`bare`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import base64_tensors, batches, predict_messages, tensors
from components.earthengine.payloads.codec import Outputs, Tiles

# A TensorProto begins with the tag of its type, 0x08, or of its shape, 0x12; no letter of base64 lies below "+".
_FIRST_LETTER = b"+"


class GrpcSerializedTfTensors:
    """The gRPC format of models made for the default one (see `Codec`).

    Args:
        bare: whether what is encoded holds bare TensorProtos, not base64; decoding takes both.
    """

    format: PayloadFormat = "GRPC_SERIALIZED_TF_TENSORS"
    transport: Literal["http", "grpc"] = "grpc"

    def __init__(self, *, bare: bool = False) -> None:
        self.bare = bare

    def encode_request(self, contract: ModelContract, tiles: Tiles) -> bytes:
        """The PredictRequest that Earth Engine would send for these tiles."""
        sent = base64_tensors.of_tiles(contract, tiles)
        return predict_messages.request({name: self._strings(protos) for name, protos in sent.items()})

    def decode_request(self, contract: ModelContract, body: bytes) -> Tiles:
        """The tiles in a PredictRequest; any model name and signature will do."""
        found = predict_messages.inputs(contract, body)
        protos = {
            part.name: [
                _proto(text, part.at(n))
                for n, text in _texts(predict_messages.batch(found[part.name], str(part)), part)
            ]
            for part in batches.parts(contract)
        }
        return base64_tensors.tiles_of(contract, protos)

    def encode_response(self, contract: ModelContract, outputs: Outputs) -> bytes:
        """The PredictResponse that answers with these outputs, each in its array's type."""
        sent = base64_tensors.of_outputs(contract, outputs)
        return predict_messages.response({name: self._strings(protos) for name, protos in sent.items()})

    def decode_response(self, contract: ModelContract, body: bytes) -> Outputs:
        """The outputs in a PredictResponse, in the types that their TensorProtos name."""
        found = predict_messages.outputs(body)
        batches.check_names(found, [output.name for output in contract.outputs], "the answer", "outputs")
        protos = {
            name: [_proto(text, f"prediction {n}, output {name}") for n, text in _texts(array, f"output {name}")]
            for name, array in found.items()
        }
        return base64_tensors.outputs_of(contract, protos)

    def instance_bytes(self, contract: ModelContract, width: int, height: int) -> int:
        """Bytes that one tile of this size takes in a request, with the messages around it."""
        total = 0
        for part in batches.parts(contract):
            proto = base64_tensors.proto_bytes(part, height, width)
            text = tensors.field_bytes(proto if self.bare else -(-proto * 4 // 3))
            # 4: a batch of up to 2^28 tiles takes no more bytes to say so.
            total += predict_messages.entry_bytes(part.name, tensors.encoded_bytes(tensors.STRING, (1,)) + text + 4)
        return total

    def _strings(self, protos: Sequence[bytes]) -> NDArray[Any]:
        array = np.empty(len(protos), tensors.STRING)
        array[:] = protos if self.bare else [base64_tensors.encode(proto) for proto in protos]
        return array


def is_bare(text: bytes) -> bool:
    """Whether a string is a serialized TensorProto itself, not its base64."""
    return text[:1] < _FIRST_LETTER


def _texts(array: NDArray[Any], part: object) -> Any:
    """The strings of a tensor `[N]`, also `[N, 1]`, numbered."""
    if array.dtype != tensors.STRING or array.size != len(array):
        kind = "strings" if array.dtype == tensors.STRING else array.dtype.name
        raise PayloadError(f"{part}: {kind} of shape {array.shape}; expected strings ({len(array)},), one a tile")
    return enumerate(array.flat)


def _proto(text: bytes, where: str) -> bytes:
    if is_bare(text):
        return text
    try:
        return base64_tensors.decode(text)
    except ValueError as error:
        raise PayloadError(f"{where}: {error}") from None
