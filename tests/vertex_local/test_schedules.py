# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either.
import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.api_core import exceptions
from google.cloud import aiplatform, aiplatform_v1
from google.protobuf import json_format
from kfp import compiler, dsl

from containers.vertex_local import messages
from containers.vertex_local.projects import Projects
from containers.vertex_local.services.jobs import Jobs
from containers.vertex_local.services.operations import Operations
from containers.vertex_local.services.schedules import Schedules
from containers.vertex_local.store import Store

from .conftest import NUMBERED, PARENT, Emulator, start, stop, until

State = aiplatform_v1.Schedule.State
NEVER = "0 0 29 2 *"


@dsl.component(base_image="steps", install_kfp_package=False)
def wait(seconds: int) -> None:
    import time

    time.sleep(seconds)


@dsl.pipeline(name="retrain")
def retrain(seconds: int = 0) -> None:
    wait(seconds=seconds)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pipeline") / "retrain.yaml"
    compiler.Compiler().compile(retrain, str(path))
    return str(path)


def request_for(template: str, **fields: Any) -> dict[str, Any]:
    """A CreateScheduleRequest, as JSON has it."""
    job = {
        "pipelineSpec": yaml.safe_load(Path(template).read_text()),
        "runtimeConfig": {"gcsOutputDirectory": "gs://staging/root", "parameterValues": {"seconds": 600}},
    }
    schedule = {
        "displayName": "nightly",
        "cron": "* * * * *",
        "maxConcurrentRunCount": 1,
        "createPipelineJobRequest": {"parent": PARENT, "pipelineJob": job},
    }
    return {"parent": PARENT, "schedule": schedule | fields}


def create(emulator: Emulator, template: str, **fields: Any) -> Any:
    request = aiplatform_v1.CreateScheduleRequest()
    json_format.ParseDict(request_for(template, **fields), request._pb)
    return emulator.schedules.create_schedule(request)


@pytest.fixture
def pipeline_job(emulator: Emulator, template: str) -> aiplatform.PipelineJob:
    return aiplatform.PipelineJob(
        display_name="retrain", template_path=template, pipeline_root="gs://staging/root", enable_caching=False
    )


