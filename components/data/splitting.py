"""Splitting: what is held out of labelled data, to judge by what was trained on the rest."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from components.data.labelled import Labelled
from components.earthengine.contract import ModelContract
from components.earthengine.errors import DataError


def split(data: Labelled, share: float) -> tuple[Labelled, Labelled]:
    """Split into what to train on and what is held out, by what each patch, or point, holds.

    They are ranked by a hash of their bytes, and the first are held out: of points of classes the same share of each
    class, else of all. Thus the same data in another order are split alike, and come out in the same order; and of
    what is held out of data that have grown, with the same share, a champion has been trained on hardly anything.

    Args:
        data: what to split.
        share: of the patches or points to hold out, more than 0 and less than 1.

    Returns:
        What to train on, and what is held out.

    Raises:
        DataError: the share is out of its range, or leaves nothing to train on or to hold out.
    """
    check_share(share)
    ranked = _ranked(data)
    held_out = np.zeros(len(ranked), bool)
    for members in _strata(data, ranked):
        held_out[members[: round(share * len(members))]] = True
    if held_out.all() or not held_out.any():
        what = "hold out" if len(ranked) and not held_out.any() else "train on"
        raise DataError(
            f"{data.origin}: a share of {share:g} leaves nothing to {what}; give more data or another share"
        )
    return _part(data, ranked[~held_out]), _part(data, ranked[held_out])


def check_share(share: float) -> None:
    """Check the share that is to be held out.

    Raises:
        DataError: it is out of its range.
    """
    if not 0 < share < 1:
        raise DataError(
            f"the share to hold out is {share:g}; allowed: more than 0 and less than 1, such as 0.2; correct it"
        )


def check_classes(contract: ModelContract, train: Labelled, held_out: Labelled) -> None:
    """See that each class can be learnt, and that there is something to judge by.

    Raises:
        DataError: there is no sample to train on of a class that the contract labels, or nothing to train on or
            held out at all.
    """
    if not len(held_out.tiles):
        raise DataError(f"{held_out.origin}: nothing is held out to judge the model by; give more data")
    if not len(train.tiles):
        raise DataError(f"{train.origin}: there is nothing to train on; give more data")
    (output,) = contract.outputs
    learnt = set(np.unique(train.truth).tolist())
    if missing := [label for number, label in enumerate(output.labels) if number not in learnt]:
        held = [label for label in missing if (held_out.truth == output.labels.index(label)).any()]
        why = f", as all that say {', '.join(held)} are held out" if held else ""
        raise DataError(
            f"{train.origin}: no sample to train on says {', '.join(missing)}{why}; give some of each of "
            f"{', '.join(output.labels)}, hold out another share or other data (held_out), or remove from the labels "
            f"of {output.name} what is not to be learnt"
        )


def _ranked(data: Labelled) -> NDArray[np.intp]:
    """The places of the patches, in the order of their hashes.

    The truth counts last, so that a patch whose label is corrected keeps its rank.
    """
    tiles, truth = np.ascontiguousarray(data.tiles), np.ascontiguousarray(data.truth)
    keys = [(blake2b(tile, digest_size=16).digest(), known.tobytes()) for tile, known in zip(tiles, truth, strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.intp)


def _strata(data: Labelled, ranked: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """The ranks that are split alike: of each class, where these are points of classes."""
    if data.tiles.shape[2:] != (1, 1) or data.truth.dtype != np.int64:
        return [np.arange(len(ranked))]
    classes = data.truth[ranked, 0, 0]
    return [np.flatnonzero(classes == number) for number in np.unique(classes)]


def _part(data: Labelled, places: NDArray[np.intp]) -> Labelled:
    return Labelled(data.tiles[places], data.truth[places], f"{len(places)} of {data.origin}")
