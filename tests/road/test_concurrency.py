"""Several runs at once on one endpoint: whatever they do to each other, requests are answered by what is verified."""

# No `from __future__ import annotations`: kfp reads the annotations themselves.

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from kfp import compiler, dsl

from components import job, local
from components.earthengine.errors import VerificationError, VertexError
from components.traffic import Split, change_traffic, undeploy
from components.trial import leftover_trials, make_trial, remove_trial
from components.vertex import Vertex
from tests.road.runs import Doing, Run, Site, labels, spoil

pytestmark = pytest.mark.slow

Waiting = Callable[[str], contextlib.AbstractContextManager[None]]


@dsl.component(base_image="python")  # type: ignore[untyped-decorator]
def wait() -> None:
    import time

    time.sleep(600)


@dsl.pipeline(name="wait")  # type: ignore[untyped-decorator]
def wait_for_ever() -> None:
    wait()


@pytest.fixture
def waiting(vertex: Vertex, tmp_path: Path) -> Waiting:
    """Keeps a pipeline job of an id going for the block, so that the run of that id counts as at work."""
    template = tmp_path / "wait.yaml"
    compiler.Compiler().compile(wait_for_ever, str(template))

    @contextlib.contextmanager
    def job_of(run: str) -> Iterator[None]:
        wanted = {
            "pipeline_spec": yaml.safe_load(template.read_text()),
            "runtime_config": {"gcs_output_directory": f"gs://{local.BUCKET}/root"},
        }
        name = vertex.pipelines.create_pipeline_job(parent=vertex.parent, pipeline_job=wanted, pipeline_job_id=run).name
        try:
            yield
        finally:
            vertex.pipelines.cancel_pipeline_job(name=name)
            while not job.has_ended(vertex, run):
                time.sleep(0.05)

    return job_of


@dataclass(frozen=True)
class Sight:
    """What was seen of an endpoint at once."""

    split: Split
    there: frozenset[str]


@contextlib.contextmanager
def watched(vertex: Vertex, endpoint: str) -> Iterator[list[Sight]]:
    """What there is to see of an endpoint during the block, as often as it answers."""
    seen: list[Sight] = []
    done = threading.Event()
    own = Vertex(vertex.project, vertex.location)

    def look() -> None:
        while not done.is_set():
            found = own.endpoints.get_endpoint(name=endpoint)
            seen.append(Sight(dict(found.traffic_split), frozenset(each.id for each in found.deployed_models)))
            time.sleep(0.005)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield seen
        finally:
            done.set()
        looking.result()


def assert_sound(seen: list[Sight]) -> None:
    assert len(seen) > 20
    for sight in seen:
        assert sum(sight.split.values()) == 100
        assert set(sight.split) <= sight.there, "a model that is gone has no traffic"


def ready(run: Run) -> str:
    """Deployed and verified; the id of the deployed model."""
    run.deploy()
    return run.verify().deployed_model


def test_of_runs_at_once_one_ends_with_all_the_traffic(site: Site, waiting: Waiting) -> None:
    assert site.run("old").walk().released
    runs = [site.run(name) for name in ("one", "two", "three")]
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.enter_context(waiting(run.name))
        with watched(site.vertex, site.endpoint) as seen:
            processes = [run.start() for run in runs]
            said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert_sound(seen)
    assert list(site.traffic.values()) == [100]
    winner = next(iter(site.traffic))
    assert sum(f"(deployed model {winner}) is verified and has all the traffic" in each for each in said) == 1
    for run, sentence in zip(runs, said, strict=True):
        deployment, last = run.record.deployment(), run.record.verifications()[-1]
        assert deployment
        if "is verified and has all the traffic" in sentence:
            assert (last.share, last.fault) == (100, ""), "it had all of it, if only for a while"
        else:
            assert "VerificationError: " in sentence
            assert "another run or a person" in sentence
            assert deployment.deployed_model not in site.deployed
        assert site.trials == []


