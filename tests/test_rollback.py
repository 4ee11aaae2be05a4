"""Which model an endpoint's traffic goes back to, told from the endpoint alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.cloud.aiplatform_v1.types import DeployedModel, Endpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from components.earthengine.errors import RollbackError
from components.releases import released, since, with_release, with_rollback
from components.retention import previous
from components.rollback import only, restored


def endpoint_of(deployed: str, split: dict[str, int], releases: str = "") -> Any:
    """An endpoint whose models, named by a digit each, were deployed in this order."""
    models = [
        DeployedModel(
            id=each,
            model="projects/1/locations/r/models/m",
            model_version_id=each,
            create_time=datetime(2026, 1, 1 + day, tzinfo=UTC),
        )
        for day, each in enumerate(deployed)
    ]
    labels = {"releases": releases} if releases else {}
    name = "projects/1/locations/r/endpoints/fields"
    return Endpoint(name=name, deployed_models=models, traffic_split=split, labels=labels)


def trusted(deployed: Any) -> bool:
    """All but the model 9."""
    return bool(deployed.id != "9")


def back(endpoint: Any) -> dict[str, int]:
    return restored(endpoint, trusted)


def after_release(endpoint: Any, model: str) -> Any:
    """The endpoint once a model is released there, as `conclude` leaves it."""
    labels = with_release(endpoint, model, dict(endpoint.traffic_split))
    deployed = "".join(each.id for each in endpoint.deployed_models)
    return endpoint_of(deployed + model * (model not in deployed), {model: 100}, labels["releases"])


def after_rollback(endpoint: Any) -> Any:
    (model,) = split = back(endpoint)
    return endpoint_of(
        "".join(each.id for each in endpoint.deployed_models), split, with_rollback(endpoint, model)["releases"]
    )


@pytest.mark.parametrize(
    ("endpoint", "split"),
    [
        pytest.param(endpoint_of("12", {"2": 100}, "2-1"), {"1": 100}, id="after a release"),
        pytest.param(endpoint_of("123", {"3": 100}, "3-2-1"), {"2": 100}, id="the last released first"),
        pytest.param(endpoint_of("12", {"1": 100}, "1-2"), {"2": 100}, id="an older deployment released again"),
        pytest.param(endpoint_of("123", {"2": 100}, "3-2-1"), {"1": 100}, id="what was taken back does not return"),
        pytest.param(endpoint_of("129", {"2": 100}, "2-1"), {"1": 100}, id="left by a failed run"),
        pytest.param(endpoint_of("192", {"2": 100}), {"1": 100}, id="failed its verification"),
        pytest.param(endpoint_of("123", {"3": 100}), {"2": 100}, id="by hand: as they were deployed"),
        pytest.param(endpoint_of("12", {"1": 90, "2": 10}, "1"), {"1": 100}, id="canary"),
        pytest.param(endpoint_of("12", {"1": 10, "2": 90}, "2-1"), {"2": 100}, id="canary of an older deployment"),
        pytest.param(endpoint_of("12", {"1": 10, "2": 90}), {"1": 100}, id="canary by hand"),
        pytest.param(endpoint_of("123", {"1": 54, "2": 36, "3": 10}), {"1": 60, "2": 40}, id="canary beside two"),
    ],
)
def test_traffic_returns_to_the_model_that_had_it_before(endpoint: Any, split: dict[str, int]) -> None:
    assert back(endpoint) == split


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        (endpoint_of("1", {"1": 100}), r"m@1 \(deployed model 1\) has all the traffic of endpoint fields, .*no other"),
        (endpoint_of("91", {"1": 100}), r"keep_previous at least 1; any of these can be given with --to: 9 \(m@9\)"),
        (endpoint_of("12", {"1": 100}), r"no earlier model that has passed its verification .* --to: 2 \(m@2\)$"),
        (endpoint_of("12", {}), r"no model has traffic of endpoint fields, .* --to: 1 \(m@1\), 2 \(m@2\)$"),
        (endpoint_of("", {}), "no other model is deployed there"),
    ],
)
def test_where_there_is_none_the_way_out_is_told(endpoint: Any, message: str) -> None:
    with pytest.raises(RollbackError, match=message):
        back(endpoint)


def test_what_was_deployed_between_releases_stays_a_candidate() -> None:
    endpoint = endpoint_of("123", {"1": 100}, "1-3")  # 2 was taken back; then 3, and then 1 again, were released
    assert [each.id for each in previous(endpoint, "1", trusted)] == ["3", "2"]
    assert previous(endpoint_of("123", {"1": 100}, "1"), "1", trusted) == []


def test_only_a_model_that_is_deployed_can_be_named() -> None:
    endpoint = endpoint_of("12", {"1": 100})
    assert only(endpoint, "2", trusted) == {"2": 100}
    with pytest.raises(RollbackError, match=r"deployed model 3 is not at endpoint fields; .* --to: 2 \(m@2\)$"):
        only(endpoint, "3", trusted)
    with pytest.raises(RollbackError, match=r"deployed model 2 \(m@2\) at endpoint fields has not passed its verific"):
        only(endpoint, "2", lambda _: False)


def test_releases_and_rollbacks_one_after_the_other() -> None:
    endpoint = after_release(after_release(after_release(endpoint_of("", {}), "1"), "2"), "3")
    assert released(endpoint) == ["3", "2", "1"]
    endpoint = after_rollback(endpoint)
    assert (dict(endpoint.traffic_split), back(endpoint)) == ({"2": 100}, {"1": 100})
    endpoint = after_release(endpoint, "4")  # 3 had been taken back, so 2 is what was before it, and 1 before that
    assert [each.id for each in previous(endpoint, "4", trusted)] == ["2", "1", "3"]
    endpoint = after_release(endpoint, "1")
    assert [each.id for each in previous(endpoint, "1", trusted)] == ["4", "2", "3"]
    assert dict(after_rollback(endpoint).traffic_split) == {"4": 100}


def test_what_served_before_the_first_release_is_remembered() -> None:
    endpoint = endpoint_of("1234", {"1": 40, "2": 60})
    assert back(after_release(endpoint, "5")) == {"2": 100}
    assert released(after_release(endpoint, "5"))[1:] == ["2", "1"]


@settings(deadline=None)  # the first message of a type takes its time
@given(st.lists(st.integers(0, 10**19).map(str), unique=True, max_size=12), st.data())
def test_the_label_is_one_that_vertex_ai_takes_and_keeps_the_last(ids: list[str], data: st.DataObject) -> None:
    endpoint = Endpoint(deployed_models=[DeployedModel(id=each) for each in ids], labels={"mine": "stays"})
    order = data.draw(st.permutations(ids))
    for each in reversed(order):
        endpoint.labels = with_release(endpoint, each, {})
    assert endpoint.labels["mine"] == "stays"
    assert len(endpoint.labels.get("releases", "")) <= 63
    kept = released(endpoint)
    assert kept == order[: len(kept)]
    assert len(kept) >= min(3, len(ids))


@given(st.permutations("12345"), st.sampled_from("123456"))
def test_since_is_the_one_that_serves_and_what_was_before(order: list[str], serving: str) -> None:
    found = since(order, serving)
    assert found[0] == serving
    assert [*order[: len(order) - len(found) + (serving not in order)], *found[serving not in order :]] == order
