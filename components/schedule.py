"""Schedules, one of a name: made or replaced, paused, resumed, deleted, run at once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.api_core import exceptions
from yaml import YAMLError

from components.cron import Cron
from components.earthengine.errors import ScheduleError, VertexError
from components.operations import carry_out
from components.schedules import Schedule, all_schedules, find_schedule, pipeline_of, schedule_of
from components.vertex import Vertex, explained

# Vertex AI's own limit for a schedule's display name (reference of Schedule).
_LONGEST_NAME = 128
_DELETE_SECONDS = 120
# How often others may delete what is just being replaced.
_ATTEMPTS = 5


@dataclass(frozen=True)
class Put:
    """What `put_schedule` did.

    Attributes:
        schedule: as it is now.
        created: whether it is new; else it was changed in place.
        removed: resource names of others of its name.
    """

    schedule: Schedule
    created: bool
    removed: tuple[str, ...]


def put_schedule(
    vertex: Vertex,
    *,
    name: str,
    cron: str,
    template: Path,
    parameters: dict[str, Any],
    pipeline_root: str,
    service_account: str | None = None,
) -> Put:
    """Create the schedule of a name, or change it in place; one that is paused stays so.

    A run that is due while another of the schedule is at work is skipped.

    Args:
        vertex: where to.
        name: its display name.
        cron: when it runs.
        template: compiled YAML.
        parameters: values of the pipeline's parameters.
        pipeline_root: gs:// folder for the steps' outputs.
        service_account: that the steps run as; the project's default if not given.

    Raises:
        ScheduleError: the name, the cron line, the template or a parameter is none that can be; or a schedule of that
            name runs another pipeline.
        VertexError: Vertex AI refuses it.
    """
    line = Cron.parse(cron).line
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise ScheduleError(
            f"a schedule cannot be named {name!r}, which has {len(name)} characters; allowed are 1 to {_LONGEST_NAME}"
        )
    try:
        job = vertex.pipeline_job(name, template, parameters, pipeline_root)
    except (ValueError, YAMLError) as error:
        raise ScheduleError(
            f"{template.name} cannot be scheduled in {vertex.location} with {parameters}: {error}; correct it"
        ) from error
    with explained(f"schedule {name}"):
        _check_pipeline(vertex, name, job)
        for _ in range(_ATTEMPTS - 1):
            with suppress(exceptions.NotFound):  # another deleted it meanwhile
                return _put(vertex, name, line, job, service_account)
        return _put(vertex, name, line, job, service_account)


def pause_schedule(vertex: Vertex, name: str) -> bool:
    """Start no more runs; those that have begun go on. Returns False where it was paused already.

    Raises:
        ScheduleError: there is none of that name or id, or it has completed.
        VertexError: Vertex AI refuses it.
    """
    return _turn(vertex, name, "PAUSED")


def resume_schedule(vertex: Vertex, name: str) -> bool:
    """Run again, but nothing that was missed. Returns False where it was not paused.

    Raises:
        ScheduleError: there is none of that name or id, or it has completed.
        VertexError: Vertex AI refuses it.
    """
    return _turn(vertex, name, "ACTIVE")


def delete_schedule(vertex: Vertex, name: str) -> None:
    """Delete a schedule; the runs that it started go on.

    Raises:
        ScheduleError: there is none of that name or id.
        VertexError: Vertex AI refuses it.
    """
    found = find_schedule(vertex, name)
    with explained(f"delete schedule {name}"):
        _delete(vertex, found.name)


def run_schedule(vertex: Vertex, name: str) -> str:
    """Run a schedule's pipeline now, once, even while it is paused; returns the job's resource name.

    Raises:
        ScheduleError: there is none of that name or id.
        VertexError: Vertex AI refuses it.
    """
    found = find_schedule(vertex, name)
    job = found.create_pipeline_job_request.pipeline_job
    job.display_name = job.display_name or found.display_name
    with explained(f"run schedule {name}"):
        return str(vertex.pipelines.create_pipeline_job(parent=vertex.parent, pipeline_job=job).name)


def _put(vertex: Vertex, name: str, cron: str, job: Any, service_account: str | None) -> Put:
    made = ""
    kept, others = _oldest(vertex, name)
    if not kept:
        made = job.create_schedule(
            display_name=name,
            cron=cron,
            max_concurrent_run_count=1,
            max_concurrent_active_run_count=1,
            service_account=service_account,
        ).resource_name
        kept, others = _oldest(vertex, name)  # another may have made one at the same time
    if not kept:
        raise exceptions.NotFound(f"{made} is gone")
    if kept != made:
        _update(vertex, kept, cron, job, service_account)
    for each in others:
        _delete(vertex, each)
    now = vertex.schedules.get_schedule(name=kept)
    return Put(schedule_of(vertex, now), kept == made, tuple(others))


def _check_pipeline(vertex: Vertex, name: str, job: Any) -> None:
    """See that schedules of a name are such as may be replaced: of the same pipeline."""
    ours = job.pipeline_spec["pipelineInfo"]["name"]
    for each in all_schedules(vertex):
        if each.display_name == name and (theirs := pipeline_of(each)) != ours:
            raise ScheduleError(
                f"schedule {name!r} ({each.name}) runs {theirs or 'no pipeline'}, not {ours}, and is not replaced; "
                "give another --name, or delete it first"
            )


def _oldest(vertex: Vertex, name: str) -> tuple[str, list[str]]:
    """The oldest schedule of a name that has not completed, "" where there is none, and the others of the name.

    Of several that are made at once all who look keep the same one, so no two can delete each other's.
    """
    there = [each for each in all_schedules(vertex) if each.display_name == name]
    there.sort(key=lambda each: (each.create_time, each.name))
    kept = next((each.name for each in there if each.state.name != "COMPLETED"), "")
    return kept, [each.name for each in there if each.name != kept]


def _update(vertex: Vertex, resource: str, cron: str, job: Any, service_account: str | None) -> None:
    """Change cron and pipeline in one call; what it does not name, such as the state, stays."""
    pipeline_job = {
        "pipeline_spec": job.pipeline_spec,
        "runtime_config": job.runtime_config,
        "service_account": service_account or "",
    }
    changed = {
        "cron": cron,
        "create_pipeline_job_request": {"parent": vertex.parent, "pipeline_job": pipeline_job},
        "max_concurrent_run_count": 1,
        "max_concurrent_active_run_count": 1,
        "allow_queueing": False,
    }
    vertex.schedules.update_schedule(schedule={"name": resource, **changed}, update_mask={"paths": list(changed)})


def _turn(vertex: Vertex, name: str, state: str) -> bool:
    found = find_schedule(vertex, name)
    if found.state.name == "COMPLETED":
        raise ScheduleError(f"schedule {name!r} has completed and can only be made anew; give its --cron again")
    if found.state.name == state:
        return False
    with explained(f"turn schedule {name} {state}"):
        try:
            if state == "PAUSED":
                vertex.schedules.pause_schedule(name=found.name)
            else:
                vertex.schedules.resume_schedule({"name": found.name, "catch_up": False})
        except exceptions.BadRequest:
            if vertex.schedules.get_schedule(name=found.name).state.name != state:
                raise
            return False  # another was faster
    return True


def _delete(vertex: Vertex, resource: str) -> None:
    try:
        carry_out(
            vertex,
            f"delete {resource}",
            resource,
            lambda: vertex.schedules.delete_schedule(name=resource),
            lambda: resource not in {each.name for each in all_schedules(vertex)},
            _DELETE_SECONDS,
        )
    except VertexError as error:
        if not isinstance(error.__cause__, exceptions.NotFound):  # another was faster
            raise
