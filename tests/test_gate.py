from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.contest import Contest
from components.earthengine.contract import Metric
from components.earthengine.errors import ParameterError
from components.evaluation import Evaluation
from components.gate import Decision, decide
from components.pages import write_decision
from components.versions import _LONGEST, _NOT_ALLOWED

NAMES: tuple[Metric, ...] = ("accuracy", "f1")


def contest(challenger: dict[Metric, float], champion: dict[Metric, float] | None) -> Contest:
    against = Evaluation("crops@7", champion, 10) if champion is not None else None
    return Contest(tuple(challenger), "table.csv, 10 rows", Evaluation("challenger", challenger, 10), against)


def verdict(challenger: dict[Metric, float], champion: dict[Metric, float] | None, margin: float = 0) -> Decision:
    return decide(contest(challenger, champion), margin)


def test_only_a_better_one_goes_on() -> None:
    assert verdict({"accuracy": 0.91}, {"accuracy": 0.9}).better
    assert verdict({"rmse": 1.9}, {"rmse": 2.0}).better
    for challenger, champion in (({"accuracy": 0.9}, {"accuracy": 0.9}), ({"accuracy": 0.89}, {"accuracy": 0.9})):
        decided = verdict(challenger, champion)  # type: ignore[arg-type]
        assert not decided.better
        assert decided.reason.endswith(" against 0.9 of crops@7: not better")
    assert not verdict({"rmse": 2.1}, {"rmse": 2.0}).better


def test_by_the_margin() -> None:
    # In floating point 0.95 - 0.94 is a little less than 0.01.
    assert verdict({"accuracy": 0.95}, {"accuracy": 0.94}, 0.01).better
    refused = verdict({"accuracy": 0.949}, {"accuracy": 0.94}, 0.01)
    assert (refused.better, refused.reason) == (False, "accuracy 0.949 against 0.94 of crops@7: not better by 0.01")
    assert verdict({"rmse": 1.5}, {"rmse": 2.0}, 0.5).better
    assert not verdict({"rmse": 1.6}, {"rmse": 2.0}, 0.5).better


def test_the_first_metric_decides_and_no_other_may_be_worse() -> None:
    assert verdict({"accuracy": 0.92, "f1": 0.5}, {"accuracy": 0.9, "f1": 0.5}).better
    decided = verdict({"accuracy": 0.92, "f1": 0.4}, {"accuracy": 0.9, "f1": 0.5})
    assert not decided.better
    assert decided.reason.endswith("is better, but f1 0.4 against 0.5 is worse")
    assert not verdict({"f1": 0.4, "accuracy": 0.92}, {"accuracy": 0.9, "f1": 0.5}).better


def test_without_a_champion_any_model_that_has_learnt_goes_on() -> None:
    assert verdict({"accuracy": 0.1}, None, 0.5).better
    for broken in (math.nan, math.inf):
        decided = verdict({"rmse": broken}, None)
        assert not decided.better
        assert "it has not learnt" in decided.reason


def test_what_differs_by_rounding_is_the_same() -> None:
    assert not verdict({"rmse": 1.06500001}, {"rmse": 1.065}).better
    assert not verdict({"rmse": 1.065}, {"rmse": 1.06500001}).better
    assert verdict({"rmse": 1.064}, {"rmse": 1.065}).better
    # Neither is a metric worse that differs so.
    assert verdict({"accuracy": 0.92, "f1": 0.49999}, {"accuracy": 0.9, "f1": 0.5}).better
    # Of an output in a small unit as well.
    assert verdict({"rmse": 1e-13}, {"rmse": 2e-13}).better


@pytest.mark.parametrize("margin", [-0.01, math.nan, math.inf])
def test_margin_out_of_range(margin: float) -> None:
    with pytest.raises(ParameterError, match=r"margin is .*; allowed: 0 or more"):
        verdict({"accuracy": 1}, None, margin)


values = st.floats(0, 1)


@given(values, values, values)
def test_one_of_two_at_most_is_better(one: float, other: float, margin: float) -> None:
    there, back = verdict({"iou": one}, {"iou": other}, margin), verdict({"iou": other}, {"iou": one}, margin)
    assert not (there.better and back.better)
    assert Decision.parse(there.dump()) == there


def test_labels_can_be_written_on_a_version() -> None:
    found = verdict({"accuracy": 0.97222, "f1": 0.5}, {"accuracy": 0.9, "f1": 0.5}).labels()
    assert found == {
        "champion": "crops@7",
        "challenger-accuracy": "0.9722",
        "challenger-f1": "0.5",
        "champion-accuracy": "0.9",
        "champion-f1": "0.5",
    }
    assert verdict({"accuracy": 0.5}, None).labels() == {"champion": "none", "challenger-accuracy": "0.5"}
    assert all(len(key) <= _LONGEST and not _NOT_ALLOWED.search(key) for key in found)


def test_page_shows_both_and_escapes_names(tmp_path: Path) -> None:
    labels, rows = ("<i>wet</i>", "dry"), ((3, 1, 0), (0, 5, 0))
    ours = Evaluation("challenger", {"accuracy": 8 / 9}, 9, labels, rows)
    theirs = Evaluation("crops@7", {"accuracy": 7 / 9}, 9, labels, ((2, 1, 1), (0, 5, 0)))
    page = tmp_path / "page.html"
    write_decision(decide(Contest(("accuracy",), "<b>table</b>", ours, theirs), 0.01), page)
    text = page.read_text()
    assert "<h1>Better</h1>" in text
    for shown in ("0.8889", "0.7778", "crops@7", "&lt;i&gt;wet", "&lt;b&gt;table"):
        assert shown in text
    for raw in ("<i>wet", "<b>table"):
        assert raw not in text
    # The column of answers that are no class is shown where there are such answers.
    assert text.count("none of these") == 1
    write_decision(decide(Contest(("accuracy",), "table", theirs, ours), 0), page)
    assert "<h1>Not better</h1>" in page.read_text()
    assert "not deployed, and the endpoint is untouched" in page.read_text()