# The SDK's own call of its logger.
@pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")
def test_the_sdk_creates_pauses_resumes_updates_and_deletes(
    emulator: Emulator, pipeline_job: aiplatform.PipelineJob
) -> None:
    schedule = pipeline_job.create_schedule(
        display_name="weekly", cron="TZ=Europe/Paris 0 3 * * 1", max_run_count=5, allow_queueing=True
    )
    assert schedule.state == State.ACTIVE
    resource = emulator.schedules.get_schedule(name=schedule.resource_name)
    assert resource.name.startswith(f"{NUMBERED}/schedules/")
    assert (resource.max_run_count, resource.allow_queueing, resource.started_run_count) == (5, True, 0)
    assert (resource.next_run_time.astimezone(UTC).hour, resource.next_run_time.weekday()) in {(1, 0), (2, 0)}
    schedule.pause()
    assert schedule.state == State.PAUSED
    schedule.update(cron="0 4 * * 2", max_run_count=7)
    schedule.resume()
    resource = emulator.schedules.get_schedule(name=schedule.resource_name)
    assert (resource.state, resource.cron, resource.max_run_count) == (State.ACTIVE, "0 4 * * 2", 7)
    assert (resource.next_run_time.hour, resource.next_run_time.weekday()) == (4, 1)
    [listed] = aiplatform.PipelineJobSchedule.list(filter='display_name="weekly" AND state="ACTIVE"')
    assert listed.resource_name == schedule.resource_name
    assert schedule.list_jobs() == []
    schedule.delete()
    with pytest.raises(exceptions.NotFound, match=resource.name):
        emulator.schedules.get_schedule(name=resource.name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"displayName": ""}, "displayName"),
        ({"cron": "often"}, "'often'"),
        ({"cron": "TZ=Europe/Nowhere * * * * *"}, "Europe/Nowhere"),
        ({"maxConcurrentRunCount": 0}, "maxConcurrentRunCount"),
        ({"maxRunCount": -1}, "maxRunCount"),
        ({"endTime": "2020-01-01T00:00:00Z"}, "endTime"),
        ({"createPipelineJobRequest": {}}, r"createPipelineJobRequest\.parent"),
        ({"createPipelineJobRequest": {"parent": PARENT}}, "pipeline"),
    ],
)
def test_a_schedule_that_could_not_run_is_refused(
    emulator: Emulator, template: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(exceptions.BadRequest, match=message):
        create(emulator, template, **fields)


def test_only_a_schedule_in_the_right_state_changes(emulator: Emulator, template: str) -> None:
    name = create(emulator, template, cron=NEVER).name
    with pytest.raises(exceptions.BadRequest, match="ACTIVE"):
        emulator.schedules.resume_schedule(name=name)
    emulator.schedules.pause_schedule(name=name)
    with pytest.raises(exceptions.BadRequest, match="PAUSED"):
        emulator.schedules.pause_schedule(name=name)
    with pytest.raises(exceptions.BadRequest, match="cron"):
        emulator.schedules.update_schedule(schedule={"name": name, "cron": "never"}, update_mask={"paths": ["cron"]})
    with pytest.raises(exceptions.BadRequest, match="started_run_count"):
        emulator.schedules.update_schedule(
            schedule={"name": name, "started_run_count": 0}, update_mask={"paths": ["started_run_count"]}
        )
    assert emulator.schedules.get_schedule(name=name).cron == NEVER
    for verb in ("pause", "get", "delete"):
        with pytest.raises(exceptions.NotFound, match="schedules/1"):
            getattr(emulator.schedules, f"{verb}_schedule")(name=f"{PARENT}/schedules/1")


class Clock:
    """Schedules over a store and jobs of their own, with the time told by the test."""

    def __init__(self, directory: Path, template: str) -> None:
        self._template = template
        self.store = Store(directory)
        operations = Operations(self.store)
        self.jobs = Jobs(self.store, operations, Projects(self.store), directory, None)
        self.schedules = Schedules(self.store, operations, self.jobs)

    def create(self, **fields: Any) -> str:
        request = messages.from_fields(messages.CreateScheduleRequest, request_for(self._template, **fields))
        name: str = self.schedules.create_schedule(request).name
        return name

    def run(self, name: str, minutes: int, begin: datetime | None = None) -> Any:
        """Lets minutes pass, second by second at the full minute; gives the schedule."""
        begin = begin or self.schedules.get(name).next_run_time.ToDatetime(UTC)
        for minute in range(minutes):
            for second in range(3):
                self.schedules.tick(begin + timedelta(minutes=minute, seconds=second))
        return self.schedules.get(name)

    def play(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Plays a scenario in an event loop, and ends what it has left running."""

        async def with_end() -> None:
            try:
                await scenario()
            finally:
                await self.end()

        asyncio.run(with_end())

    def started(self) -> int:
        return len(self.jobs.all())

    async def end(self) -> None:
        """Ends what runs, as if it had come to its end."""
        await self.jobs.stop()


@pytest.fixture
def clock(tmp_path: Path, template: str) -> Iterator[Clock]:
    clock = Clock(tmp_path, template)
    with closing(clock.store):
        yield clock


def test_a_schedule_runs_each_time_until_its_count_is_reached(clock: Clock) -> None:
    async def scenario() -> None:
        name = clock.create(maxRunCount=2)
        first = clock.schedules.get(name).next_run_time.ToDatetime(UTC)
        clock.schedules.tick(first - timedelta(seconds=1))
        assert clock.started() == 0
        assert clock.run(name, 1).next_run_time.ToDatetime(UTC) == first + timedelta(minutes=1)
        after = clock.run(name, 3)
        assert (after.state, after.started_run_count, clock.started()) == (State.COMPLETED, 2, 2)
        assert not after.HasField("next_run_time")
        assert {job.schedule_name for job in clock.jobs.all()} == {name}
        with pytest.raises(Exception, match="COMPLETED"):
            clock.schedules.pause_schedule(messages.PauseScheduleRequest(name=name))

    clock.play(scenario)


def test_a_run_over_the_limit_of_active_ones_is_skipped(clock: Clock) -> None:
    async def scenario() -> None:
        name = clock.create(maxConcurrentActiveRunCount=1)
        begin = clock.schedules.get(name).next_run_time.ToDatetime(UTC)
        after = clock.run(name, 3, begin)
        assert (after.started_run_count, clock.started()) == (1, 1)
        assert after.last_scheduled_run_response.run_response.startswith("Skipped: 1")
        assert after.next_run_time.ToDatetime(UTC) == begin + timedelta(minutes=3)

    clock.play(scenario)


def test_a_run_over_the_limit_waits_where_queueing_is_allowed(clock: Clock) -> None:
    async def scenario() -> None:
        name = clock.create(maxConcurrentActiveRunCount=1, allowQueueing=True)
        begin = clock.schedules.get(name).next_run_time.ToDatetime(UTC)
        waiting = clock.run(name, 3, begin)
        assert clock.started() == 1
        assert waiting.next_run_time.ToDatetime(UTC) == begin + timedelta(minutes=1)
        for count in (2, 3):
            await clock.end()
            clock.schedules.tick(begin + timedelta(minutes=2, seconds=30))
            assert clock.started() == count
        assert clock.schedules.get(name).next_run_time.ToDatetime(UTC) == begin + timedelta(minutes=3)

    clock.play(scenario)


@pytest.mark.parametrize(("catch_up", "runs"), [(False, 0), (True, 3)])
def test_what_a_pause_missed_is_made_up_for_on_request(clock: Clock, catch_up: bool, runs: int) -> None:
    async def scenario() -> None:
        name = clock.create(startTime=(datetime.now(UTC) - timedelta(hours=1)).isoformat())
        clock.schedules.pause_schedule(messages.PauseScheduleRequest(name=name))
        begin = clock.schedules.get(name).next_run_time.ToDatetime(UTC)
        clock.run(name, 3, begin)
        assert clock.started() == 0
        paused = clock.schedules.get(name)
        paused.last_pause_time.FromDatetime(begin - timedelta(minutes=3, seconds=1))
        clock.schedules._save(paused)
        clock.schedules.resume_schedule(messages.ResumeScheduleRequest(name=name, catch_up=catch_up))
        for _ in range(5):
            clock.schedules.tick(begin - timedelta(seconds=1))
        assert clock.started() == runs

    clock.play(scenario)


def test_an_end_completes_a_schedule(clock: Clock) -> None:
    async def scenario() -> None:
        end = datetime.now(UTC).replace(second=30) + timedelta(minutes=2)
        name = clock.create(endTime=end.isoformat())
        after = clock.run(name, 5)
        assert (after.state, after.started_run_count) == (State.COMPLETED, 2)

    clock.play(scenario)


@pytest.mark.slow
def test_schedules_really_fire_and_outlive_the_emulator(tmp_path: Path, template: str) -> None:
    """A minute passes: one runs and is completed, a paused one does not run."""
    first = start(tmp_path / "state")
    try:
        once, paused, deleted = _three(first, template)
    finally:
        stop(first)
    running = start(tmp_path / "state", first.port)
    try:
        running.schedules.delete_schedule(name=deleted).result(timeout=20)
        until(lambda: running.schedules.get_schedule(name=once).state == State.COMPLETED, timeout_s=70)
        fired = running.schedules.get_schedule(name=once)
        assert fired.started_run_count == 1
        [job] = running.jobs.list_pipeline_jobs({"parent": PARENT, "filter": f'schedule_name="{once}"'})
        assert fired.last_scheduled_run_response.run_response == f"OK: {job.name}"
        assert (fired.last_scheduled_run_response.scheduled_run_time.second, job.create_time.second) in {(0, 0), (0, 1)}
        until(lambda: _state(running, job.name) == aiplatform_v1.PipelineState.PIPELINE_STATE_SUCCEEDED)
        assert running.schedules.get_schedule(name=paused).started_run_count == 0
        assert len(list(running.jobs.list_pipeline_jobs(parent=PARENT))) == 1
    finally:
        stop(running)


def _three(emulator: Emulator, template: str) -> tuple[str, str, str]:
    request = request_for(template)["schedule"]["createPipelineJobRequest"]
    request["pipelineJob"]["runtimeConfig"]["parameterValues"] = {"seconds": 0}
    once = create(emulator, template, maxRunCount=1, createPipelineJobRequest=request).name
    paused = create(emulator, template).name
    emulator.schedules.pause_schedule(name=paused)
    return once, paused, create(emulator, template).name


def _state(emulator: Emulator, name: str) -> aiplatform_v1.PipelineState:
    state: aiplatform_v1.PipelineState = emulator.jobs.get_pipeline_job(name=name).state
    return state
