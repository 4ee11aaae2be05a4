from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data import Labelled, check_classes, split
from components.earthengine.errors import DataError
from tests.data.contracts import of_a_number, of_classes


def points(number: int, seed: int = 0) -> Labelled:
    """Of classes 0, 1 and 2, ever fewer of them."""
    random = np.random.default_rng(seed)
    tiles = random.random((number, 2, 1, 1), np.float32)
    return Labelled(tiles, np.sqrt(random.integers(0, 9, (number, 1, 1))).astype(np.int64), "a.csv")


def patches(number: int, size: int = 4, seed: int = 0) -> Labelled:
    random = np.random.default_rng(seed)
    return Labelled(
        random.random((number, 2, size, size), np.float32), random.integers(0, 3, (number, size, size)), "a.tfrecord"
    )


def numbers(number: int, seed: int = 0) -> Labelled:
    random = np.random.default_rng(seed)
    return Labelled(random.random((number, 2, 1, 1), np.float32), random.random((number, 1, 1), np.float32), "a.csv")


def parts(data: Labelled) -> set[tuple[bytes, bytes]]:
    return {(tile.tobytes(), truth.tobytes()) for tile, truth in zip(data.tiles, data.truth, strict=True)}


def taken(data: Labelled, places: np.typing.NDArray[np.intp]) -> Labelled:
    return Labelled(data.tiles[places], data.truth[places], data.origin)


any_data = st.builds(
    lambda make, number, seed: make(number, seed=seed),
    st.sampled_from([points, patches, numbers]),
    st.integers(30, 200),
    st.integers(0, 100),
)
shares = st.floats(0.1, 0.9)


@settings(deadline=None)
@given(any_data, shares, st.randoms(use_true_random=False))
def test_every_part_once_and_in_any_order_alike(data: Labelled, share: float, random: Any) -> None:
    train, held_out = split(data, share)
    assert parts(train) | parts(held_out) == parts(data)
    assert len(train.tiles) + len(held_out.tiles) == len(data.tiles)
    assert (train.tiles.dtype, train.truth.dtype) == (data.tiles.dtype, data.truth.dtype)
    order = np.arange(len(data.tiles))
    random.shuffle(order)
    for one, other in zip((train, held_out), split(taken(data, order), share), strict=True):
        np.testing.assert_array_equal(one.tiles, other.tiles)
        np.testing.assert_array_equal(one.truth, other.truth)


@settings(deadline=None)
@given(st.integers(30, 300), shares, st.integers(0, 100))
def test_the_same_share_of_each_class_of_points(number: int, share: float, seed: int) -> None:
    data = points(number, seed)
    _, held_out = split(data, share)
    counts = np.bincount(data.truth.ravel(), minlength=3)
    wanted = [round(share * count) for count in counts.tolist()]
    assert np.bincount(held_out.truth.ravel(), minlength=3).tolist() == wanted


@settings(deadline=None)
@given(st.sampled_from([patches, numbers]), st.integers(30, 100), shares)
def test_the_share_of_all_others(make: Any, number: int, share: float) -> None:
    data: Labelled = make(number)
    wanted = round(share * number)
    train, held_out = split(data, share)
    assert (len(train.tiles), len(held_out.tiles)) == (number - wanted, wanted)
    assert (train.origin, held_out.origin) == (f"{number - wanted} of {data.origin}", f"{wanted} of {data.origin}")


def test_what_is_held_out_is_like_the_rest() -> None:
    train, held_out = split(numbers(2000), 0.3)
    np.testing.assert_allclose(train.tiles.mean(0), held_out.tiles.mean(0), atol=0.05)
    np.testing.assert_allclose(train.truth.mean(0), held_out.truth.mean(0), atol=0.05)


@pytest.mark.parametrize("make", [points, patches, numbers])
def test_what_was_held_out_stays_so_as_data_grow(make: Any) -> None:
    grown: Labelled = make(2000)
    former = taken(grown, np.arange(1800))
    held_out_then, train_now = parts(split(former, 0.25)[1]), parts(split(grown, 0.25)[0])
    assert len(held_out_then) == pytest.approx(450, abs=2)
    assert len(held_out_then & train_now) < 25


def test_a_corrected_label_changes_no_place() -> None:
    data = numbers(100)
    corrected = Labelled(data.tiles, data.truth + 1, data.origin)
    for one, other in zip(split(data, 0.3), split(corrected, 0.3), strict=True):
        np.testing.assert_array_equal(one.tiles, other.tiles)


def test_the_same_values_with_other_truths_have_one_order() -> None:
    data = Labelled(np.ones((6, 2, 1, 1), np.float32), np.arange(6, dtype=np.float32).reshape(6, 1, 1), "a.csv")
    for one, other in zip(split(data, 0.5), split(taken(data, np.arange(6)[::-1]), 0.5), strict=True):
        assert one.truth.tolist() == other.truth.tolist()


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_out_of_its_range(share: float) -> None:
    with pytest.raises(DataError, match=rf"^the share to hold out is {share:g}; allowed: more than 0 and less than 1"):
        split(points(50), share)


def test_a_share_that_leaves_nothing() -> None:
    with pytest.raises(DataError, match=r"a\.tfrecord: a share of 0\.1 leaves nothing to hold out; give more data"):
        split(patches(4), 0.1)
    with pytest.raises(DataError, match=r"a\.tfrecord: a share of 0\.9 leaves nothing to train on; give more data"):
        split(patches(4), 0.9)
    with pytest.raises(DataError, match="leaves nothing to"):
        split(patches(0), 0.5)


def test_each_class_must_be_learnt() -> None:
    data = points(90)
    train, held_out = split(data, 0.3)
    check_classes(of_classes(), train, held_out)
    two = taken(train, np.flatnonzero(train.truth.ravel() != 1))
    with pytest.raises(
        DataError, match=r"a\.csv: no sample to train on says Vegetation, as all that say Vegetation are held out; "
    ):
        check_classes(of_classes(), two, held_out)
    with pytest.raises(DataError, match=r"a\.csv: nothing is held out to judge the model by; give more data"):
        check_classes(of_classes(), train, taken(data, np.arange(0)))
    check_classes(of_a_number(), *split(numbers(10), 0.3))
    with pytest.raises(DataError, match="nothing to train on"):
        check_classes(of_a_number(), taken(numbers(10), np.arange(0)), numbers(10))
