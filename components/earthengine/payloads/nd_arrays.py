"""ND_ARRAYS: HTTP, each tile a nested list of numbers without names.

Request: `{"instances": [tile, ...]}`, a tile `[C, H, W]` (channels first), shown by Earth Engine's
PyTorch notebook and by PRESTO's handler. Response: `{"predictions": [...]}`, each `[H, W]` for
dimensions 0 and `[H, W, D]` for 1 (channels last). One output only, since it has no name on the wire.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract, Output, PayloadFormat
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import batches, json_bodies
from components.earthengine.payloads.codec import Outputs, Tiles

# What Earth Engine reckons with when it packs tiles: 713 tiles of 206 numbers in 1,500,000 bytes
# (DERIVED from the batch that PRESTO's handler was tested with).
BYTES_A_NUMBER = 10


class NdArrays:
    """The format without keys, made for PyTorch models (see `Codec`)."""

    format: PayloadFormat = "ND_ARRAYS"
    transport: Literal["http", "grpc"] = "http"

    def encode_request(self, contract: ModelContract, tiles: Tiles) -> bytes:
        """The body that Earth Engine would send for these tiles."""
        return json_bodies.body("instances", _finite(batches.check_tiles(contract, tiles), "instance"))

    def decode_request(self, contract: ModelContract, body: bytes) -> Tiles:
        """The tiles in the body of a request."""
        instances = json_bodies.items(body, "instances")
        expected = f"[{contract.channels}, height, width]: the bands, each a list of rows"
        tiles = _numbers(instances, "instance", (3,), expected)
        if tiles.shape[1] != contract.channels:
            raise PayloadError(f"instance 0 has shape {list(tiles.shape[1:])}; expected {expected}")
        return tiles

    def encode_response(self, contract: ModelContract, outputs: Outputs) -> bytes:
        """The body that answers with the only output."""
        _only_output(contract)
        (array,) = batches.check_outputs(contract, outputs).values()
        return json_bodies.body("predictions", _finite(array, "prediction"))

    def decode_response(self, contract: ModelContract, body: bytes) -> Outputs:
        """The only output in the body of an answer, float32."""
        output = _only_output(contract)
        predictions = json_bodies.items(body, "predictions")
        expected = str(["height", "width", "D", "E"][: 2 + output.dimensions]).replace("'", "")
        ranks = (2, 3) if output.dimensions == 0 else (2 + output.dimensions,)
        return batches.check_outputs(contract, {output.name: _numbers(predictions, "prediction", ranks, expected)})

    def instance_bytes(self, contract: ModelContract, width: int, height: int) -> int:
        """Bytes that Earth Engine reckons one tile of this size takes in a request."""
        return BYTES_A_NUMBER * contract.channels * width * height


def _only_output(contract: ModelContract) -> Output:
    if len(contract.outputs) > 1:
        raise PayloadError(
            f"ND_ARRAYS has no names on the wire and carries 1 output, not {len(contract.outputs)}; "
            "use SERIALIZED_TF_TENSORS or GRPC_TF_TENSORS"
        )
    return contract.outputs[0]


def _finite(array: NDArray[Any], what: str) -> NDArray[Any]:
    """The array as orjson takes it, refused where JSON has no word for a number in it."""
    if array.dtype.kind not in "fiub":
        raise PayloadError(f"an array of {array.dtype} has no numbers for JSON; cast it to float32")
    if array.dtype.kind == "f":
        good = np.isfinite(array)
        if not good.all():
            index = tuple(int(i) for i in np.argwhere(~good)[0])
            raise PayloadError(
                f"{what} {index[0]} has {array[index]} at {list(index[1:])}, which JSON cannot carry; "
                "give a finite number there, or use SERIALIZED_TF_TENSORS or GRPC_TF_TENSORS"
            )
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _numbers(items: list[Any], what: str, ranks: tuple[int, ...], expected: str) -> NDArray[np.float32]:
    """The items as one float32 array `[N, ...]`; an error names the first that is at fault."""
    try:
        whole = _array(items)
        fault = None if whole.ndim - 1 in ranks and 0 not in whole.shape else "has"
    except ValueError:
        fault = "has"
    if fault is None:
        return whole
    first: tuple[int, ...] | None = None
    for n, item in enumerate(items):
        try:
            shape = _array(item).shape
        except ValueError as error:
            raise PayloadError(f"{what} {n} {error}; expected {expected}") from None
        if len(shape) not in ranks or 0 in shape:
            raise PayloadError(f"{what} {n} has shape {list(shape)}; expected {expected}")
        if first is not None and shape != first:
            raise PayloadError(
                f"{what} {n} has shape {list(shape)} but {what} 0 has {list(first)}; send all at one size"
            )
        first = shape
    raise AssertionError("items that are good each are good together")


def _array(value: Any) -> NDArray[np.float32]:
    """The float32 array of nested lists of numbers; ValueError says what it is instead."""
    try:
        # Without a type given, so that strings and null show instead of being converted.
        array = np.array(value)
    except ValueError:
        raise ValueError("has rows of different lengths") from None
    if array.dtype.kind not in "fiub" or (array.dtype.kind == "b" and array.ndim == 0):
        raise ValueError("holds something that is not a number")
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise ValueError("holds a number too large for float32")
    return narrow