def test_a_failing_run_does_not_disturb_one_that_passes(site: Site, waiting: Waiting) -> None:
    old = next(iter(site.run("old").walk().traffic))
    failing, passing = site.run("failing"), site.run("passing")
    with waiting(failing.name), waiting(passing.name):
        refused, newcomer = ready(failing), ready(passing)
        spoil(failing.archive)

        def fail() -> None:
            with pytest.raises(VerificationError, match="output index differs"):
                failing.release()
            assert not failing.conclude("it answers wrongly").released

        with watched(site.vertex, site.endpoint) as seen:
            passing.release(record=Doing(passing.record.folder, 10, fail))
            done = passing.conclude()
    assert_sound(seen)
    assert done.released
    assert site.traffic == {newcomer: 100}
    assert site.deployed == {old, newcomer}
    shares = [sight.split for sight in seen]
    assert {old: 81, newcomer: 9, refused: 10} in shares, "both at once"
    assert all(split.get(newcomer, 0) >= 9 for split in shares[shares.index({old: 90, newcomer: 10}) :])
    assert [each.fault for each in passing.record.verifications()] == ["", "", "", ""]


def test_a_run_that_fails_at_the_end_gives_back_to_the_one_that_was_released_meanwhile(
    site: Site, waiting: Waiting
) -> None:
    """And not to the model that served when it was deployed."""
    assert site.run("old").walk().released
    late = site.run("late")
    with waiting(late.name):
        ready(late)
        meanwhile = site.run("meanwhile").walk()
        with pytest.raises(VerificationError, match="output index differs"):
            late.release(record=Doing(late.record.folder, 50, lambda: spoil(late.archive)))
    assert [each.share for each in late.record.verifications()] == [100, 10, 50, 100]
    assert site.traffic == meanwhile.traffic
    assert late.conclude("it answers wrongly").traffic == meanwhile.traffic
    assert site.deployed >= set(meanwhile.traffic)


def test_a_model_that_was_taken_off_meanwhile_is_not_released(site: Site) -> None:
    served = site.run("old").walk().traffic
    run = site.run("new")
    undeploy(site.vertex, site.endpoint, ready(run))
    with pytest.raises(VerificationError, match=r"is not at .* any more: another run or a person took it off"):
        run.release(canary_percent=100, promotion_steps=[100])
    assert site.traffic == served, "which giving all to nobody would have ended"
    assert run.conclude("it is gone").traffic == served


def test_a_run_whose_share_others_have_taken_gives_up(site: Site) -> None:
    assert site.run("old").walk().released
    late, early = site.run("late"), site.run("early")
    ready(late)
    released = ready(early)

    def overtake() -> None:
        early.release(canary_percent=100, promotion_steps=[100])

    with pytest.raises(VerificationError, match=r"had 10 % of the traffic .* another run or a person changed it"):
        late.release(record=Doing(late.record.folder, 10, overtake))
    assert site.traffic == {released: 100}
    assert late.conclude("others were faster").traffic == {released: 100}


def test_where_those_who_served_meanwhile_are_gone_the_best_that_is_left_takes_over(
    site: Site, waiting: Waiting
) -> None:
    old = next(iter(site.run("old").walk().traffic))
    first, second = site.run("first"), site.run("second")
    with waiting(first.name), waiting(second.name):
        gone = ready(first)
        ready(second)
        change_traffic(site.vertex, site.endpoint, lambda _: {gone: 100})  # at its last verification, say

        def remove() -> None:
            spoil(second.archive)
            change_traffic(site.vertex, site.endpoint, lambda now: {each: 100 for each in now if each != gone})
            undeploy(site.vertex, site.endpoint, gone)

        with pytest.raises(VerificationError, match="output index differs"):
            second.release(record=Doing(second.record.folder, 50, remove))
    assert site.traffic == {old: 100}, "an endpoint that has served goes on to serve"
    assert site.deployed >= {old}


