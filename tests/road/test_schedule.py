# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either; and it reads the annotations itself, so none from __future__.
"""Schedules on a real local Vertex AI: one of a name, whoever makes it and however often."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl

from components import local
from components.earthengine.errors import ScheduleError, VertexError
from components.schedule import (
    Put,
    delete_schedule,
    pause_schedule,
    put_schedule,
    resume_schedule,
    run_schedule,
)
from components.schedules import Schedule, list_schedules
from components.vertex import Vertex

pytestmark = pytest.mark.slow

NEVER = "0 0 29 2 *"
ROOT = f"gs://{local.BUCKET}/root"
RACER = """
import json, sys
from pathlib import Path
from google.cloud import aiplatform  # before the race
from components.schedule import put_schedule
from components.schedules import list_schedules
from components.vertex import Vertex
vertex = Vertex(*sys.argv[1:3])
list_schedules(vertex)
print("ready", flush=True)
for name in map(str.strip, sys.stdin):
    put = put_schedule(vertex, name=name, cron="0 0 29 2 *", template=Path(sys.argv[3]),
                       parameters={"seconds": int(sys.argv[4])}, pipeline_root="gs://local/root")
    print(json.dumps([put.created, put.schedule.resource]), flush=True)
"""


@dsl.component(base_image="steps", install_kfp_package=False)
def wait(seconds: int) -> None:
    import time

    time.sleep(seconds)


@dsl.pipeline(name="tiny")
def tiny(seconds: int = 0) -> None:
    wait(seconds=seconds).set_caching_options(enable_caching=False)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline") / "tiny.yaml"
    compiler.Compiler().compile(tiny, str(path))
    return path


@pytest.fixture
def put(vertex: Vertex, template: Path) -> Iterator[Callable[..., Put]]:
    """A function that puts a schedule of the tiny pipeline; all are deleted afterwards."""

    def put_tiny(name: str = "weekly", cron: str = NEVER, seconds: int = 0, **given: Any) -> Put:
        given = {"parameters": {"seconds": seconds}, "pipeline_root": ROOT, **given}
        return put_schedule(vertex, name=name, cron=cron, template=template, **given)

    yield put_tiny
    for schedule in list_schedules(vertex):
        delete_schedule(vertex, schedule.resource.rsplit("/", 1)[-1])


def until(found: Callable[[], Any], seconds: float) -> Any:
    """What a function gives as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)
    return result


def job_of(vertex: Vertex, name: str) -> Any:
    return vertex.pipelines.get_pipeline_job(name=name)


def state_of(vertex: Vertex, name: str) -> str:
    return str(job_of(vertex, name).state.name)


def message_of(vertex: Vertex, schedule: Schedule) -> Any:
    return vertex.schedules.get_schedule(name=schedule.resource)


def made_by_hand(vertex: Vertex, like: Schedule, **fields: Any) -> str:
    """A schedule like another, as other tools make it; returns its resource name."""
    message = message_of(vertex, like)
    schedule = {
        "display_name": message.display_name,
        "cron": NEVER,
        "max_concurrent_run_count": 7,
        "create_pipeline_job_request": message.create_pipeline_job_request,
    }
    return str(vertex.schedules.create_schedule(parent=vertex.parent, schedule=schedule | fields).name)


def test_a_schedule_is_created_with_one_run_at_a_time(vertex: Vertex, put: Callable[..., Put]) -> None:
    made = put(cron=" TZ=Europe/Paris  0 3 * * 1", seconds=3, service_account="robot@local")
    schedule = made.schedule
    assert (made.created, made.removed) == (True, ())
    assert (schedule.name, schedule.cron, schedule.state) == ("weekly", "TZ=Europe/Paris 0 3 * * 1", "ACTIVE")
    assert (schedule.pipeline, schedule.runs, schedule.last_run) == ("tiny", 0, None)
    assert schedule.next_run
    assert (schedule.next_run.weekday(), schedule.next_run.hour, str(schedule.next_run.tzinfo)) == (
        0,
        3,
        "Europe/Paris",
    )
    message = message_of(vertex, schedule)
    assert (message.max_concurrent_run_count, message.max_concurrent_active_run_count) == (1, 1)
    assert not message.allow_queueing
    job = message.create_pipeline_job_request.pipeline_job
    assert (job.service_account, dict(job.runtime_config.parameter_values)) == ("robot@local", {"seconds": 3})
    assert job.runtime_config.gcs_output_directory == ROOT


