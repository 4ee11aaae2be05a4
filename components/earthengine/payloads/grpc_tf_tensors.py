"""GRPC_TF_TENSORS: a PredictRequest of tensorflow.serving.PredictionService, one tensor a band.

Request: `inputs["<band>"]` `[N, H, W, 1]`, an array-valued band `[N, H, W, L]`, a property `[N]`
or `[N, 1]`. Response: `outputs["<output>"]` `[N, H, W, D]`, `[N, H, W, 1]` for dimensions 0. The messages are
documented; these shapes are INFERRED, so a missing trailing 1 is taken too.
"""

from __future__ import annotations

from typing import Literal

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.payloads import batches, predict_messages, tensors
from components.earthengine.payloads.codec import Outputs, Tiles


class GrpcTfTensors:
    """The plainest of the gRPC formats (see `Codec`)."""

    format: PayloadFormat = "GRPC_TF_TENSORS"
    transport: Literal["http", "grpc"] = "grpc"

    def encode_request(self, contract: ModelContract, tiles: Tiles) -> bytes:
        """The PredictRequest that Earth Engine would send for these tiles."""
        batches.check_tiles(contract, tiles)
        return predict_messages.request({part.name: part.take(tiles) for part in batches.parts(contract)})

    def decode_request(self, contract: ModelContract, body: bytes) -> Tiles:
        """The tiles in a PredictRequest; any model name and signature will do."""
        inputs = predict_messages.inputs(contract, body)
        return batches.gathered(contract, lambda part: predict_messages.batch(inputs[part.name], str(part)))

    def encode_response(self, contract: ModelContract, outputs: Outputs) -> bytes:
        """The PredictResponse that answers with these outputs, each in its array's type."""
        return predict_messages.response(batches.sent_outputs(contract, outputs))

    def decode_response(self, contract: ModelContract, body: bytes) -> Outputs:
        """The outputs in a PredictResponse, in the types that it names."""
        return batches.check_outputs(contract, predict_messages.outputs(body))

    def instance_bytes(self, contract: ModelContract, width: int, height: int) -> int:
        """Bytes that one tile of this size takes in a request, with the messages around it."""
        total = 0
        for part in batches.parts(contract):
            if part.values:
                content = tensors.field_bytes(max(len(value.encode()) for value in part.values))
                proto = tensors.encoded_bytes(part.dtype, (1,)) + content
            else:
                proto = tensors.encoded_bytes(part.dtype, (1, *part.wire_shape(height, width)))
            # 4: a batch of up to 2^28 tiles takes no more bytes to say so.
            total += predict_messages.entry_bytes(part.name, proto + 4)
        return total
