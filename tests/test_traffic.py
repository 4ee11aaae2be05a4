from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from components import traffic
from components.traffic import Split, taken, with_share, without

PERCENT = st.integers(1, 100)


@st.composite
def splits(draw: st.DrawFn) -> Split:
    """Splits as an endpoint has them: percent by id, summing to 100; now and then none."""
    cuts = sorted(draw(st.lists(st.integers(0, 100), max_size=6)))
    if draw(st.integers(0, 9)) == 0:
        return {}
    return {str(i): high - low for i, (low, high) in enumerate(zip([0, *cuts], [*cuts, 100], strict=True))}


def serving(split: Split) -> Split:
    return {model: share for model, share in split.items() if share}


@given(splits(), PERCENT)
def test_a_share_leaves_the_others_in_proportion(split: Split, percent: int) -> None:
    assume(split)
    result = with_share(split, "new", percent)
    assert sum(result.values()) == 100
    assert result["new"] == percent
    assert set(result) <= set(serving(split)) | {"new"}
    for model, share in split.items():
        assert abs(result.get(model, 0) - share * (100 - percent) / 100) < 1


@pytest.mark.parametrize("split", [{}, {"a": 0}, {"new": 100}, {"new": 0, "a": 0}])
def test_a_newcomer_gets_all_where_none_serves(split: Split) -> None:
    assert with_share(split, "new", 10) == {"new": 100}


@given(splits(), st.sampled_from("0123456"))
def test_without_a_model_the_others_share_all_in_proportion(split: Split, model: str) -> None:
    result = without(split, model)
    others = {other: share for other, share in serving(split).items() if other != model}
    assert set(result) == set(others)
    assert sum(result.values()) == (100 if others else 0)
    for other, share in others.items():
        assert abs(result[other] - 100 * share / sum(others.values())) < 1


@given(splits(), st.lists(PERCENT, min_size=1, max_size=5), st.booleans())
def test_what_is_given_in_steps_is_taken_back_to_the_last_percent(before: Split, steps: list[int], known: bool) -> None:
    model = "0" if known else "new"
    now = before
    for percent in steps:
        now = traffic.given(now, before, model, percent)
        assert sum(now.values()) == 100
        assert now == with_share(before, model, percent), "each step starts from what was before, not from the last one"
    assert taken(now, before, model) == serving(before)


@given(splits(), splits(), PERCENT)
def test_what_others_changed_since_is_kept(before: Split, since: Split, percent: int) -> None:
    others = serving(since)
    now = with_share(others, "new", percent)
    assume(now != with_share(serving(before), "new", now["new"]))
    result = taken(now, before, "new")
    assert result == without(now, "new")
    assert set(result) <= set(others)
    assert sum(result.values()) == (100 if others else 0)
    assert traffic.given(now, before, "new", 100) == {"new": 100}


@given(splits(), splits(), st.sampled_from(["0", "3", "new"]))
def test_taking_back_gives_nobody_a_share_who_has_none_now_or_had_none_before(
    now: Split, before: Split, model: str
) -> None:
    result = taken(now, before, model)
    assert set(result) <= set(serving(now)) | set(serving(before))
    assert result.get(model, 0) <= before.get(model, 0)
    assert sum(result.values()) in {0, 100}
    if serving(now).keys() - {model}:  # else what was before is all that is known
        assert set(result) <= set(serving(now)) or result == serving(before)


@given(splits(), splits(), st.sampled_from(["0", "new"]), PERCENT)
def test_what_is_written_down_at_a_step_serves_the_next_ones(
    now: Split, before: Split, model: str, percent: int
) -> None:
    since = taken(now, before, model)
    split = traffic.given(now, since, model, percent)
    assert split == traffic.given(now, before, model, percent)
    assert taken(split, since, model) == since


def test_examples() -> None:
    assert with_share({"a": 100}, "new", 10) == {"a": 90, "new": 10}
    assert with_share({"a": 50, "b": 50}, "new", 5) == {"a": 48, "b": 47, "new": 5}
    assert with_share({"a": 90, "new": 10}, "new", 100) == {"new": 100}
    assert with_share({"a": 60, "b": 40, "idle": 0}, "new", 50) == {"a": 30, "b": 20, "new": 50}
    assert without({"a": 60, "b": 20, "new": 20}, "new") == {"a": 75, "b": 25}
    assert without({"new": 100}, "new") == {}


def test_examples_of_runs_that_meet() -> None:
    thirds = {"a": 33, "b": 33, "c": 34}
    assert taken(with_share(thirds, "new", 50), thirds, "new") == thirds
    assert taken({"new": 100}, thirds, "new") == thirds
    # Another run has taken all of it, or stands in between.
    assert taken({"other": 100}, {"a": 100}, "new") == {"other": 100}
    assert taken({"a": 81, "new": 9, "other": 10}, {"a": 100}, "new") == {"a": 89, "other": 11}
    # A model that had a share before keeps it, and gets nothing back that others have taken.
    assert taken({"a": 25, "new": 50, "other": 25}, {"a": 90, "new": 10}, "new") == {"a": 45, "new": 10, "other": 45}
    assert taken({"other": 100}, {"a": 90, "new": 10}, "new") == {"other": 100}
    # A person has taken all of it off.
    assert taken({}, {"a": 100}, "new") == {}
