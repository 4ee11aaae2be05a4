"""The middle of a scene: all that is read of one too large to be sent through an endpoint in a step."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from components.earthengine.contract import ModelContract

log = logging.getLogger(__name__)

# Pixels on a side: 256 tiles of 64 x 64.
LARGEST = 1024
# Tiles on a side of a square; a narrower scene may have more along the other.
_TILES = 16

Window = tuple[slice, slice]
"""Rows and columns."""


def middle(contract: ModelContract, path: Path, height: int, width: int) -> Window:
    """The rows and columns of a scene to use: all, or the middle where it is larger than `LARGEST` or 256 tiles."""
    wide, high = contract.tile
    across, down = math.ceil(min(width, LARGEST) / wide), math.ceil(min(height, LARGEST) / high)
    across = min(across, max(_TILES, _TILES**2 // down))
    down = min(down, _TILES**2 // across)
    used_height, used_width = min(height, LARGEST, down * high), min(width, LARGEST, across * wide)
    top, left = (height - used_height) // 2, (width - used_width) // 2
    rows, columns = slice(top, top + used_height), slice(left, left + used_width)
    if (used_height, used_width) != (height, width):
        log.warning(
            "%s has %d x %d pixels; only the middle %d x %d are used, from row %d and column %d",
            path,
            width,
            height,
            used_width,
            used_height,
            top,
            left,
        )
    return rows, columns
