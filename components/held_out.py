"""Held-out data: the tiles that a challenger and a champion are both asked for, and what is true there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data import Labelled
from components.earthengine.contract import ModelContract
from components.earthengine.errors import DataError
from components.sample.npz import read_arrays

_NAME = "held-out.npz"


def save_held_out(contract: ModelContract, data: Labelled, folder: Path) -> None:
    """Write labelled data to a folder, in tiles as Earth Engine sends them: the contract's, with its overlap.

    Points stay points. Of a patch the pixels are judged that have the overlap around them within the patch; of the
    others the truth counts as not known: -1, or NaN where it is a number. A tile that reaches beyond its patch holds
    0 there, as where pixels are masked.

    Raises:
        DataError: patches are so small that no pixel has its overlap.
    """
    unknown = data.truth.dtype.type(-1 if data.truth.dtype.kind == "i" else np.nan)
    tiles, truth = data.tiles, data.truth
    if tiles.shape[2:] != (1, 1):
        grid = _inner_grid(contract, data)
        judged = _inside(truth, grid.overlap, unknown)
        tiles, truth = _cut(grid, tiles, np.float32(0)), _cut(grid, judged[:, np.newaxis], unknown)[:, 0]
        truth = _inside(truth, grid.overlap, unknown)  # what one tile has in its overlap is another's
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / _NAME, allow_pickle=False, tiles=tiles, truth=truth, origin=np.array(data.origin))


def load_held_out(folder: Path) -> Labelled:
    """Read what `save_held_out` wrote.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    try:
        arrays = read_arrays(folder / _NAME, lambda _: True)
        return Labelled(arrays["tiles"], arrays["truth"], str(arrays["origin"]))
    except (ValueError, KeyError) as error:
        raise DataError(f"{folder / _NAME} holds no held-out data ({error}); train the model again") from error


@dataclass(frozen=True)
class _Grid:
    """Tiles over what of a patch lies within its overlap.

    Attributes:
        tile: width and height, no more than there is.
        overlap: on each edge, in x and in y.
        across, down: how many tiles.
    """

    tile: tuple[int, int]
    overlap: tuple[int, int]
    across: int
    down: int


def _inner_grid(contract: ModelContract, data: Labelled) -> _Grid:
    high, wide = data.tiles.shape[2:]
    beside, above = contract.overlap
    width, height = wide - 2 * beside, high - 2 * above
    if width < 1 or height < 1:
        raise DataError(
            f"{data.origin}: patches of {wide} x {high} pixels hold none that has the overlap {list(contract.overlap)} "
            "of model.yaml around it; export larger patches, or declare less overlap"
        )
    tile = min(contract.tile[0], width), min(contract.tile[1], height)
    return _Grid(tile, contract.overlap, -(-width // tile[0]), -(-height // tile[1]))


def _inside(truth: NDArray[Any], overlap: tuple[int, int], unknown: Any) -> NDArray[Any]:
    """The truth `[N, H, W]`, not known where there is no overlap around a pixel."""
    beside, above = overlap
    _, high, wide = truth.shape
    inside = np.full_like(truth, unknown)
    window = np.s_[:, above : high - above, beside : wide - beside]
    inside[window] = truth[window]
    return inside


def _cut(grid: _Grid, patches: NDArray[Any], beyond: Any) -> NDArray[Any]:
    """Patches `[N, C, H, W]` as tiles `[n, C, tile height + 2 overlap, tile width + 2 overlap]`."""
    (width, height), (beside, above) = grid.tile, grid.overlap
    wanted = grid.down * height + 2 * above, grid.across * width + 2 * beside
    missing = [(0, wanted[axis] - patches.shape[2 + axis]) for axis in range(2)]
    padded = np.pad(patches, [(0, 0), (0, 0), *missing], constant_values=beyond)
    origins = [(y * height, x * width) for y in range(grid.down) for x in range(grid.across)]
    tiles = [padded[:, :, y : y + height + 2 * above, x : x + width + 2 * beside] for y, x in origins]
    return np.stack(tiles, 1).reshape(-1, *tiles[0].shape[1:])