def test_a_schedule_of_a_name_is_changed_in_place(vertex: Vertex, put: Callable[..., Put]) -> None:
    first = put(seconds=1, service_account="robot@local").schedule
    second = put(cron="0 4 * * 2", seconds=2, pipeline_root=f"{ROOT}/other")
    assert (second.created, second.removed) == (False, ())
    assert (second.schedule.resource, second.schedule.cron) == (first.resource, "0 4 * * 2")
    assert second.schedule.next_run
    assert (second.schedule.next_run.weekday(), second.schedule.next_run.hour) == (1, 4)
    assert list_schedules(vertex) == [second.schedule]
    job = message_of(vertex, first).create_pipeline_job_request.pipeline_job
    assert (job.service_account, dict(job.runtime_config.parameter_values)) == ("", {"seconds": 2})
    assert job.runtime_config.gcs_output_directory == f"{ROOT}/other"


def test_a_paused_schedule_is_changed_and_stays_paused(vertex: Vertex, put: Callable[..., Put]) -> None:
    first = put().schedule
    assert pause_schedule(vertex, "weekly")
    second = put(cron="0 4 * * 2").schedule
    assert (second.resource, second.state, second.cron) == (first.resource, "PAUSED", "0 4 * * 2")


def test_of_several_of_a_name_the_oldest_stays(vertex: Vertex, put: Callable[..., Put]) -> None:
    oldest = put().schedule
    others = {made_by_hand(vertex, oldest) for _ in range(2)}
    kept = made_by_hand(vertex, oldest, display_name="weekly too")
    with pytest.raises(ScheduleError, match=r"3 schedules are named 'weekly' \(\d+, \d+, \d+\); give the id"):
        pause_schedule(vertex, "weekly")
    now = put(seconds=2)
    assert (now.created, now.schedule.resource, set(now.removed)) == (False, oldest.resource, others)
    assert [each.resource for each in list_schedules(vertex)] == [oldest.resource, kept]


def test_what_another_tool_made_is_changed_to_one_run_at_a_time(vertex: Vertex, put: Callable[..., Put]) -> None:
    other = made_by_hand(vertex, put("first").schedule, display_name="weekly", allow_queueing=True)
    assert put().schedule.resource == other
    message = vertex.schedules.get_schedule(name=other)
    assert (message.max_concurrent_run_count, message.max_concurrent_active_run_count) == (1, 1)
    assert not message.allow_queueing


def test_a_completed_schedule_is_replaced(vertex: Vertex, put: Callable[..., Put]) -> None:
    first = put("first").schedule
    end = datetime.now(UTC) + timedelta(seconds=5)  # before it is due for the first time
    completed = made_by_hand(vertex, first, display_name="weekly", end_time=end)
    assert vertex.schedules.get_schedule(name=completed).state.name == "COMPLETED"
    for change in (pause_schedule, resume_schedule):
        with pytest.raises(ScheduleError, match="'weekly' has completed"):
            change(vertex, "weekly")
    now = put()
    assert (now.created, now.removed, now.schedule.state) == (True, (completed,), "ACTIVE")
    assert [each.resource for each in list_schedules(vertex)] == [first.resource, now.schedule.resource]


def test_processes_that_schedule_at_once_make_one(vertex: Vertex, put: Callable[..., Put], template: Path) -> None:
    with ExitStack() as running:
        racers = []
        for number in range(3):
            command = [sys.executable, "-c", RACER, vertex.project, vertex.location, str(template), str(number)]
            racer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            racers.append(running.enter_context(racer))
            running.callback(racer.kill)
        assert [racer.stdout.readline() for racer in racers if racer.stdout] == ["ready\n"] * 3
        for number in range(6):
            for racer in racers:
                assert racer.stdin
                racer.stdin.write(f"race-{number}\n")
                racer.stdin.flush()
            answers = [json.loads(racer.stdout.readline()) for racer in racers if racer.stdout]
            [left] = [each for each in list_schedules(vertex) if each.name == f"race-{number}"]
            assert any(resource == left.resource for _, resource in answers)
        assert len(list_schedules(vertex)) == 6


def test_pausing_and_resuming_twice_is_fine(vertex: Vertex, put: Callable[..., Put]) -> None:
    made = put().schedule
    assert not resume_schedule(vertex, "weekly")
    assert pause_schedule(vertex, "weekly")
    assert not pause_schedule(vertex, "weekly")
    [paused] = list_schedules(vertex)
    assert paused.state == "PAUSED"
    assert resume_schedule(vertex, made.resource.rsplit("/", 1)[-1])
    assert not resume_schedule(vertex, "weekly")
    assert list_schedules(vertex) == [replace(made, next_run=list_schedules(vertex)[0].next_run)]
    assert not message_of(vertex, made).catch_up


