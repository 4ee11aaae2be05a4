"""RAW_JSON: HTTP, named values as plain JSON.

Request: `{"instances": [{"<band>": [[...], ...], ...}, ...]}`, numbers written as strings ("all numerical values will
be converted into JSON strings"), though Google's AutoML notebook converts them itself, so both are taken. The layout
of a band is not documented: `[H, W]`, `[H, W, 1]` and a plain list of all its values are taken (INFERRED). A property
is a number, a string or a boolean. Response: `{"predictions": [{"<output>": ...}, ...]}`, each `[H, W]` or `[H, W, D]`,
of a table a number or a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import batches, json_bodies, json_buffers, json_numbers, tensors
from components.earthengine.payloads.batches import Part
from components.earthengine.payloads.codec import Outputs, Tiles
from components.earthengine.payloads.nd_arrays import BYTES_A_NUMBER

_BOOLEANS = {"true": True, "false": False}


class RawJson:
    """The format of named values, made for tables (see `Codec`)."""

    format: PayloadFormat = "RAW_JSON"
    transport: Literal["http", "grpc"] = "http"

    def encode_request(self, contract: ModelContract, tiles: Tiles) -> bytes:
        """The body that Earth Engine would send for these tiles."""
        batches.check_tiles(contract, tiles)
        columns = {part.name: _texts(part, part.take(tiles)) for part in batches.parts(contract)}
        return json_bodies.body(
            "instances", [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        )

    def decode_request(self, contract: ModelContract, body: bytes) -> Tiles:
        """The tiles in the body of a request."""
        names = [part.name for part in contract.sent]
        arrays = None if contract.properties else json_buffers.bands(body, names)
        found = arrays if arrays is not None else _columns(contract, json_bodies.items(body, "instances"))
        return batches.gathered(contract, lambda part: _laid_out(contract, part, found[part.name]))

    def encode_response(self, contract: ModelContract, outputs: Outputs) -> bytes:
        """The body that answers with these outputs."""
        arrays = {
            name: json_numbers.finite(array, f"output {name}, prediction")
            for name, array in batches.features(contract, batches.check_outputs(contract, outputs)).items()
        }
        count = len(next(iter(arrays.values())))
        return json_bodies.body(
            "predictions", [{name: array[n] for name, array in arrays.items()} for n in range(count)]
        )

    def decode_response(self, contract: ModelContract, body: bytes) -> Outputs:
        """The outputs in the body of an answer, float32; of one output also without its name."""
        predictions = json_bodies.items(body, "predictions")
        names = [output.name for output in contract.outputs]
        named = [
            {names[0]: prediction} if len(names) == 1 and not isinstance(prediction, dict) else prediction
            for prediction in predictions
        ]
        _check(named, names, "prediction", "outputs")
        return batches.check_outputs(
            contract,
            {
                output.name: json_numbers.stacked(
                    [prediction[output.name] for prediction in named],
                    lambda n, name=output.name: f"prediction {n}, output {name}",  # type: ignore[misc]
                    range(6),
                    f"numbers of dimensions {output.dimensions}",
                    strings=True,
                )
                for output in contract.outputs
            },
        )

    def instance_bytes(self, contract: ModelContract, width: int, height: int) -> int:
        """Bytes that one tile of this size takes in a request, numbers as long as Earth Engine reckons them."""
        total = len('{"instances":[{}]}')
        for part in batches.parts(contract):
            longest = max((len(orjson.dumps(value)) for value in part.values), default=BYTES_A_NUMBER + len('""'))
            numbers = part.channels * (width * height if part.has_pixels else 1)
            total += len(f'"{part.name}":,') + longest * numbers + 2 * (height + 1)
        return total


def _check(items: Sequence[Any], names: list[str], what: str, kind: str) -> None:
    for n, item in enumerate(items):
        if not isinstance(item, dict):
            raise PayloadError(f"{what} {n} is {json_bodies.kind(item)}; expected an object of {', '.join(names)}")
        if n == 0 or item.keys() != items[0].keys():
            batches.check_names(item, names, f"{what} {n}", kind)


def _columns(contract: ModelContract, instances: list[Any]) -> dict[str, NDArray[Any]]:
    """The array `[N, ...]` of each part of parsed instances."""
    parts = batches.parts(contract)
    _check(instances, [part.name for part in parts], "instance", "bands and properties")
    columns: dict[str, NDArray[Any]] = {}
    for part in parts:
        values = [instance[part.name] for instance in instances]
        if part.values:
            columns[part.name] = _strings(part, values)
        else:
            if part.dtype.kind == "b":
                values = [_BOOLEANS.get(value, value) if isinstance(value, str) else value for value in values]
            shape = ", ".join(map(str, ["height", "width"] * part.has_pixels + list(part.shape)))
            expected = f"numbers of shape [{shape}]" if shape else "a number"
            columns[part.name] = json_numbers.stacked(values, part.at, range(5), expected, strings=True)
    return columns


def _strings(part: Part, values: list[Any]) -> NDArray[Any]:
    for n, value in enumerate(values):
        if not isinstance(value, str):
            raise PayloadError(
                f"{part.at(n)}: {json_bodies.kind(value)}; expected a string, one of {', '.join(part.values)}"
            )
    array = np.empty(len(values), tensors.STRING)
    array[:] = [value.encode() for value in values]
    return array


def _laid_out(contract: ModelContract, part: Part, array: NDArray[Any]) -> NDArray[Any]:
    """An array `[N, ...]` of a band as `[N, H, W, ...]`, where it came as a plain list."""
    if not part.has_pixels or array.ndim > 2:
        return array
    flat = array.reshape(len(array), -1)
    if not flat.shape[1] or flat.shape[1] % part.channels:
        raise PayloadError(f"{part.at(0)}: {flat.shape[1]} values; expected {part.channels} a pixel")
    height, width = batches.size_of(contract, flat.shape[1] // part.channels, part.at(0))
    return array.reshape(len(array), *part.wire_shape(height, width))


def _texts(part: Part, array: NDArray[Any]) -> list[Any]:
    """The JSON values of a part, one an instance: numbers as strings, a scalar band without its trailing 1."""
    if part.values:
        return [value.decode() for value in array]
    if part.dtype.kind == "b":
        return list(array.tolist())
    if part.has_pixels and not part.shape:
        array = array[..., 0]
    finite = json_numbers.finite(array, f"{part}, instance")
    return [orjson.Fragment(_quoted(orjson.dumps(entry, option=orjson.OPT_SERIALIZE_NUMPY))) for entry in finite]


def _quoted(text: bytes) -> bytes:
    """JSON numbers, alone or in nested lists, as strings."""
    if not text.startswith(b"["):
        return b'"%b"' % text
    # Quotes at each comma between numbers and at each bracket beside one; a tenth of a regular expression's time.
    text = text.replace(b",", b'","').replace(b']","[', b"],[")
    return text.replace(b"[", b'["').replace(b'"[', b"[").replace(b"]", b'"]').replace(b']"', b"]")
