"""GRPC_TF_TENSORS: a PredictRequest of tensorflow.serving.PredictionService, one tensor a band.

Request: `inputs["<band>"]` `[N, H, W, 1]`, an array-valued band `[N, H, W, L]`, a property `[N]`
or `[N, 1]`. Response: `outputs["<output>"]` `[N, H, W, D]`, `[N, H, W, 1]` for dimensions 0. The messages are
documented; these shapes are INFERRED, so a missing trailing 1 is taken too.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import batches, tensors
from components.earthengine.payloads.codec import Outputs, Tiles
from components.earthengine.payloads.messages_pb2 import PredictRequest, PredictResponse


class GrpcTfTensors:
    """The plainest of the gRPC formats (see `Codec`)."""

    format: PayloadFormat = "GRPC_TF_TENSORS"
    transport: Literal["http", "grpc"] = "grpc"

    def encode_request(self, contract: ModelContract, tiles: Tiles) -> bytes:
        """The PredictRequest that Earth Engine would send for these tiles."""
        batches.check_tiles(contract, tiles)
        request = PredictRequest()
        for part in batches.parts(contract):
            request.inputs[part.name].CopyFrom(tensors.encode(part.take(tiles)))
        return request.SerializeToString()

    def decode_request(self, contract: ModelContract, body: bytes) -> Tiles:
        """The tiles in a PredictRequest; any model name and signature will do."""
        try:
            inputs = PredictRequest.FromString(body).inputs
        except DecodeError:
            raise PayloadError(
                f"the message is no PredictRequest ({len(body)} bytes); "
                "send tensorflow.serving.PredictRequest with inputs"
            ) from None
        parts = batches.parts(contract)
        batches.check_names(inputs, [part.name for part in parts], "the request's inputs", "bands and properties")
        tiles: Tiles | None = None
        for part in parts:
            array = _batch(inputs[part.name], str(part))
            if tiles is None:  # the first part is a band
                tiles = batches.new_batch(contract, len(array), part.size(array, str(part)), str(part))
            if len(array) != len(tiles):
                raise PayloadError(
                    f"{part}: {len(array)} instances; expected {len(tiles)}, as many as the other bands have"
                )
            part.fill(tiles, array, str(part))
        assert tiles is not None  # noqa: S101  there is a band
        return tiles

    def encode_response(self, contract: ModelContract, outputs: Outputs) -> bytes:
        """The PredictResponse that answers with these outputs, each in its array's type."""
        response = PredictResponse()
        for name, array in batches.check_outputs(contract, outputs).items():
            shaped = array[..., np.newaxis] if array.ndim == 3 else array
            response.outputs[name].CopyFrom(tensors.encode(shaped))
        return response.SerializeToString()

    def decode_response(self, contract: ModelContract, body: bytes) -> Outputs:
        """The outputs in a PredictResponse, in the types that it names."""
        try:
            outputs = PredictResponse.FromString(body).outputs
        except DecodeError:
            raise PayloadError(
                f"the message is no PredictResponse ({len(body)} bytes); expected one with outputs"
            ) from None
        return batches.check_outputs(
            contract, {name: _batch(proto, f"output {name[:100]}") for name, proto in outputs.items()}
        )

    def instance_bytes(self, contract: ModelContract, width: int, height: int) -> int:
        """Bytes that one tile of this size takes in a request, with the messages around it."""
        total = 0
        for part in batches.parts(contract):
            # 4: a batch of up to 2^28 tiles takes no more bytes to say so.
            proto = tensors.encoded_bytes(part.dtype, (1, *part.wire_shape(height, width))) + 4
            entry = tensors.field_bytes(len(part.name)) + tensors.field_bytes(proto)
            total += tensors.field_bytes(entry)
        return total


def _batch(proto: Any, where: str) -> NDArray[Any]:
    """The array `[N, ...]` in a tensor, N at least 1."""
    array = tensors.decode(proto, where)
    if array.ndim == 0 or len(array) == 0:
        raise PayloadError(f"{where}: shape {array.shape}; expected one entry a tile first, at least one")
    return array
