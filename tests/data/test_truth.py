from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from components.data.truth import class_numbers, finite
from components.earthengine.contract import Output
from components.earthengine.errors import DataError


def cover(*labels: str) -> Output:
    return Output(name="cover", dimensions=1, labels=labels)


def where(index: int) -> str:
    return f"value {index}"


@pytest.mark.parametrize(
    "values",
    [
        np.array(["sea", "land", "sea"], object),
        np.array(["1", "0", "1.0"], object),
        np.array([1, 0, 1]),
        np.array([1, 0, 1], np.float32),
        np.array([[1.0], [0.0], [1.0]]),
        np.array(["sea", 0, 1.0], object),
    ],
)
def test_labels_and_numbers_are_classes(values: Any) -> None:
    numbers = class_numbers(cover("land", "sea"), values, where)
    assert numbers.dtype == np.int64
    assert numbers.shape == values.shape
    assert numbers.ravel().tolist() == [1, 0, 1]


def test_labels_that_are_numbers_are_meant_before_numbers() -> None:
    assert class_numbers(cover("1", "2", "3"), np.array([1.0, 3.0]), where).tolist() == [0, 2]
    with pytest.raises(DataError, match=r"value 1 is 0.0, which is no class of cover; allowed: 1, 2, 3; correct"):
        class_numbers(cover("1", "2", "3"), np.array([1.0, 0.0]), where)
    # Never the third label, or else the meaning of a number would hang on which others there are.
    with pytest.raises(DataError, match=r"value 0 is 2, which is no class of cover; allowed: 1, sea, 3; correct"):
        class_numbers(cover("1", "sea", "3"), np.array([2]), where)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            np.array(["land", "lake"], object),
            "value 1 is 'lake', which is no class of cover; allowed: land, sea, or a num",
        ),
        (
            np.array([0, 2]),
            "value 1 is 2, which is no class of cover; allowed: land, sea, or a number from 0 to 1; correct",
        ),
        (np.array([0, -1]), "value 1 is -1, which is no class"),
        (np.array([0, 0.5]), "value 1 is 0.5, which is no class"),
        (np.array([0, np.inf]), "value 1 is inf, which is no class"),
        (np.array([0, np.nan, 7]), "value 1 is empty; allowed: land"),
        (np.array([np.nan]), "value 0 is empty; allowed: land"),
        (np.array(["land", None], object), "value 1 is empty; allowed: land"),
        (np.array([[0, 1], [1, 1e300]]), "value 3 is 1e+300, which is no class"),
        (np.array([True, False]), "value 0 is True, which is no class"),
    ],
)
def test_what_is_no_class_is_named(values: Any, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        class_numbers(cover("land", "sea"), values, where)


@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(width=64)))
def test_a_number_is_its_class_or_refused(values: Any) -> None:
    bad = [index for index, value in enumerate(values) if value not in {0, 1, 2}]
    if bad:
        with pytest.raises(DataError, match=rf"^value {bad[0]} is "):
            class_numbers(cover("a", "b", "c"), values, where)
    else:
        assert class_numbers(cover("a", "b", "c"), values, where).tolist() == values.tolist()


@given(arrays(np.float64, (3, 2)))
def test_numbers_are_finite_float32(values: Any) -> None:
    with np.errstate(over="ignore"):
        wanted = values.astype(np.float32)
    if np.isfinite(wanted).all():
        np.testing.assert_array_equal(finite(values, where), wanted, strict=True)
        return
    index = np.flatnonzero(~np.isfinite(wanted))[0]
    said = "is empty or no number" if np.isnan(wanted.flat[index]) else f"is {values.flat[index]}, which float32 cannot"
    with pytest.raises(DataError, match=re.escape(f"value {index} {said}")):
        finite(values, where)