def test_two_runs_of_the_very_same_model_at_once(site: Site, waiting: Waiting) -> None:
    old = next(iter(site.run("old").walk().traffic))
    one = site.run("one")
    two = replace(one, name=f"{one.name}-2")
    with waiting(one.name), waiting(two.name), watched(site.vertex, site.endpoint) as seen:
        processes = [run.start() for run in (one, two)]
        said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert_sound(seen)
    assert list(site.traffic.values()) == [100]
    serving = next(iter(site.traffic))
    assert any(serving in each and "has all the traffic" in each for each in said)
    assert old not in site.traffic
    assert labels(site.vertex, one.model)["verified"]
    assert site.trials == []
    # Whichever way it went, the next run finds what serves, and leaves the model before it to go back to.
    done = site.run("one", "next").walk()
    assert (done.released, done.traffic) == (True, {serving: 100})
    assert site.deployed == {old, serving}


def test_what_a_run_at_work_has_is_left_alone_and_tidied_up_when_it_has_ended(site: Site, waiting: Waiting) -> None:
    at_work, other, after = site.run("at-work"), site.run("other", keep_previous=0), site.run("after", keep_previous=0)
    with waiting(at_work.name):
        idle = at_work.deploy().deployed_model
        done = other.walk()
        assert done.released
        assert site.deployed == {idle, *done.traffic}
        assert site.trials == [at_work.name]
        assert leftover_trials(site.vertex, site.endpoint) == []
    assert [name.rsplit("/", 1)[0] for name in leftover_trials(site.vertex, site.endpoint)] == [
        f"{site.vertex.parent}/endpoints"
    ]
    done = after.walk()
    assert site.deployed == set(done.traffic)
    assert site.trials == []


def test_what_is_left_over_is_removed_by_several_at_once(site: Site) -> None:
    leftover = site.run("leftover")
    trial = leftover.deploy().trial
    with ThreadPoolExecutor(4) as pool:
        removals = [
            pool.submit(remove_trial, Vertex(site.vertex.project, site.vertex.location), trial) for _ in range(4)
        ]
    assert [removal.result() for removal in removals] == [None] * 4
    assert site.trials == []
    make_trial(site.vertex, site.endpoint, "empty")
    assert site.trials == ["empty"]


@pytest.fixture
def crowd(site: Site) -> list[str]:
    """Ids of deployments, four that share the traffic and a fifth that has none."""
    ids = ["1", "2", "3", "4", "5"]
    site.deploy_by_hand("crowd", ids)
    change_traffic(site.vertex, site.endpoint, lambda _: dict.fromkeys(ids[:4], 25))
    return ids


def test_no_change_of_traffic_is_lost(site: Site, crowd: list[str]) -> None:
    *givers, taker = crowd
    conflicts = 0

    def give(giver: str) -> int:
        vertex = Vertex(site.vertex.project, site.vertex.location)
        worked_out = 0

        def one_percent(now: Split) -> Split:
            nonlocal worked_out
            worked_out += 1
            return {**now, giver: now[giver] - 1, taker: now.get(taker, 0) + 1}

        for _ in range(15):
            change_traffic(vertex, site.endpoint, one_percent)
        return worked_out

    with watched(site.vertex, site.endpoint) as seen, ThreadPoolExecutor(4) as pool:
        conflicts = sum(pool.map(give, givers)) - 4 * 15
    assert_sound(seen)
    assert site.traffic == {**dict.fromkeys(givers, 10), taker: 60}
    assert conflicts > 0, "they met, and each change was worked out again"


def test_a_change_that_others_make_in_vain_every_time_is_given_up(
    site: Site, crowd: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.traffic._ATTEMPTS", 3)
    other = Vertex(site.vertex.project, site.vertex.location)

    def outrun(now: Split) -> Split:
        other.endpoints.update_endpoint(
            endpoint={"name": site.endpoint, "description": str(time.monotonic())},
            update_mask={"paths": ["description"]},
        )
        return {crowd[0]: 100}

    with pytest.raises(VertexError, match="was changed by others 3 times while it was to be changed; run again"):
        change_traffic(site.vertex, site.endpoint, outrun)
    assert site.traffic == dict.fromkeys(crowd[:4], 25)


def test_a_share_of_a_model_that_has_been_taken_off_goes_to_the_others(site: Site, crowd: list[str]) -> None:
    split = change_traffic(site.vertex, site.endpoint, lambda _: {"1": 30, "2": 30, "999": 40})
    assert split == site.traffic == {"1": 50, "2": 50}
