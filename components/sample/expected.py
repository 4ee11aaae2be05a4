"""Holds the source model's answers against those that its training code gave for the same scene.

Bands in another order than the model was trained with look like any others; only answers that are
known apart from model.yaml tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from components import parity
from components.earthengine.contract import Band, ModelContract, Property
from components.earthengine.errors import ContractError, ModelError
from components.earthengine.payloads import Outputs
from components.earthengine.payloads.batches import features, parts
from components.earthengine.tiles import Grid
from components.sample import Sample
from components.sample.npz import OUTPUT
from components.source import SourceModel

# Of the values, that must agree: at the edges of tiles convolutions answer otherwise than amid a scene.
_AT_LEAST = 0.5
# What exchanged bands are tried on, so that all pairs take seconds.
_BANDS = 8
_TILES = 4
_FEATURES = 256


@dataclass(frozen=True)
class _Agreement:
    """How many of the counted values agree, and the text of the place that lies furthest off."""

    agree: int
    counted: int
    furthest: str

    @property
    def share(self) -> float:
        return self.agree / self.counted if self.counted else 0.0


def check_expected(source: SourceModel, sample: Sample, outputs: Outputs, seen: NDArray[np.bool_]) -> None:
    """Compare answers to a sample's tiles with those expected, at the pixels `[N, H, W]` that are seen.

    Raises:
        ContractError: fewer than half of the values agree.
        ModelError: the sample's expected answers have another shape, or nothing to compare.
    """
    for name in sample.expected:
        agreement = _agreement(source.contract, sample, name, outputs, seen)
        if not agreement.counted:
            raise ModelError(
                f"{OUTPUT}{name} of the sample ({sample.origin}) expects no number at a pixel that is not masked; "
                "write it again, or leave it out"
            )
        if agreement.share < _AT_LEAST:
            pair = _exchanged(source, sample, seen)
            what = "properties" if source.contract.table else "bands"
            mend = (
                f"they agree where {' and '.join(pair)} change places: correct the order of {what}"
                if pair
                else f"correct {what}, their factor and offset, or model.layout, or write the sample again"
            )
            raise ContractError(
                f"output {name} agrees with {OUTPUT}{name} of the sample ({sample.origin}) at {agreement.share:.1%} "
                f"of {agreement.counted} values, at least {_AT_LEAST:.0%} must; {agreement.furthest}; {mend}"
            )


def _agreement(
    contract: ModelContract, sample: Sample, name: str, outputs: Outputs, seen: NDArray[np.bool_]
) -> _Agreement:
    arrays = _whole(contract, sample, {"got": outputs[name], "seen": seen})
    got, wanted = arrays["got"].astype(np.float64), sample.expected[name].astype(np.float64)
    if got.shape != wanted.shape:
        raise ModelError(
            f"{OUTPUT}{name} of the sample has shape {list(wanted.shape)}, the model answers {list(got.shape)}: "
            "write the answers of this model there, or leave them out"
        )
    counted = arrays["seen"].reshape(*arrays["seen"].shape, *[1] * (wanted.ndim - arrays["seen"].ndim))
    counted = counted.astype(bool) & ~np.isnan(wanted)
    difference, allowed = parity.apart(contract, wanted, got)
    place = np.unravel_index(np.where(counted, difference, -1).argmax(), wanted.shape)
    where = f"feature {place[0]}" if contract.table else f"row {place[0]}, column {place[1]}"
    return _Agreement(
        int((counted & (difference <= allowed)).sum()),
        int(counted.sum()),
        f"at {where} the model answers {got[place]:.6g} where {wanted[place]:.6g} is expected",
    )


def _whole(contract: ModelContract, sample: Sample, arrays: Outputs) -> Outputs:
    """What tiles `[N, H, W, ...]` show, as the scene `[height, width, ...]`, of a table `[N, ...]`."""
    if sample.scene is None:
        return features(contract, arrays)
    grid = Grid.over(contract, *sample.scene)
    return {name: grid.stitch(array) for name, array in arrays.items()}


def _exchanged(source: SourceModel, sample: Sample, seen: NDArray[np.bool_]) -> tuple[str, str] | None:
    """The two scalar bands, of a table properties, that make the answers agree best when they change places."""
    order = np.argsort(-seen.sum(axis=(1, 2)), kind="stable")
    chosen = order[: _FEATURES if source.contract.table else _TILES]
    tried = np.zeros_like(seen)
    tried[chosen] = seen[chosen]
    best, pair = _AT_LEAST, None
    for names, other, channels in _reordered(source):
        with suppress(ContractError):
            answers = other.predict(np.ascontiguousarray(sample.tiles[chosen][:, channels]))
            outputs = {name: np.zeros((len(seen), *array.shape[1:]), array.dtype) for name, array in answers.items()}
            for name, array in answers.items():
                outputs[name][chosen] = array
            share = min(_agreement(other.contract, sample, name, outputs, tried).share for name in sample.expected)
            if share >= best:
                best, pair = share, names
    return pair


def _reordered(source: SourceModel) -> Iterator[tuple[tuple[str, str], SourceModel, list[int]]]:
    """For each pair: its names, the source model by a contract with them exchanged, the channels in that order."""
    contract = source.contract
    key = "properties" if contract.table else "bands"
    sent: list[Band | Property] = [*(contract.properties if contract.table else contract.bands)]
    firsts = [part.first for part in parts(contract)]
    scalar = [place for place, part in enumerate(sent) if not part.shape]
    for one, two in combinations(scalar[:_BANDS], 2):
        exchanged, channels = list(sent), list(range(contract.channels))
        exchanged[one], exchanged[two] = sent[two], sent[one]
        channels[firsts[one]], channels[firsts[two]] = firsts[two], firsts[one]
        other = copy(source)
        other.contract = contract.model_copy(update={key: tuple(exchanged)})
        yield (sent[one].name, sent[two].name), other, channels
