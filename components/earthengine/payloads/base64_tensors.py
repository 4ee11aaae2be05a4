"""Serialized TensorProtos in web-safe base64, one an instance and a part: what two of the formats send.

SERIALIZED_TF_TENSORS carries them in JSON, GRPC_SERIALIZED_TF_TENSORS in string tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pybase64

from components.earthengine.contract import ModelContract
from components.earthengine.payloads import batches, tensors
from components.earthengine.payloads.batches import Part
from components.earthengine.payloads.codec import Outputs, Tiles


def decode(text: bytes) -> bytes:
    """The bytes in base64 of either alphabet, padded or not.

    Raises:
        ValueError: it is not base64.
    """
    plain = text.rstrip(b"=")
    if b"+" in plain or b"/" in plain:
        plain = plain.replace(b"+", b"-").replace(b"/", b"_")
    try:
        return pybase64.b64decode(plain + b"=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        said = text[:20].decode("utf-8", "replace")
        raise ValueError(
            f"{said!r}, {len(text)} characters, is not base64 ({error}); send a TensorProto in web-safe base64"
        ) from None


def encode(data: bytes) -> bytes:
    """Web-safe base64, unpadded as by `tf.io.encode_base64`."""
    return pybase64.urlsafe_b64encode(data).rstrip(b"=")


def tiles_of(contract: ModelContract, protos: Mapping[str, Sequence[bytes]]) -> Tiles:
    """The batch in serialized TensorProtos, one an instance under each part's name."""
    return batches.gathered(contract, lambda part: tensors.parse_all(protos[part.name], part.at))


def of_tiles(contract: ModelContract, tiles: Tiles) -> dict[str, list[bytes]]:
    """Serialized TensorProtos, one an instance under each part's name."""
    batches.check_tiles(contract, tiles)
    return {part.name: tensors.serialize_each(part.take(tiles)) for part in batches.parts(contract)}


def outputs_of(contract: ModelContract, protos: Mapping[str, Sequence[bytes]]) -> Outputs:
    """The outputs in serialized TensorProtos, one a prediction under each output's name."""
    arrays = {
        name: tensors.parse_all(sent, lambda n, name=name: f"prediction {n}, output {name}")  # type: ignore[misc]
        for name, sent in protos.items()
    }
    return batches.check_outputs(contract, arrays)


def of_outputs(contract: ModelContract, outputs: Outputs) -> dict[str, list[bytes]]:
    """Serialized TensorProtos, one a prediction under each output's name."""
    sent = batches.sent_outputs(contract, outputs)
    return {name: tensors.serialize_each(array) for name, array in sent.items()}


def proto_bytes(part: Part, height: int, width: int) -> int:
    """Bytes of the serialized TensorProto of a part of one tile of this size."""
    longest = max(part.values, key=lambda value: len(value.encode()), default=None)
    if longest is None:
        return tensors.encoded_bytes(part.dtype, part.wire_shape(height, width))
    return len(tensors.encode(np.array(longest.encode(), tensors.STRING)).SerializeToString())
