"""What every codec does between the wire and a batch: which part of a request fills which channel.

A part is a band or a property. On the wire it is an array with one entry a tile: `[N, H, W, 1]`
for a band, `[N, H, W, L]` for an array-valued one, `[N]` for a property.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads.codec import Outputs, Tiles
from components.earthengine.payloads.tensors import MAX_VALUES

# How a pixel type is carried: double as DT_DOUBLE and the whole numbers as their own types is INFERRED,
# and decoding takes any type.
_WIRE = {"float": "f4", "double": "f8", "number": "f4", "boolean": "?"}


@dataclass(frozen=True)
class Part:
    """A band or a property of a request and the channels that it fills."""

    name: str
    first: int
    channels: int
    shape: tuple[int, ...] | None
    """Of one pixel's value, `()` for a number; None for a property, which has no pixels."""
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{'property' if self.shape is None else 'band'} {self.name}"

    def wire_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of this part of one tile as Earth Engine sends it."""
        return () if self.shape is None else (height, width, *(self.shape or (1,)))

    def size(self, array: NDArray[Any], where: str) -> tuple[int, int]:
        """Height and width of an array `[n, H, W, ...]` of this band."""
        _, height, width = (*array.shape[:3], 0, 0, 0)[:3]
        if array.ndim < 3 or not height or not width:
            expected = ", ".join(("height", "width", *map(str, self.shape or (1,))))
            raise PayloadError(f"{where}: shape {array.shape[1:]}; expected ({expected}), height and width at least 1")
        return height, width

    def fill(self, tiles: Tiles, array: NDArray[Any], where: str) -> None:
        """Copy an array `[n, ...]` of this part to its place in `[n, C, H, W]`, cast to float32."""
        n, _, height, width = tiles.shape
        full = self.wire_shape(height, width)
        # Also a band without the trailing 1, a property with one: Earth Engine's documents leave it open.
        other = (1,) if self.shape is None else (height, width, *self.shape)
        if array.shape[1:] not in (full, other):
            raise PayloadError(
                f"{where}: shape {array.shape[1:]}; expected {full}"
                + ("" if self.shape is None else ", one size for all bands and tiles of a request")
            )
        place = tiles[:, self.first : self.first + self.channels]
        if self.shape is None:
            source = array.reshape(n, 1, 1, 1)
        else:
            source = np.moveaxis(array.reshape(n, height, width, self.channels), 3, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(place, source, casting="unsafe")

    def take(self, tiles: Tiles) -> NDArray[Any]:
        """This part of a batch `[N, C, H, W]` as it is sent: `[N, *wire_shape]` in the band's own type.

        Raises:
            PayloadError: a value that the band's type cannot carry.
        """
        n, _, height, width = tiles.shape
        values = tiles[:, self.first : self.first + self.channels]
        # A property has one value a tile: its channel is constant.
        values = values[:, 0, 0, 0] if self.shape is None else np.moveaxis(values, 1, 3)
        with np.errstate(over="ignore", invalid="ignore"):
            sent = values.astype(self.dtype, order="C")
            same = sent == values
        if self.dtype.kind != "f" and not same.all():
            index = tuple(np.argwhere(~same)[0])
            raise PayloadError(
                f"instance {index[0]}, {self}: value {values[index]} cannot be sent as {self.dtype.name}; "
                "give values of the type that model.yaml declares, or declare another type"
            )
        return sent.reshape(n, *self.wire_shape(height, width))


def parts(contract: ModelContract) -> list[Part]:
    """The bands and properties of a contract in the order of their channels."""
    found: list[Part] = []
    first = 0
    for band in contract.bands:
        found.append(Part(band.name, first, band.channels, band.shape, np.dtype(_WIRE.get(band.type, band.type))))
        first += band.channels
    for prop in contract.properties:
        found.append(Part(prop.name, first, 1, None, np.dtype(_WIRE[prop.type])))
        first += 1
    return found


def new_batch(contract: ModelContract, n: int, size: tuple[int, int], where: str) -> Tiles:
    """Room for n tiles of this height and width, unless that is more than any request can mean."""
    shape = (n, contract.channels, *size)
    if math.prod(shape) > MAX_VALUES:
        raise PayloadError(
            f"{where}: a batch of shape {shape} has more than {MAX_VALUES} values; send fewer or smaller tiles"
        )
    return np.empty(shape, np.float32)


def check_names(found: Collection[str], expected: Collection[str], where: str, what: str) -> None:
    """Refuse names that are missing or surplus; `what` says what they name."""
    if set(found) == set(expected):
        return
    missing = [name for name in expected if name not in found]
    surplus = sorted(set(found) - set(expected))
    faults = [f"{name} is missing" for name in missing[:3]] + [f"{name[:100]!r} is unknown" for name in surplus[:3]]
    raise PayloadError(f"{where}: {', '.join(faults)}; expected the {what} {', '.join(expected)}, as model.yaml says")


def check_tiles(contract: ModelContract, tiles: Tiles) -> Tiles:
    """The tiles of a request, refused unless they are `[N, C, H, W]` of the contract's channels."""
    if tiles.ndim != 4 or tiles.shape[1] != contract.channels or 0 in tiles.shape:
        raise PayloadError(
            f"tiles have shape {tiles.shape}; expected (N, {contract.channels}, height, width), "
            "none of them 0: the contract's bands, then its properties"
        )
    return tiles


def check_outputs(contract: ModelContract, outputs: Outputs, n: int | None = None) -> Outputs:
    """The contract's outputs in its order, a trailing 1 of dimensions 0 dropped.

    Raises:
        PayloadError: an output is missing, surplus, or not of the rank that its dimensions say, or
            there are not n entries, one a tile.
    """
    check_names(outputs, [output.name for output in contract.outputs], "the answer", "outputs")
    checked: Outputs = {}
    for output in contract.outputs:
        array = outputs[output.name]
        if output.dimensions == 0 and array.ndim == 4 and array.shape[3] == 1:
            array = array[..., 0]
        if array.ndim != 3 + output.dimensions or 0 in array.shape:
            expected = ", ".join(("N", "height", "width", "D", "E")[: 3 + output.dimensions])
            raise PayloadError(
                f"output {output.name}: shape {array.shape}; expected ({expected}) "
                f"for dimensions {output.dimensions}, none of them 0"
            )
        n = len(array) if n is None else n
        if len(array) != n:
            raise PayloadError(f"output {output.name}: {len(array)} answers; expected {n}, one a tile")
        checked[output.name] = array
    return checked
