"""A step whose seconds are used up while a canary has traffic: it is tidied up, and the reason is the model's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components import conclude, deadline, local, release, verify
from components.deadline import DEPLOY_SECONDS, SECONDS, reserved, seconds_left, told, within
from components.earthengine.errors import VerificationError
from tests.faults.proxy import Status, no_fault
from tests.faults.test_giving_up import matching
from tests.faults.walks import World, walk, world
from tests.road import conftest as road
from tests.road.runs import Run, deployed, registered, traffic, trials, variant

small = road.small


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("tidied")) as found:
        yield found


@pytest.fixture(scope="module")
def endpoint(here: World, small: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An endpoint where a model is released."""
    walk(here, small, "tidied", 1, tmp_path_factory.mktemp("first"))
    return f"{here.vertex.parent}/endpoints/tidied"


def verified(here: World, endpoint: str, archive: Path, name: str) -> Run:
    """A run that has come to its release."""
    here.breaking(no_fault)
    run = Run(name, endpoint, registered(here.vertex, archive, f"gs://{local.BUCKET}/staging"), str(archive))
    run.deploy()
    run.verify()
    return run


def then_used_up(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, after which the step has no second left."""

    def used_up(*arguments: Any, **keywords: Any) -> Any:
        answer = function(*arguments, **keywords)
        deadline._deadline.set(deadline._Deadline("step release", 1, time.monotonic()))
        return answer

    return used_up


@pytest.mark.slow
def test_a_step_whose_seconds_are_used_up_gives_the_traffic_back(
    here: World, endpoint: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, there = traffic(here.vertex, endpoint), deployed(here.vertex, endpoint)
    run = verified(here, endpoint, variant(small, tmp_path / "second", name="tidied"), "tidied-2")
    with monkeypatch.context() as patch:
        patch.setattr(release, "verify_endpoint", then_used_up(verify.verify_endpoint))
        with pytest.raises(VerificationError, match=r"is not released: .*latency"), within("release"):
            run.release(max_latency_seconds=1e-6)
    assert traffic(here.vertex, endpoint) == before
    assert [bool(each.fault) for each in run.record.verifications()] == [False, True]
    with monkeypatch.context() as patch:
        patch.setattr(conclude, "take_back", then_used_up(release.take_back))
        with within("conclude"):
            done = run.conclude("it is too slow")
    assert (done.untidy, done.stays, trials(here.vertex, endpoint)) == ((), False, [])
    assert (traffic(here.vertex, endpoint), deployed(here.vertex, endpoint)) == (before, there)


@pytest.mark.slow
def test_where_the_traffic_cannot_be_given_back_the_reason_is_the_models_still(
    here: World, endpoint: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = verified(here, endpoint, variant(small, tmp_path / "third", name="tidied"), "tidied-3")

    def then_broken(*arguments: Any, **keywords: Any) -> Any:
        answer = then_used_up(verify.verify_endpoint)(*arguments, **keywords)
        here.breaking(matching("PATCH .*/endpoints/tidied", Status(503)))
        return answer

    monkeypatch.setattr(release, "verify_endpoint", then_broken)
    monkeypatch.setattr(deadline, "_RESERVED_SECONDS", 1)
    with pytest.raises(VerificationError, match=r"is not released: .*latency"), within("release"):
        run.release(max_latency_seconds=1e-6)
    here.breaking(no_fault)
    assert run.conclude("it is too slow").untidy == ()


def test_what_is_reserved_does_not_shorten_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with reserved():
        assert told() == ""
    with within("verify"), reserved():
        assert told() == "step verify has 3600 s"
    monkeypatch.setitem(SECONDS, "verify", 0)
    with within("verify"):
        with reserved():
            assert told() == "tidying up has 600 s"
            assert seconds_left() > 500
        assert seconds_left() == 0


def test_a_second_attempt_to_deploy_can_wait_for_the_first_and_deploy_anew() -> None:
    assert SECONDS["deploy"] >= 2 * DEPLOY_SECONDS
