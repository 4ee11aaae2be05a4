"""Calls whose answers are lost, or that are carried out late: nothing is done twice."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components import deploy, local, operations
from components.endpoint import find_or_create_endpoint
from components.releases import released
from components.rollback import roll_back
from components.traffic import change_endpoint, create_endpoint, read_endpoint, shares_at
from components.upload import upload_model
from components.versions import VERIFIED, label_version, list_versions
from components.vertex import Vertex
from tests.faults.proxy import Call, Fault, Late, Reset, Status, no_fault
from tests.faults.walks import World, world
from tests.road import conftest as road
from tests.road.runs import PYTORCH_IMAGE, deploy_by_hand, deployed, variant

pytestmark = pytest.mark.slow
small = road.small
STAGING = f"gs://{local.BUCKET}/staging"
LATE = Late(0.4)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("lost")) as found:
        yield found


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked for comes late, and far sooner than the last look."""
    monkeypatch.setattr(operations, "_PAUSES", (0.01, *[0.2] * 20))


@pytest.fixture(scope="module")
def endpoint(here: World, small: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An endpoint with three models, 1 to 3, that have passed their verifications."""
    folder = tmp_path_factory.mktemp("models")
    here.breaking(no_fault)
    found = find_or_create_endpoint(here.vertex, "back").name
    for each in "123":
        archive = variant(small, folder / each, name="back")
        model = upload_model(here.vertex, archive, PYTORCH_IMAGE, STAGING).name
        label_version(here.vertex, model, {VERIFIED: "passed-2026-01-02t03-04-05-00-00"})
        deploy_by_hand(here.vertex, [(found, model, each)], {each: 100})
    return found


def once(pattern: str, fault: Fault) -> Callable[[Call], Fault | None]:
    left = [fault]

    def policy(call: Call) -> Fault | None:
        return left.pop() if left and re.search(pattern, f"{call.method} {call.path}") else None

    return policy


@pytest.mark.parametrize("fault", [Reset("after"), Status(503, "after")])
@pytest.mark.parametrize(
    ("before", "order", "after", "remembered"),
    [
        pytest.param({"3": 100}, "3-2-1", {"2": 100}, ["2", "1"], id="released"),
        pytest.param({"2": 90, "3": 10}, "2-1", {"2": 100}, ["2", "1"], id="canary"),
        pytest.param({"1": 54, "2": 36, "3": 10}, "2-1", {"1": 60, "2": 40}, ["1"], id="canary beside two"),
    ],
)
def test_a_rollback_whose_answer_is_lost_is_made_once(
    here: World,
    endpoint: str,
    fault: Fault,
    before: dict[str, int],
    order: str,
    after: dict[str, int],
    remembered: list[str],
) -> None:
    wanted = {"traffic_split": before, "labels": {"releases": order}}
    here.breaking(no_fault)
    change_endpoint(here.vertex, endpoint, lambda _: wanted)
    here.breaking(once("PATCH .*/endpoints/back", fault))
    done = roll_back(Vertex(local.PROJECT, local.LOCATION), endpoint)
    found = read_endpoint(here.vertex, endpoint)
    assert shares_at(found) == after
    assert (done.before, done.after) == (before, after)
    assert released(found) == remembered


@pytest.mark.usefixtures("_patient")
def test_what_is_registered_late_is_registered_once(here: World, small: Path, tmp_path: Path) -> None:
    cloud = Vertex(local.PROJECT, local.LOCATION)
    for number in ("1", "2"):  # of a new model, whose id tells of it, and of a version, which none does
        here.breaking(once("POST .*models:upload", LATE))
        archive = variant(small, tmp_path / number, name="late")
        made = upload_model(cloud, archive, PYTORCH_IMAGE, STAGING)
        assert (made.name.split("@")[-1], made.created) == (number, True)
        assert sum("models:upload" in call.path for call in here.proxies[0].calls) == 1
        assert [each.version_id for each in list_versions(here.vertex, "late")] == ["2", "1"][-int(number) :]


@pytest.mark.usefixtures("_patient")
def test_an_endpoint_that_is_made_late_is_made_once(here: World) -> None:
    cloud = Vertex(local.PROJECT, local.LOCATION)
    here.breaking(once("POST .*/endpoints", LATE))
    assert create_endpoint(cloud, f"{cloud.parent}/endpoints/late", {"display_name": "late"})
    assert sum(call.method == "POST" for call in here.proxies[0].calls) == 1


@pytest.mark.usefixtures("_patient")
def test_what_is_deployed_late_is_deployed_once(here: World, endpoint: str) -> None:
    here.breaking(no_fault)
    undeploy_idle(here, endpoint, "1")
    cloud = Vertex(local.PROJECT, local.LOCATION)
    machine = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1, "max_replica_count": 1}
    newcomer = {"id": "1", "model": f"{cloud.parent}/models/back@1", "dedicated_resources": machine}
    here.breaking(once("POST .*:deployModel", LATE))
    assert deploy._begin(cloud, endpoint, newcomer, {}) is None
    assert "1" in deployed(here.vertex, endpoint)
    assert sum(":deployModel" in call.path for call in here.proxies[0].calls) == 1
    # It came even later than the last look: the run's own id is taken.
    assert deploy._begin(cloud, endpoint, newcomer, {}) is None
    assert sum(":deployModel" in call.path for call in here.proxies[0].calls) == 2


def undeploy_idle(here: World, endpoint: str, model: str) -> None:
    change_endpoint(here.vertex, endpoint, lambda _: {"traffic_split": {"2": 100}})
    here.vertex.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id=model).result(timeout=60)


def test_an_operation_that_is_forgotten_has_ended(here: World) -> None:
    here.breaking(no_fault)
    name = f"{here.vertex.parent}/endpoints/back/operations/1"
    operations.wait_until_ended(Vertex(local.PROJECT, local.LOCATION), [name], 60)
    assert len(here.proxies[0].calls) == 1


def test_operations_share_one_limit(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def wait(_look: object, _failed: str, seconds: float) -> None:
        given.append(seconds)
        time.sleep(0.1)

    monkeypatch.setattr(operations, "_wait", wait)
    operations.wait_until_ended(here.vertex, ["one", "two", "three"], 10)
    assert given[0] <= 10
    assert given[1] <= 9.9
    assert given[2] <= 9.8
