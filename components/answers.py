"""The source model's answers to a sample, refused where they cannot be right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components import parity
from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError, PayloadError
from components.earthengine.payloads import Outputs, Tiles
from components.earthengine.payloads.batches import parts
from components.golden import Golden, batches, joined
from components.sample import Sample
from components.sample.expected import check_expected
from components.source import SourceModel

Pixels = NDArray[np.bool_]
"""Which pixels of tiles, `[N, height, width]`."""


def answer(source: SourceModel, sample: Sample) -> Golden:
    """The golden tiles of a sample, with what the source model answers.

    Raises:
        ContractError: the model refuses the sample, or does not answer as it did in training.
        ModelError: the sample cannot be sent or is masked throughout, the model answers NaN or infinity or in several
            shapes, or the sample expects answers of another shape.
    """
    tiles = sample.tiles
    seen = unmasked(source.contract, tiles)
    check_sent(source.contract, sample, seen)
    outputs = joined([source.predict(batch) for batch in batches(tiles)])
    check_finite(source.contract, outputs, seen)
    check_expected(source, sample, outputs, seen)
    return Golden(tiles, outputs, sample.scene)


def unmasked(contract: ModelContract, tiles: Tiles) -> Pixels:
    """The pixels of tiles of which a band is not 0; of a table the features of which a property is not."""
    channels = sum(part.channels for part in contract.bands or contract.properties)
    return np.asarray(tiles[:, :channels].any(axis=1))


def check_sent(contract: ModelContract, sample: Sample, seen: Pixels) -> None:
    """Refuse a sample that Earth Engine would not send: with no pixel to see, or values that its types cannot carry."""
    if not seen.any():
        raise ModelError(
            f"the sample ({sample.origin}) holds nothing but 0, which stands for what is masked: take another sample"
        )
    try:
        for part in parts(contract):
            part.take(sample.tiles)
    except PayloadError as error:
        raise ModelError(f"the sample ({sample.origin}) cannot be sent to a model: {error}") from error


def check_finite(contract: ModelContract, outputs: Outputs, seen: Pixels) -> None:
    """Refuse NaN and infinity at the pixels that are seen.

    Where an answer is of another size than its tile, only in tiles that are seen as a whole.
    """
    for name, array in outputs.items():
        counted = seen if array.shape[1:3] == seen.shape[1:] else seen.all(axis=(1, 2), keepdims=True)
        wrong = ~np.isfinite(array) & counted.reshape(*counted.shape, *[1] * (array.ndim - 3))
        if (places := np.argwhere(wrong)).size:
            place = tuple(int(index) for index in places[0])
            what = "features" if contract.table else "pixels"
            raise ModelError(
                f"output {name} of the model is NaN or infinite at {len(places)} of {array.size} values where {what} "
                f"are not masked, first {parity.spot(contract, place)}: {array[place]}; "
                "training diverged, or the model divides by 0 as it normalises: mend the model"
            )
