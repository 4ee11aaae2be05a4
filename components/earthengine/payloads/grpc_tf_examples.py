"""GRPC_TF_EXAMPLES: a PredictRequest with one tensor of serialized tf.Example messages, one a tile.

Request: `inputs["input"]` strings `[N]`; the name is documented, but Yggdrasil's exporter, which the only official use
has, calls it `inputs`, so any name will do. A band is a float_list of its values row by row, a string property a
bytes_list (INFERRED; numbers in an int64_list are taken too). Height and width are not sent (see `batches.size_of`).
Response: as GRPC_TF_TENSORS. The guide's name for the format is GRPC_SERIALIZED_TF_EXAMPLES.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import batches, predict_messages, tensors
from components.earthengine.payloads.batches import Part
from components.earthengine.payloads.codec import Outputs, Tiles
from components.earthengine.payloads.grpc_tf_tensors import GrpcTfTensors
from components.earthengine.payloads.messages_pb2 import Example, Feature

_INPUT = "input"


class GrpcTfExamples:
    """The gRPC format of models that read tf.Example, such as decision forests (see `Codec`)."""

    format: PayloadFormat = "GRPC_TF_EXAMPLES"
    transport: Literal["http", "grpc"] = "grpc"

    def encode_request(self, contract: ModelContract, tiles: Tiles) -> bytes:
        """The PredictRequest that Earth Engine would send for these tiles."""
        batches.check_tiles(contract, tiles)
        examples = [Example() for _ in tiles]
        for part in batches.parts(contract):
            for example, values in zip(examples, part.take(tiles), strict=True):
                feature = example.features.feature[part.name]
                if part.values:
                    feature.bytes_list.value.append(values)
                else:
                    feature.float_list.value.extend(values.ravel().tolist())
        serialized = np.empty(len(examples), tensors.STRING)
        serialized[:] = [example.SerializeToString() for example in examples]
        return predict_messages.request({_INPUT: serialized})

    def decode_request(self, contract: ModelContract, body: bytes) -> Tiles:
        """The tiles in a PredictRequest; any model name and signature will do."""
        parts = batches.parts(contract)
        names = [part.name for part in parts]
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for n, example in enumerate(_examples(body)):
            features = example.features.feature
            batches.check_names(features, names, f"instance {n}", "bands and properties")
            for part in parts:
                columns[part.name].append(_values(features[part.name], part, n))
        return batches.gathered(contract, lambda part: _array(contract, part, columns[part.name]))

    def encode_response(self, contract: ModelContract, outputs: Outputs) -> bytes:
        """The PredictResponse that answers with these outputs, each in its array's type."""
        return GrpcTfTensors().encode_response(contract, outputs)

    def decode_response(self, contract: ModelContract, body: bytes) -> Outputs:
        """The outputs in a PredictResponse, in the types that it names."""
        return GrpcTfTensors().decode_response(contract, body)

    def instance_bytes(self, contract: ModelContract, width: int, height: int) -> int:
        """Bytes that one tile of this size takes in a request, with the messages around it."""
        features = 0
        for part in batches.parts(contract):
            if part.values:
                content = tensors.field_bytes(max(len(value.encode()) for value in part.values))
            else:
                content = tensors.field_bytes(4 * part.channels * (width * height if part.has_pixels else 1))
            feature = tensors.field_bytes(content)
            features += tensors.field_bytes(tensors.field_bytes(len(part.name)) + tensors.field_bytes(feature))
        example = tensors.field_bytes(tensors.field_bytes(features))
        # 4: a batch of up to 2^28 tiles takes no more bytes to say so.
        return predict_messages.entry_bytes(_INPUT, tensors.encoded_bytes(tensors.STRING, (1,)) + example + 4)


def _examples(body: bytes) -> list[Example]:
    inputs = predict_messages.parse(body).inputs
    arrays = {name: predict_messages.batch(proto, f"input {name[:100]}") for name, proto in inputs.items()}
    serialized = next((array for array in arrays.values() if array.dtype == tensors.STRING), None)
    if serialized is None or serialized.size != len(serialized):
        said = ", ".join(f"{name[:100]} {array.dtype} {array.shape}" for name, array in arrays.items()) or "nothing"
        raise PayloadError(f"the request's inputs are {said}; expected {_INPUT}, strings (N,), tf.Example messages")
    examples = []
    for n, text in enumerate(serialized.flat):
        try:
            examples.append(Example.FromString(text))
        except DecodeError:
            raise PayloadError(f"instance {n}: {len(text)} bytes are no tf.Example; send one, serialized") from None
    return examples


def _values(feature: Feature, part: Part, n: int) -> NDArray[Any]:
    """The values of a feature, one after the other."""
    kind = feature.WhichOneof("kind")
    allowed = ("bytes_list",) if part.values else ("float_list", "int64_list")
    if kind not in allowed:
        raise PayloadError(f"{part.at(n)}: {kind or 'an empty feature'}; expected a {' or '.join(allowed)}")
    if kind == "float_list":
        return np.array(feature.float_list.value, np.float32)
    if kind == "int64_list":
        return np.array(feature.int64_list.value, np.int64)
    strings = np.empty(len(feature.bytes_list.value), tensors.STRING)
    strings[:] = feature.bytes_list.value
    return strings


def _array(contract: ModelContract, part: Part, rows: list[NDArray[Any]]) -> NDArray[Any]:
    """The values of a part of each tile as `[N, *wire_shape]`."""
    for n, row in enumerate(rows):
        if len(row) != len(rows[0]) or len(row) % part.channels or not len(row):
            raise PayloadError(
                f"{part.at(n)}: {len(row)} values; expected {part.channels} "
                + ("a pixel, as many pixels as instance 0 has" if part.has_pixels else "of them")
            )
    height, width = batches.size_of(contract, len(rows[0]) // part.channels, part.at(0)) if part.has_pixels else (1, 1)
    if not part.has_pixels and len(rows[0]) != part.channels:
        raise PayloadError(f"{part.at(0)}: {len(rows[0])} values; expected {part.channels} of them")
    return np.stack(rows).reshape(len(rows), *part.wire_shape(height, width))
