"""Held-out data: the tiles that a challenger and a champion are both asked for, and what is true there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data import Labelled
from components.earthengine.contract import ModelContract
from components.earthengine.errors import DataError
from components.earthengine.tiles import Grid
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
        judged = _cut(grid, np.ones_like(tiles[:, :1]) * _inside(grid, truth.shape))[:, 0] > 0
        # What one tile has in its overlap is another's.
        judged &= _inside(grid, judged.shape)
        tiles, truth = _cut(grid, tiles), np.where(judged, _cut(grid, truth[:, np.newaxis])[:, 0], unknown)
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


def _inner_grid(contract: ModelContract, data: Labelled) -> Grid:
    """The grid over what of a patch has the overlap around it, of tiles no larger than that."""
    high, wide = data.tiles.shape[2:]
    beside, above = contract.overlap
    width, height = wide - 2 * beside, high - 2 * above
    if width < 1 or height < 1:
        raise DataError(
            f"{data.origin}: patches of {wide} x {high} pixels hold none that has the overlap {list(contract.overlap)} "
            "of model.yaml around it; export larger patches, or declare less overlap"
        )
    return Grid(width, height, (min(contract.tile[0], width), min(contract.tile[1], height)), contract.overlap)


def _inside(grid: Grid, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Of pixels `[N, H, W]`, `[H, W]`: those that have the overlap around them."""
    beside, above = grid.overlap
    _, high, wide = shape
    inside = np.zeros((high, wide), bool)
    inside[above : high - above, beside : wide - beside] = True
    return inside


def _cut(grid: Grid, patches: NDArray[Any]) -> NDArray[Any]:
    """Patches `[N, C, H, W]` as the tiles of them all."""
    return np.concatenate([grid.cut_inner(patch) for patch in patches])
