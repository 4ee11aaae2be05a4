from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from components.earthengine.errors import PayloadError
from components.earthengine.payloads import json_numbers

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=3)
FINITE = st.floats(-(2.0**100), 2.0**100, width=32)


def stacked(values: list[Any], ranks: tuple[int, ...] = (1,), strings: bool = True) -> Any:
    return json_numbers.stacked(values, lambda n: f"tile {n}", ranks, "a row", strings=strings).tolist()


def texts(value: Any) -> Any:
    return [texts(inner) for inner in value] if isinstance(value, list) else str(value)


@given(array=hnp.arrays(np.float32, SHAPES, elements=FINITE))
def test_numbers_and_their_strings_are_the_same_to_the_last_bit(array: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    for value in (array.tolist(), texts(array.tolist())):
        found = json_numbers.array(value, strings=True)
        assert found.dtype == np.float32
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        (True, 1),
        ([1, 2.5], [1, 2.5]),
        ([1, "2.5", True], [1, 2.5, 1]),
        (["1e3", "-2E-1", "+3", " 4 "], [1000, np.float32(-0.2), 3, 4]),
        ([0.1, "1"], [np.float32(0.1), 1]),
        ([1 << 63, 1], [1 << 63, 1]),
        ([[1], ["2"]], [[1], [2]]),
    ],
)
def test_a_value_becomes_an_array(value: Any, expected: Any) -> None:
    assert json_numbers.array(value, strings=True).tolist() == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([[1], [2, 3]], "has rows of different lengths"),
        ([1, [2]], "has rows of different lengths"),
        ([None], "not a number"),
        ({"a": 1}, "not a number"),
        ("", "not a number"),
        ("1,2", "not a number"),
        ("NaN", "NaN"),
        ("1e39", "too large for float32"),
        ([1e39], "too large for float32"),
        ("x" * 1000, "^.{,250}$"),
    ],
)
def test_what_is_no_array_of_numbers_is_explained(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        json_numbers.array(value, strings=True)


def test_strings_are_numbers_only_where_that_is_said() -> None:
    with pytest.raises(ValueError, match="not a number"):
        json_numbers.array(["1"], strings=False)


@pytest.mark.parametrize("strings", [True, False])
def test_one_long_string_does_not_make_all_of_them_long(strings: bool) -> None:
    value = ["1" * 100_000, *["1"] * 500]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="holds"):
            json_numbers.array(value, strings=strings)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_values_are_stacked() -> None:
    assert stacked([[1, 2], ["3", 4.5]]) == [[1, 2], [3, 4.5]]
    assert stacked([1, "2"], (0,)) == [1, 2]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[1, 2], [3]], r"^tile 1 has shape \[1\] but tile 0 has \[2\]; send all at one size"),
        ([[1], [2], ["x"]], "^tile 2 holds something that is not a number .*; expected a row"),
        ([[1], 2], r"^tile 1 has shape \[\]; expected a row"),
        ([[]], r"^tile 0 has shape \[0\]; expected a row"),
    ],
)
def test_the_value_at_fault_is_named(values: list[Any], said: str) -> None:
    with pytest.raises(PayloadError, match=said):
        stacked(values)


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8", "i1", "u2", ">i4", "i8", "?"])
def test_arrays_are_written_whatever_their_type(dtype: str) -> None:
    import orjson

    array = np.arange(12).reshape(3, 4).astype(dtype)[:, ::2]
    written = orjson.dumps(json_numbers.finite(array, "it"), option=orjson.OPT_SERIALIZE_NUMPY)
    assert json.loads(written) == array.tolist()


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.array([1j]), np.array([1], np.longdouble)])
def test_an_array_that_json_cannot_write_is_refused(array: Any) -> None:
    with pytest.raises(PayloadError, match=f"an array of {array.dtype} has no numbers for JSON; cast it to float32"):
        json_numbers.finite(array, "it")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_json_has_no_word_for_is_named(value: float) -> None:
    array = np.zeros((2, 3), np.float64)
    array[1, 2] = value
    with pytest.raises(PayloadError, match=rf"tile 1 has {value} at \[2\], which JSON cannot carry"):
        json_numbers.finite(array, "tile")
