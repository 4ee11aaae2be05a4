from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.earthengine.payloads import Outputs
from components.parity import Parity, compare
from tests.conftest import contract_of


def of_one(wanted: Any, got: Any, **tolerance: float) -> Parity:
    contract = contract_of(tolerance={"absolute": 0.0, "relative": 0.0} | tolerance)

    def outputs(values: Any) -> dict[str, NDArray[Any]]:
        array = np.asarray(values)
        return {"total": array.reshape(1, 1, -1)}

    return compare(contract, outputs(wanted), outputs(got))


def test_equal_answers() -> None:
    assert of_one([1.0, np.inf, np.nan], [1.0, np.inf, np.nan]) == Parity(0.0, None)


def test_difference_within_and_beyond_the_tolerance() -> None:
    assert of_one([1.0], [1.25], absolute=0.25) == Parity(0.25, None)
    assert of_one([4.0], [5.0], relative=0.25).fault is None
    assert of_one([4.0], [5.0], relative=0.125, absolute=0.5).fault is None
    assert of_one([4.0], [5.0], relative=0.125, absolute=0.25).fault is not None


def test_fault_names_output_place_and_values() -> None:
    result = of_one([1.0, 2.0, 3.0], [1.0, 2.5, 4.0], absolute=0.25)
    assert result.largest == 1.0
    assert result.fault == (
        "output total differs at 2 of 3 values, first in tile 0 at row 0, column 1: 2.5 instead of 2, by 0.5 where "
        "0.25 is allowed"
    )


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("other", [np.nan, np.inf, -np.inf, 5.0])
def test_a_strange_number_equals_only_itself(strange: float, other: float) -> None:
    same = str(strange) == str(other)
    for wanted, got in ((strange, other), (other, strange)):
        result = of_one([wanted, 1.0], [got, 1.0], absolute=1.0, relative=0.5)
        assert (result.fault is None) == same
        assert result.largest == (0 if same else np.inf)


def test_unsigned_numbers_do_not_wrap() -> None:
    assert of_one(np.array([0], np.uint8), np.array([255], np.uint8)).largest == 255


def test_missing_output_and_other_shape() -> None:
    contract = contract_of(outputs=[{"name": name, "dimensions": 0} for name in ("a", "b")])
    expected: Outputs = {"a": np.zeros((1, 2, 2)), "b": np.zeros((1, 2, 2))}
    answered: Outputs = {"b": np.zeros((1, 2, 3)), "c": np.zeros(1)}
    fault = compare(contract, expected, answered).fault
    assert fault == "output a is missing; the answer has b, c; output b has shape [1, 2, 3], expected [1, 2, 2]"
    assert "the answer has none" in str(compare(contract, expected, {}).fault)


@given(st.lists(st.floats(width=32), min_size=1, max_size=5), st.lists(st.floats(width=32), min_size=1, max_size=5))
def test_nothing_differs_from_itself_and_only_that_without_tolerance(one: list[float], two: list[float]) -> None:
    assert of_one(one, one) == Parity(0.0, None)
    if len(one) == len(two):
        assert (of_one(one, two).fault is None) == np.array_equal(one, two, equal_nan=True)


def test_of_a_table_the_feature_is_named() -> None:
    contract = contract_of(bands=None, tile=None, scale=None, properties=[{"name": "a"}])
    expected: Outputs = {"total": np.zeros((5, 1, 1))}
    for wrong in (1.0, np.nan):
        answered: Outputs = {"total": np.array([0, 0, 0, wrong, 0]).reshape(5, 1, 1)}
        assert f"1 of 5 values, first in feature 3: {wrong:g} instead of 0" in str(
            compare(contract, expected, answered).fault
        )
