"""SERIALIZED_TF_TENSORS: HTTP, each band of each tile a serialized TensorProto in base64.

Request: `{"instances": [{"<band>": "<TensorProto>", ...}, ...]}`, a tensor `(H, W, 1)` or, for an
array-valued band, `(H, W, L)`; a property `()` (INFERRED, `(1,)` is taken too). Response:
`{"predictions": [...]}`, bare strings of one output, objects of several, tensors `(H, W, D)`,
`(H, W, 1)` for dimensions 0. Base64 is web-safe, as `tf.io.decode_base64` of the official notebooks takes it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import batches, json_bodies, tensors
from components.earthengine.payloads.codec import Outputs, Tiles

_STANDARD = bytes.maketrans(b"-_", b"+/")


class SerializedTfTensors:
    """Earth Engine's default format (see `Codec`)."""

    format: PayloadFormat = "SERIALIZED_TF_TENSORS"
    transport: Literal["http", "grpc"] = "http"

    def encode_request(self, contract: ModelContract, tiles: Tiles) -> bytes:
        """The body that Earth Engine would send for these tiles."""
        batches.check_tiles(contract, tiles)
        sent = {part.name: part.take(tiles) for part in batches.parts(contract)}
        return json_bodies.body(
            "instances", [{name: _text(array[n]) for name, array in sent.items()} for n in range(len(tiles))]
        )

    def decode_request(self, contract: ModelContract, body: bytes) -> Tiles:
        """The tiles in the body of a request."""
        instances = json_bodies.items(body, "instances")
        parts = batches.parts(contract)
        names = [part.name for part in parts]
        tiles: Tiles | None = None
        for n, instance in enumerate(instances):
            if not isinstance(instance, dict):
                raise PayloadError(
                    f"instance {n} is {json_bodies.kind(instance)}; expected an object of {', '.join(names)}"
                )
            batches.check_names(instance, names, f"instance {n}", "bands and properties")
            for part in parts:
                where = f"instance {n}, {part}"
                array = _tensor(instance[part.name], where)[np.newaxis]
                if tiles is None:  # the first part is a band
                    tiles = batches.new_batch(contract, len(instances), part.size(array, where), where)
                part.fill(tiles[n : n + 1], array, where)
        assert tiles is not None  # noqa: S101  there is an instance and a band
        return tiles

    def encode_response(self, contract: ModelContract, outputs: Outputs) -> bytes:
        """The body that answers with these outputs, each in its array's type."""
        shaped = {
            name: array[..., np.newaxis] if array.ndim == 3 else array
            for name, array in batches.check_outputs(contract, outputs).items()
        }
        n = len(next(iter(shaped.values())))
        if len(shaped) == 1:
            # TensorFlow Serving, which Earth Engine's notebooks deploy, drops the name of an only output.
            (array,) = shaped.values()
            return json_bodies.body("predictions", [_text(array[index]) for index in range(n)])
        return json_bodies.body(
            "predictions",
            [{name: _text(array[index]) for name, array in shaped.items()} for index in range(n)],
        )

    def decode_response(self, contract: ModelContract, body: bytes) -> Outputs:
        """The outputs in the body of an answer, in the types that it names."""
        predictions = json_bodies.items(body, "predictions")
        names = [output.name for output in contract.outputs]
        found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        for n, prediction in enumerate(predictions):
            named = prediction
            if len(names) == 1 and (not isinstance(prediction, dict) or "b64" in prediction):
                named = {names[0]: prediction}
            if not isinstance(named, dict):
                raise PayloadError(
                    f"prediction {n} is {json_bodies.kind(prediction)}; expected an object of {', '.join(names)}"
                )
            batches.check_names(named, names, f"prediction {n}", "outputs")
            for name, arrays in found.items():
                array = _tensor(named[name], f"prediction {n}, output {name}")
                if arrays and (array.shape, array.dtype) != (arrays[0].shape, arrays[0].dtype):
                    raise PayloadError(
                        f"prediction {n}, output {name}: {array.dtype.name} of shape {array.shape}; "
                        f"expected {arrays[0].dtype.name} of shape {arrays[0].shape}, as prediction 0 has"
                    )
                arrays.append(array)
        for name, arrays in found.items():
            if arrays[0].size * len(arrays) > tensors.MAX_VALUES:
                raise PayloadError(f"output {name}: more than {tensors.MAX_VALUES} values; ask for fewer tiles")
        return batches.check_outputs(contract, {name: np.stack(arrays) for name, arrays in found.items()})

    def instance_bytes(self, contract: ModelContract, width: int, height: int) -> int:
        """Bytes that one tile of this size takes in a request, with an envelope of its own."""
        total = len('{"instances":[{}]}')
        for part in batches.parts(contract):
            proto = tensors.encoded_bytes(part.dtype, part.wire_shape(height, width))
            total += len(f'"{part.name}":"",') + -(-proto * 4 // 3)
        return total


def _text(array: NDArray[Any]) -> str:
    """Web-safe base64 of the array's TensorProto, unpadded as by `tf.io.encode_base64`."""
    return base64.urlsafe_b64encode(tensors.encode(array).SerializeToString()).rstrip(b"=").decode("ascii")


def _tensor(value: Any, where: str) -> NDArray[Any]:
    """The array in a JSON value; takes either base64 alphabet, padded or not, also as `{"b64": ...}`."""
    text = value.get("b64") if isinstance(value, dict) and len(value) == 1 else value
    if not isinstance(text, str):
        raise PayloadError(f"{where}: {json_bodies.kind(value)}; expected a string, a TensorProto in base64")
    try:
        plain = text.encode("ascii").translate(_STANDARD).rstrip(b"=")
        data = binascii.a2b_base64(plain + b"=" * (-len(plain) % 4), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        reason = "not ASCII" if isinstance(error, UnicodeEncodeError) else str(error)
        raise PayloadError(
            f"{where}: {text[:20]!r}, {len(text)} characters, is not base64 ({reason}); "
            "send a TensorProto in web-safe base64"
        ) from None
    return tensors.parse(data, where)