def test_a_schedule_is_deleted(vertex: Vertex, put: Callable[..., Put]) -> None:
    put("first")
    put()
    delete_schedule(vertex, "weekly")
    assert [each.name for each in list_schedules(vertex)] == ["first"]


@pytest.mark.parametrize("act", [pause_schedule, resume_schedule, delete_schedule, run_schedule])
def test_an_unknown_schedule_is_told_with_those_that_there_are(
    vertex: Vertex, put: Callable[..., Put], act: Callable[[Vertex, str], Any]
) -> None:
    with pytest.raises(ScheduleError, match=r"'weakly' does not exist in projects/local/.*there are: none"):
        act(vertex, "weakly")
    put()
    put("*")
    with pytest.raises(ScheduleError, match=r"there are: \*, weekly"):
        act(vertex, "weakly")


def test_a_schedule_runs_now_even_while_paused(vertex: Vertex, put: Callable[..., Put]) -> None:
    put()
    pause_schedule(vertex, "weekly")
    name = run_schedule(vertex, "weekly")
    assert run_schedule(vertex, "weekly") != name
    until(lambda: state_of(vertex, name) == "PIPELINE_STATE_SUCCEEDED", 60)
    job = job_of(vertex, name)
    assert (job.display_name, dict(job.runtime_config.parameter_values)) == ("weekly", {"seconds": 0})
    [schedule] = list_schedules(vertex)
    assert (schedule.state, schedule.runs) == ("PAUSED", 0)


def test_a_schedule_fires_and_its_last_run_is_told(vertex: Vertex, put: Callable[..., Put]) -> None:
    put(cron="* * * * *", seconds=2)
    fired = until(lambda: next((each for each in list_schedules(vertex) if each.runs), None), 70)
    assert fired.last_run.answer.startswith("OK")
    assert fired.last_run.due.second == 0
    assert fired.next_run == fired.last_run.due + timedelta(minutes=1)
    pause_schedule(vertex, "weekly")
    [ended] = until(
        lambda: [each for each in list_schedules(vertex) if each.last_run and each.last_run.state == "SUCCEEDED"], 60
    )
    assert (ended.runs, ended.last_run.due) == (1, fired.last_run.due)
    put("another", seconds=60)
    newer = run_schedule(vertex, "another")
    until(lambda: state_of(vertex, newer) == "PIPELINE_STATE_RUNNING", 60)
    assert [each.last_run for each in list_schedules(vertex)] == [None, ended.last_run]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cron": "often"}, "cron 'often' has 1 field"),
        ({"cron": "TZ=Europe/Nowhere 0 3 * * 1"}, "'Europe/Nowhere'"),
        ({"name": ""}, "0 characters; allowed are 1 to 128"),
        ({"name": "n" * 129}, "129 characters"),
        ({"parameters": {"minutes": 1}}, "parameter minutes is not found"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_and_changes_nothing(
    vertex: Vertex, put: Callable[..., Put], given: dict[str, Any], message: str
) -> None:
    before = put().schedule
    with pytest.raises(ScheduleError, match=message):
        put(**given)
    assert list_schedules(vertex) == [before]


def test_what_vertex_ai_refuses_changes_nothing(vertex: Vertex, put: Callable[..., Put]) -> None:
    first = put().schedule
    other = made_by_hand(vertex, first)
    before = list_schedules(vertex)
    with pytest.raises(VertexError, match=r"could not schedule weekly: 400: .*'seconds' is of type"):
        put(parameters={"seconds": "many"})
    with pytest.raises(VertexError, match="could not schedule new: 400: "):
        put("new", parameters={"seconds": "many"})
    assert list_schedules(vertex) == before
    assert {each.resource for each in before} == {first.resource, other}


def test_a_schedule_of_another_pipeline_is_not_replaced(
    vertex: Vertex, put: Callable[..., Put], tmp_path: Path
) -> None:
    before = message_of(vertex, put("billing").schedule)

    @dsl.pipeline(name="another")
    def another() -> None:
        wait(seconds=0)

    path = tmp_path / "another.yaml"
    compiler.Compiler().compile(another, str(path))
    given: dict[str, Any] = {"cron": NEVER, "template": path, "parameters": {}, "pipeline_root": ROOT}
    told = r"'billing' \(.*\) runs tiny, not another, and is not replaced; give another --name"
    with pytest.raises(ScheduleError, match=told):
        put_schedule(vertex, name="billing", **given)
    assert vertex.schedules.get_schedule(name=before.name) == before
    path.write_text("a: [")
    with pytest.raises(ScheduleError, match=r"another\.yaml cannot be scheduled"):
        put_schedule(vertex, name="new", **given)
    assert len(list_schedules(vertex)) == 1
