"""Cuts an image into tiles with overlap as Earth Engine does, packs them, stitches the answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ContractError
from components.earthengine.payloads import MAX_PAYLOAD_BYTES, codec


@dataclass(frozen=True)
class Grid:
    """The tiles that cover an image of width x height pixels, row by row from the top left.

    Tiles at the right and bottom edge reach beyond the image, as do the overlaps of all outer
    tiles; Earth Engine sends 0 there, as for every masked pixel.
    """

    width: int
    height: int
    tile: tuple[int, int]
    overlap: tuple[int, int]

    @classmethod
    def over(cls, contract: ModelContract, width: int, height: int) -> Grid:
        """The grid of a contract's tiles over an image."""
        return cls(width, height, contract.tile, contract.overlap)

    @property
    def origins(self) -> list[tuple[int, int]]:
        """Left and top pixel of each tile without its overlap."""
        across, down = self.tile
        return [(x, y) for y in range(0, self.height, down) for x in range(0, self.width, across)]

    def cut(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Tiles `[N, C, tile height + 2 overlap, tile width + 2 overlap]` of an image `[C, height, width]`."""
        beside, above = self.overlap
        return self.cut_inner(np.pad(image, ((0, 0), (above, above), (beside, beside))))

    def cut_inner(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same tiles of an image that has the overlap around it: `[C, height + 2 overlap, width + 2 overlap]`."""
        across, down = self.tile
        beside, above = self.overlap
        padded = np.pad(image, ((0, 0), (0, -self.height % down), (0, -self.width % across)))
        return np.stack([padded[:, y : y + down + 2 * above, x : x + across + 2 * beside] for x, y in self.origins])

    def stitch(self, answers: NDArray[np.generic]) -> NDArray[np.generic]:
        """The image `[height, width, ...]` of answers `[N, patch height, patch width, ...]`.

        The overlap is dropped, as Earth Engine does.
        """
        across, down = self.tile
        beside, above = self.overlap
        image = np.empty((self.height, self.width, *answers.shape[3:]), answers.dtype)
        for answer, (x, y) in zip(answers, self.origins, strict=True):
            wide, high = min(across, self.width - x), min(down, self.height - y)
            image[y : y + high, x : x + wide] = answer[above : above + high, beside : beside + wide]
        return image


def pack(count: int, instance_bytes: int, limit: int = MAX_PAYLOAD_BYTES) -> Iterator[slice]:
    """Slices of `count` instances, as many to a request as fit its limit in bytes.

    Raises:
        ContractError: not even one instance fits.
    """
    at_once = limit // instance_bytes
    if at_once < 1:
        raise ContractError(
            f"one tile takes {instance_bytes:,} bytes, a request at most {limit:,}; "
            "declare a smaller tile in model.yaml"
        )
    for start in range(0, count, at_once):
        yield slice(start, min(start + at_once, count))


def check_payload(contract: ModelContract) -> str:
    """What one tile of the contract, or one feature of a table, takes of a request, in a sentence.

    Raises:
        ContractError: more than a request may hold; the text names the largest square tile that fits.
    """
    taken = _tile_bytes(contract, contract.tile)
    if contract.table:
        return f"a feature takes {taken:,} of {MAX_PAYLOAD_BYTES:,} bytes in {contract.payload_format}"
    width, height = contract.patch
    what = (
        f"a patch of {width} x {height} pixels takes {taken:,} of {MAX_PAYLOAD_BYTES:,} bytes "
        f"in {contract.payload_format}"
    )
    largest = _largest_square(contract)
    if taken <= MAX_PAYLOAD_BYTES:
        return f"{what}; the largest square tile is {largest} x {largest}"
    if largest < 1:
        raise ContractError(
            f"{what}; with overlap {list(contract.overlap)} no tile fits: declare less overlap or fewer bands "
            "in model.yaml"
        )
    raise ContractError(
        f"{what}; the largest square tile that fits is {largest} x {largest}: declare tile [{largest}, {largest}] or "
        "smaller in model.yaml"
    )


def _largest_square(contract: ModelContract) -> int:
    """Pixels along the largest square tile that fits in a request; 0 if none does."""
    fits, too_large = 0, MAX_PAYLOAD_BYTES
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if _tile_bytes(contract, (middle, middle)) <= MAX_PAYLOAD_BYTES:
            fits = middle
        else:
            too_large = middle
    return fits


def _tile_bytes(contract: ModelContract, tile: tuple[int, int]) -> int:
    width, height = (size + 2 * beside for size, beside in zip(tile, contract.overlap, strict=True))
    return codec(contract.payload_format).instance_bytes(contract, width, height)
