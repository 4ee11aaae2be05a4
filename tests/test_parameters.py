from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.earthengine.errors import ParameterError
from components.parameters import CANARY_PERCENT, MAX_LATENCY_SECONDS, PROMOTION_STEPS, check_numbers, next_share

ALLOWED: list[dict[str, Any]] = [
    {},
    {"canary_percent": 1, "promotion_steps": [1, 100]},
    {"canary_percent": 100, "promotion_steps": [100]},
    {"canary_percent": 100, "promotion_steps": (100,)},
    {"promotion_steps": [10, 100]},
    {"canary_percent": 60},
    {"max_latency_seconds": 60},
    {"max_latency_seconds": 0.001},
    {"min_replicas": 2, "max_replicas": 2},
    {"keep_previous": 0, "keep_versions": 0},
    {"keep_previous": 5, "keep_versions": 500},
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"canary_percent": 0}, "canary_percent is 0; allowed: 1 to 100"),
    ({"canary_percent": 101}, "canary_percent is 101; allowed: 1 to 100"),
    ({"promotion_steps": []}, r"promotion_steps is \[\]; allowed: percentages that rise"),
    ({"promotion_steps": [50]}, r"promotion_steps is \[50\]"),
    ({"promotion_steps": [50, 50, 100]}, r"promotion_steps is \[50, 50, 100\]"),
    ({"promotion_steps": [80, 50, 100]}, r"promotion_steps is \[80, 50, 100\]"),
    ({"promotion_steps": [50, 100, 120]}, r"promotion_steps is \[50, 100, 120\]"),
    ({"promotion_steps": [0, 100]}, r"promotion_steps is \[0, 100\]"),
    ({"max_latency_seconds": 0}, "max_latency_seconds is 0; allowed: more than 0, at most 60"),
    ({"max_latency_seconds": 60.5}, "max_latency_seconds is 60.5"),
    ({"max_latency_seconds": float("nan")}, "max_latency_seconds is nan"),
    ({"min_replicas": 0}, "min_replicas is 0, max_replicas 1; allowed: at least 1"),
    ({"min_replicas": 3, "max_replicas": 2}, "min_replicas is 3, max_replicas 2"),
    ({"keep_previous": -1}, "keep_previous is -1; allowed: 0 or more"),
    ({"keep_versions": -1}, "keep_versions is -1; allowed: 0 or more"),
]


@pytest.mark.parametrize("numbers", ALLOWED)
def test_allowed(numbers: dict[str, Any]) -> None:
    check_numbers(**numbers)


@pytest.mark.parametrize(("numbers", "message"), REFUSED)
def test_refused_with_what_is_allowed(numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_numbers(**numbers)


def test_the_defaults_are_a_release_in_steps() -> None:
    check_numbers(
        canary_percent=CANARY_PERCENT, promotion_steps=PROMOTION_STEPS, max_latency_seconds=MAX_LATENCY_SECONDS
    )
    assert shares(CANARY_PERCENT, PROMOTION_STEPS) == [10, 50, 100]
    assert shares(100, [100]) == [100]
    assert shares(100, [50, 100]) == [100]
    assert shares(50, [50, 75, 100]) == [50, 75, 100]


def shares(canary_percent: int, promotion_steps: Sequence[int]) -> list[int]:
    """The shares that a model gets one after the other."""
    given = [0]
    while (percent := next_share(given[-1], canary_percent, promotion_steps)) is not None:
        given.append(percent)
    return given[1:]


@given(st.integers(-5, 105), st.lists(st.integers(-5, 105), max_size=5))
def test_what_is_allowed_rises_to_all_of_the_traffic(canary_percent: int, promotion_steps: list[int]) -> None:
    try:
        check_numbers(canary_percent=canary_percent, promotion_steps=promotion_steps)
    except ParameterError:
        return
    steps = shares(canary_percent, promotion_steps)
    assert steps[0] == canary_percent
    assert steps[-1] == 100
    assert all(low < high for low, high in pairwise(steps))
    assert steps[0] >= 1
