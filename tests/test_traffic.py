from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.traffic import with_canary


@st.composite
def splits(draw: st.DrawFn) -> dict[str, int]:
    """Splits as an endpoint has them: percent by id, summing to 100."""
    cuts = sorted(draw(st.lists(st.integers(0, 100), max_size=6)))
    return {str(i): high - low for i, (low, high) in enumerate(zip([0, *cuts], [*cuts, 100], strict=True))}


@given(splits(), st.integers(0, 100))
def test_sums_to_100_and_the_rest_keep_their_proportion(split: dict[str, int], percent: int) -> None:
    result = with_canary(split, "new", percent)
    assert sum(result.values()) == 100
    assert result["new"] == percent
    serving = {model for model, share in split.items() if share}
    assert set(result) == serving | {"new"}
    for model in serving:
        assert abs(result[model] - split[model] * (100 - percent) / 100) < 1


@pytest.mark.parametrize("split", [{}, {"a": 0}, {"new": 100}, {"new": 0, "a": 0}])
def test_newcomer_gets_all_where_none_serves(split: dict[str, int]) -> None:
    assert with_canary(split, "new", 10) == {"new": 100}


def test_examples() -> None:
    assert with_canary({"a": 100}, "new", 10) == {"a": 90, "new": 10}
    assert with_canary({"a": 50, "b": 50}, "new", 5) == {"a": 48, "b": 47, "new": 5}
    assert with_canary({"a": 90, "new": 10}, "new", 100) == {"a": 0, "new": 100}
    assert with_canary({"a": 60, "b": 40, "idle": 0}, "new", 50) == {"a": 30, "b": 20, "new": 50}
