"""Schedules as Vertex AI has them: what pipelines start by the clock, when next, and how the last run went."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from components.cron import Cron
from components.earthengine.errors import ScheduleError
from components.vertex import Vertex, explained


@dataclass(frozen=True)
class Run:
    """A schedule's last run.

    Attributes:
        due: when it was to start; None where Vertex AI does not tell.
        answer: of Vertex AI to its start; what is not OK says why there was none.
        state: of the last job that was started, SUCCEEDED, RUNNING and so on; empty where there is none any more.
    """

    due: datetime | None
    answer: str
    state: str


@dataclass(frozen=True)
class Schedule:
    """A schedule, ours or another's.

    Attributes:
        resource: its resource name.
        name: its display name.
        cron: with the time zone that it is told in.
        state: ACTIVE, PAUSED or COMPLETED.
        pipeline: that it runs; empty where it runs none.
        runs: how many it has started.
        next_run: in the schedule's own time zone; None where there is none.
        last_run: None where there was none.
    """

    resource: str
    name: str
    cron: str
    state: str
    pipeline: str
    runs: int
    next_run: datetime | None
    last_run: Run | None


def list_schedules(vertex: Vertex) -> list[Schedule]:
    """Every schedule of the project and region, by name, also of other pipelines and tools.

    Raises:
        VertexError: Vertex AI does not answer.
    """
    with explained("list schedules"):
        there = sorted(all_schedules(vertex), key=lambda each: (each.display_name, each.create_time))
        return [schedule_of(vertex, each) for each in there]


def find_schedule(vertex: Vertex, name: str) -> Any:
    """The message of the schedule with a display name or an id.

    Raises:
        ScheduleError: there is none, or several have the display name.
        VertexError: Vertex AI does not answer.
    """
    with explained("list schedules"):
        there = all_schedules(vertex)
    found = [each for each in there if name in {each.display_name, _id(each)}]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(map(_id, found))
        raise ScheduleError(f"{len(found)} schedules are named {name!r} ({ids}); give the id of the one that is meant")
    names = ", ".join(sorted({each.display_name for each in there})) or "none"
    raise ScheduleError(f"schedule {name!r} does not exist in {vertex.parent}; there are: {names}")


def all_schedules(vertex: Vertex) -> list[Any]:
    """The messages of all schedules. A filter by name would take * in it for anything."""
    return list(vertex.schedules.list_schedules({"parent": vertex.parent}))


def schedule_of(vertex: Vertex, found: Any) -> Schedule:
    """What a schedule's message says, and how its last run went."""
    try:
        zone: tzinfo = Cron.parse(found.cron).zone
    except ScheduleError:  # another's, which Vertex AI took and we would not
        zone = UTC
    return Schedule(
        found.name,
        found.display_name,
        found.cron,
        found.state.name,
        pipeline_of(found),
        found.started_run_count,
        found.next_run_time.astimezone(zone) if found.next_run_time else None,
        _last_run(vertex, found, zone) if "last_scheduled_run_response" in found else None,
    )


def pipeline_of(found: Any) -> str:
    """The name of the pipeline that a schedule runs, or where its template lies; empty where it runs none."""
    job = found.create_pipeline_job_request.pipeline_job
    return str((job.pipeline_spec or {}).get("pipelineInfo", {}).get("name") or job.template_uri)


def _last_run(vertex: Vertex, found: Any, zone: tzinfo) -> Run:
    answered = found.last_scheduled_run_response
    request = {
        "parent": vertex.parent,
        "filter": f'schedule_name="{found.name}"',
        "order_by": "create_time desc",
        "page_size": 1,
        "read_mask": {"paths": ["name", "state"]},
    }
    job = next(iter(vertex.pipelines.list_pipeline_jobs(request)), None)
    due = answered.scheduled_run_time
    return Run(
        due.astimezone(zone) if due else None,
        answered.run_response,
        job.state.name.removeprefix("PIPELINE_STATE_") if job else "",
    )


def _id(schedule: Any) -> str:
    return str(schedule.name).rsplit("/", 1)[-1]
