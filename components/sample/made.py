"""Made samples: what to try a model with that has no scene beside it."""

from __future__ import annotations

import numpy as np

from components.earthengine.contract import Band, ModelContract
from components.earthengine.payloads.batches import parts
from components.sample import Sample

# Enough for several requests, few enough that a step stays fast.
_TILES = 4
_FEATURES = 64


def made_sample(contract: ModelContract) -> Sample:
    """Noise that spreads the normalised values over 0 to 1, and one tile of 0s."""
    width, height = contract.patch
    count = _FEATURES if contract.table else _TILES
    noise = np.random.default_rng(0).random((count, contract.channels, height, width), np.float32)
    noise[-1] = 0
    tiles = np.empty_like(noise)
    for part, sent in zip(parts(contract), contract.sent, strict=True):
        channels = slice(part.first, part.first + part.channels)
        values = (noise[:, channels] - sent.offset) / (sent.factor or 1)
        values[-1] = 0
        if part.values:
            values = np.floor(noise[:, channels] * len(part.values))
        elif sent.type == "boolean":
            values = np.heaviside(values, 0)
        elif part.dtype.kind in "iu":
            limits = np.iinfo(part.dtype)
            values = values.round().clip(limits.min, limits.max)
        tiles[:, channels] = values if isinstance(sent, Band) else values[..., :1, :1]
    return Sample(tiles, "made from the contract")
