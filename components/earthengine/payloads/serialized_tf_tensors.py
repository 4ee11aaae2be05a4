"""SERIALIZED_TF_TENSORS: HTTP, each band of each tile a serialized TensorProto in base64.

Request: `{"instances": [{"<band>": "<TensorProto>", ...}, ...]}`, a tensor `(H, W, 1)` or, for an
array-valued band, `(H, W, L)`; a property `()` (INFERRED, `(1,)` is taken too). Response:
`{"predictions": [...]}`, bare strings of one output, objects of several, tensors `(H, W, D)`,
`(H, W, 1)` for dimensions 0. Base64 is web-safe, as `tf.io.decode_base64` of the official notebooks takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import base64_tensors, batches, json_bodies, json_strings
from components.earthengine.payloads.codec import Outputs, Tiles


class SerializedTfTensors:
    """Earth Engine's default format (see `Codec`)."""

    format: PayloadFormat = "SERIALIZED_TF_TENSORS"
    transport: Literal["http", "grpc"] = "http"

    def encode_request(self, contract: ModelContract, tiles: Tiles) -> bytes:
        """The body that Earth Engine would send for these tiles."""
        return _body("instances", _texts(base64_tensors.of_tiles(contract, tiles)))

    def decode_request(self, contract: ModelContract, body: bytes) -> Tiles:
        """The tiles in the body of a request."""
        parts = batches.parts(contract)
        texts = json_strings.columns(body, [part.name for part in parts])
        try:
            protos = {name: list(map(base64_tensors.decode, sent)) for name, sent in (texts or {}).items()}
        except ValueError:
            protos = {}
        if not protos:
            texts = _columns(contract, json_bodies.items(body, "instances"))
            protos = {part.name: _protos(texts[part.name], part.at) for part in parts}
        return base64_tensors.tiles_of(contract, protos)

    def encode_response(self, contract: ModelContract, outputs: Outputs) -> bytes:
        """The body that answers with these outputs, each in its array's type."""
        texts = _texts(base64_tensors.of_outputs(contract, outputs))
        if len(texts) > 1:
            return _body("predictions", texts)
        # TensorFlow Serving, which Earth Engine's notebooks deploy, drops the name of an only output.
        (only,) = texts.values()
        return b'{"predictions":["%b"]}' % b'","'.join(only)

    def decode_response(self, contract: ModelContract, body: bytes) -> Outputs:
        """The outputs in the body of an answer, in the types that it names."""
        predictions = json_bodies.items(body, "predictions")
        names = [output.name for output in contract.outputs]
        texts: dict[str, list[bytes]] = {name: [] for name in names}
        for n, prediction in enumerate(predictions):
            named = prediction
            if len(names) == 1 and (not isinstance(prediction, dict) or "b64" in prediction):
                named = {names[0]: prediction}
            if not isinstance(named, dict):
                raise PayloadError(
                    f"prediction {n} is {json_bodies.kind(prediction)}; expected an object of {', '.join(names)}"
                )
            batches.check_names(named, names, f"prediction {n}", "outputs")
            for name, found in texts.items():
                found.append(_text(named[name], f"prediction {n}, output {name}"))
        protos = {
            name: _protos(found, lambda n, name=name: f"prediction {n}, output {name}")  # type: ignore[misc]
            for name, found in texts.items()
        }
        return base64_tensors.outputs_of(contract, protos)

    def instance_bytes(self, contract: ModelContract, width: int, height: int) -> int:
        """Bytes that one tile of this size takes in a request, with an envelope of its own."""
        total = len('{"instances":[{}]}')
        for part in batches.parts(contract):
            total += len(f'"{part.name}":"",') + -(-base64_tensors.proto_bytes(part, height, width) * 4 // 3)
        return total


def _body(key: json_bodies.Key, texts: dict[str, list[bytes]]) -> bytes:
    """A body of one object an entry, which needs no escapes: names are words, base64 has no quotes."""
    names = [name.encode() for name in texts]
    objects = (
        b",".join(b'"%b":"%b"' % (name, text) for name, text in zip(names, entry, strict=True))
        for entry in zip(*texts.values(), strict=True)
    )
    return b'{"%b":[{%b}]}' % (key.encode(), b"},{".join(objects))


def _texts(protos: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
    return {name: [base64_tensors.encode(proto) for proto in sent] for name, sent in protos.items()}


def _columns(contract: ModelContract, instances: list[Any]) -> dict[str, list[bytes]]:
    """The base64 of each part of parsed instances."""
    parts = batches.parts(contract)
    names = [part.name for part in parts]
    for n, instance in enumerate(instances):
        if not isinstance(instance, dict):
            raise PayloadError(
                f"instance {n} is {json_bodies.kind(instance)}; expected an object of {', '.join(names)}"
            )
        if n == 0 or instance.keys() != instances[0].keys():
            batches.check_names(instance, names, f"instance {n}", "bands and properties")
    return {
        part.name: [_text(instance[part.name], part.at(n)) for n, instance in enumerate(instances)] for part in parts
    }


def _text(value: Any, where: str) -> bytes:
    """The base64 in a JSON value, a string, also as `{"b64": ...}`."""
    text = value.get("b64") if isinstance(value, dict) and len(value) == 1 else value
    if not isinstance(text, str):
        raise PayloadError(f"{where}: {json_bodies.kind(value)}; expected a string, a TensorProto in base64")
    return text.encode()


def _protos(texts: list[bytes], where: Callable[[int], str]) -> list[bytes]:
    """The serialized TensorProtos in base64."""
    found = []
    for n, text in enumerate(texts):
        try:
            found.append(base64_tensors.decode(text))
        except ValueError as error:
            raise PayloadError(f"{where(n)}: {error}") from None
    return found
