"""What every codec does between the wire and a batch: which part of a request fills which channel.

A part is a band or a property. On the wire it is an array with one entry a tile: `[N, H, W, 1]`
for a band, `[N, H, W, L]` for an array-valued one, `[N]` for a property, `[N, L]` for one of a shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import Band, ModelContract, Property
from components.earthengine.errors import PayloadError
from components.earthengine.payloads.codec import Outputs, Tiles
from components.earthengine.payloads.tensors import MAX_VALUES, STRING

# How a pixel type is carried: double as DT_DOUBLE and the whole numbers as their own types is INFERRED,
# and decoding takes any type.
_WIRE = {"float": "f4", "double": "f8", "number": "f4", "boolean": "?", "string": STRING.str}


@dataclass(frozen=True)
class Part:
    """A band or a property of a request and the channels that it fills.

    Attributes:
        name: as Earth Engine sends it.
        first: the first of its channels.
        shape: of one pixel's value or of the property's, `()` for a number.
        dtype: the type that Earth Engine sends; `STRING` for a string.
        values: the strings that a string property can be.
        has_pixels: whether it is a band.
    """

    name: str
    first: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    values: tuple[str, ...]
    has_pixels: bool

    def __str__(self) -> str:
        return f"{'band' if self.has_pixels else 'property'} {self.name}"

    def at(self, n: int) -> str:
        """This part of an instance, as an error names it."""
        return f"instance {n}, {self}"

    @property
    def channels(self) -> int:
        """How many channels it fills."""
        return math.prod(self.shape)

    def wire_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of this part of one tile as Earth Engine sends it."""
        return (height, width, *(self.shape or (1,))) if self.has_pixels else self.shape

    def size(self, array: NDArray[Any]) -> tuple[int, int]:
        """Height and width of an array `[n, H, W, ...]` of this part, 1 and 1 of a property's."""
        if not self.has_pixels:
            return 1, 1
        _, height, width = (*array.shape[:3], 0, 0, 0)[:3]
        if array.ndim < 3 or not height or not width:
            expected = ", ".join(("height", "width", *map(str, self.shape or (1,))))
            raise PayloadError(
                f"{self.at(0)}: shape {array.shape[1:]}; expected ({expected}), height and width at least 1"
            )
        return height, width

    def fill(self, tiles: Tiles, array: NDArray[Any]) -> None:
        """Copy an array `[n, ...]` of this part to its place in `[n, C, H, W]`, cast to float32."""
        n, _, height, width = tiles.shape
        full = self.wire_shape(height, width)
        # Also a band without the trailing 1, a property with one, a matrix as the vector of its elements:
        # Earth Engine's documents leave these open.
        pixels = (height, width) if self.has_pixels else ()
        if array.shape[1:] not in (full, (*pixels, *self.shape), (*pixels, self.channels)):
            raise PayloadError(
                f"{self.at(0)}: shape {array.shape[1:]}; expected {full}"
                + (", one size for all bands and tiles of a request" if self.has_pixels else "")
            )
        place = tiles[:, self.first : self.first + self.channels]
        numbers = self._numbers(array)
        if self.has_pixels:
            source = np.moveaxis(numbers.reshape(n, height, width, self.channels), 3, 1)
        else:
            source = numbers.reshape(n, self.channels, 1, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(place, source, casting="unsafe")

    def take(self, tiles: Tiles) -> NDArray[Any]:
        """This part of a batch `[N, C, H, W]` as it is sent: `[N, *wire_shape]` in the part's own type.

        Raises:
            PayloadError: a value that the part's type cannot carry.
        """
        n, _, height, width = tiles.shape
        values = tiles[:, self.first : self.first + self.channels]
        # A property's channels are constant in each tile.
        values = np.moveaxis(values, 1, 3) if self.has_pixels else values[:, :, 0, 0]
        number = np.dtype("u4") if self.dtype == STRING else self.dtype
        with np.errstate(over="ignore", invalid="ignore"):
            sent = values.astype(number, order="C")
            same = sent == values
        if self.dtype == STRING:
            same &= sent < len(self.values)
        if self.dtype.kind != "f" and not same.all():
            index = tuple(np.argwhere(~same)[0])
            allowed = f"; a string is its place in values, 0 to {len(self.values) - 1}" if self.values else ""
            raise PayloadError(
                f"instance {index[0]}, {self}: value {values[index]} cannot be sent as "
                f"{'string' if self.dtype == STRING else self.dtype.name}; "
                f"give values of the type that model.yaml declares, or declare another type{allowed}"
            )
        if self.dtype == STRING:
            sent = np.array([value.encode() for value in self.values], STRING)[sent]
        return sent.reshape(n, *self.wire_shape(height, width))

    def _numbers(self, array: NDArray[Any]) -> NDArray[Any]:
        """The numbers of an array: itself, or for a string property each string's place in its values."""
        if not self.values:
            if array.dtype == STRING:
                raise PayloadError(f"{self.at(0)}: strings; expected numbers")
            return array
        if array.dtype != STRING:
            raise PayloadError(f"{self.at(0)}: {array.dtype}; expected a string, one of {', '.join(self.values)}")
        places = {value.encode(): place for place, value in enumerate(self.values)}
        for n, value in enumerate(array.flat):
            if value not in places:
                said = bytes(value[:50]).decode("utf-8", "replace")
                raise PayloadError(f"{self.at(n)}: {said!r}; expected one of {', '.join(self.values)}")
        return np.array([places[value] for value in array.flat], np.float32)


def parts(contract: ModelContract) -> list[Part]:
    """The bands and properties of a contract in the order of their channels."""
    found: list[Part] = []
    first = 0
    for sent in contract.sent:
        dtype = np.dtype(_WIRE.get(sent.type, sent.type))
        values = sent.values if isinstance(sent, Property) else ()
        found.append(Part(sent.name, first, sent.shape, dtype, values, isinstance(sent, Band)))
        first += sent.channels
    return found


def new_batch(contract: ModelContract, n: int, size: tuple[int, int]) -> Tiles:
    """Room for n tiles of this height and width, unless that is more than any request can mean."""
    shape = (n, contract.channels, *size)
    if math.prod(shape) > MAX_VALUES:
        raise PayloadError(f"a batch of shape {shape} has more than {MAX_VALUES} values; send fewer or smaller tiles")
    return np.empty(shape, np.float32)


def check_finite(contract: ModelContract, tiles: Tiles) -> Tiles:
    """The tiles of a request, refused where one holds NaN or an infinity, which would spread through a model."""
    if not np.isfinite(tiles).all():
        n, channel, row, column = (int(index) for index in np.argwhere(~np.isfinite(tiles))[0])
        part = next(part for part in reversed(parts(contract)) if part.first <= channel)
        place = f" at row {row}, column {column}" if part.has_pixels else ""
        raise PayloadError(
            f"{part.at(n)}: {tiles[n, channel, row, column]}{place}; expected finite float32 numbers: "
            "unmask or clamp the image, Earth Engine sends masked pixels as 0"
        )
    return tiles


def size_of(contract: ModelContract, pixels: int, where: str) -> tuple[int, int]:
    """Height and width of a tile that came as a plain list of so many pixels, row by row.

    The contract's patch by either reading of its overlap, its tile, or any square.
    """
    (width, height), (beside, above) = contract.tile, contract.overlap
    for extra in (2, 1, 0):
        if (height + extra * above) * (width + extra * beside) == pixels:
            return height + extra * above, width + extra * beside
    side = math.isqrt(pixels)
    if side * side != pixels or not pixels:
        wide, high = contract.patch
        raise PayloadError(
            f"{where}: {pixels} values without a shape are no tile; expected {high * wide}, {high} rows of {wide}, "
            "or a square"
        )
    return side, side


def gathered(contract: ModelContract, array_of: Callable[[Part], NDArray[Any]]) -> Tiles:
    """The batch of the array `[N, ...]` of each part, one read after the other: each may claim all memory allowed.

    Raises:
        PayloadError: arrays that are not of their part's shape, of different lengths, or not finite.
    """
    tiles: Tiles | None = None
    for part in parts(contract):
        array = array_of(part)
        if tiles is None:
            tiles = new_batch(contract, len(array), part.size(array))
        if len(array) != len(tiles):
            raise PayloadError(f"{part}: {len(array)} instances; expected {len(tiles)}, as many as the others have")
        part.fill(tiles, array)
    assert tiles is not None  # noqa: S101  a contract sends something
    return check_finite(contract, tiles)


def check_names(found: Collection[str], expected: Collection[str], where: str, what: str) -> None:
    """Refuse names that are missing or surplus; `what` says what they name."""
    if set(found) == set(expected):
        return
    missing = [name for name in expected if name not in found]
    surplus = sorted(set(found) - set(expected))
    faults = [f"{name} is missing" for name in missing[:3]] + [f"{name[:100]!r} is unknown" for name in surplus[:3]]
    raise PayloadError(f"{where}: {', '.join(faults)}; expected the {what} {', '.join(expected)}, as model.yaml says")


def check_tiles(contract: ModelContract, tiles: Tiles) -> Tiles:
    """The tiles to send, refused unless they are `[N, C, H, W]` of the contract's channels, 1 x 1 for a table."""
    table = contract.table and tiles.shape[2:] != (1, 1)
    if tiles.ndim != 4 or tiles.shape[1] != contract.channels or 0 in tiles.shape or table:
        size = "1, 1" if contract.table else "height, width"
        raise PayloadError(
            f"tiles have shape {tiles.shape}; expected (N, {contract.channels}, {size}), "
            "none of them 0: the contract's bands, then its properties"
        )
    return tiles


def check_outputs(contract: ModelContract, outputs: Outputs, n: int | None = None) -> Outputs:
    """The contract's outputs in its order, a trailing 1 of dimensions 0 dropped, a table's as 1 x 1 pixels.

    Raises:
        PayloadError: an output is missing, surplus, or not of the rank that its dimensions say, or
            there are not n entries, one a tile.
    """
    check_names(outputs, [output.name for output in contract.outputs], "the answer", "outputs")
    checked: Outputs = {}
    for output in contract.outputs:
        array = outputs[output.name]
        if array.dtype == STRING:
            raise PayloadError(f"output {output.name}: strings; expected numbers")
        if contract.table and 0 < array.ndim < 3 + output.dimensions:
            array = array.reshape(len(array), 1, 1, *array.shape[1:])
        if output.dimensions == 0 and array.ndim == 4 and array.shape[3] == 1:
            array = array[..., 0]
        many = contract.table and array.shape[1:3] != (1, 1)
        if array.ndim != 3 + output.dimensions or 0 in array.shape or many:
            size = ("1", "1") if contract.table else ("height", "width")
            expected = ", ".join(("N", *size, "D", "E")[: 3 + output.dimensions])
            raise PayloadError(
                f"output {output.name}: shape {array.shape}; expected ({expected}) "
                f"for dimensions {output.dimensions}, none of them 0"
            )
        n = len(array) if n is None else n
        if len(array) != n:
            raise PayloadError(f"output {output.name}: {len(array)} answers; expected {n}, one a tile")
        checked[output.name] = array
    return checked


def sent_outputs(contract: ModelContract, outputs: Outputs) -> Outputs:
    """The outputs as tensors carry them: `[N, H, W, 1]` for dimensions 0; of a table `[N]`, `[N, D]`.

    Raises:
        PayloadError: see `check_outputs`.
    """
    checked = check_outputs(contract, outputs)
    if contract.table:
        return features(contract, checked)
    return {name: array[..., np.newaxis] if array.ndim == 3 else array for name, array in checked.items()}


def features(contract: ModelContract, outputs: Outputs) -> Outputs:
    """The outputs of a table without their 1 x 1 pixels; those of an image as they are."""
    if not contract.table:
        return outputs
    return {name: array.reshape(len(array), *array.shape[3:]) for name, array in outputs.items()}
