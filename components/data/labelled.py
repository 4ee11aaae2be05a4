"""Labelled data: raw band values and what is true there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Labelled:
    """Raw band values and what is true there.

    Attributes:
        tiles: raw, `[N, C, H, W]`, channels as the contract's bands in order; a point is a tile of one pixel.
        truth: `[N, H, W]`: int64, the number of the class in the output's labels, or float32 where the output
            has none.
        origin: where they come from, for people.
    """

    tiles: NDArray[np.float32]
    truth: NDArray[np.int64] | NDArray[np.float32]
    origin: str
