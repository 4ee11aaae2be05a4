"""The traffic that a plan tells of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.parameters import next_share
from components.record import Deployment
from components.release import planned_splits


def splits(before: dict[str, int], canary: int, *steps: int) -> list[dict[str, int]]:
    """The traffic after each step of a release of the model `new`."""
    return planned_splits(Deployment("", "m@1", "fields", "new", before, False), canary, steps)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({}, [{"new": 100}]),
        ({"new": 100}, []),
        ({"a": 100}, [{"a": 80, "new": 20}, {"a": 40, "new": 60}, {"new": 100}]),
        ({"a": 80, "new": 20}, [{"a": 40, "new": 60}, {"new": 100}]),
        ({"a": 60, "b": 40}, [{"a": 48, "b": 32, "new": 20}, {"a": 24, "b": 16, "new": 60}, {"new": 100}]),
    ],
)
def test_traffic_moves_in_steps(before: dict[str, int], expected: list[dict[str, int]]) -> None:
    assert splits(before, 20, 60, 100) == expected


@given(st.integers(0, 100), st.integers(1, 100), st.sets(st.integers(1, 99)))
def test_every_step_sums_to_100_and_gives_more_than_the_one_before(share: int, canary: int, between: set[int]) -> None:
    steps = [*sorted(each for each in between if each >= canary), 100]
    before = {"a": 100 - share, "new": share} if share < 100 else {"new": 100}
    found = splits(before, canary, *steps)
    assert all(sum(split.values()) == 100 for split in found)
    given_ = [share, *(split["new"] for split in found)]
    assert given_ == sorted({*given_})
    assert given_[-1] == 100
    assert next_share(100, canary, steps) is None
