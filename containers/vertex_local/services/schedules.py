"""ScheduleService: pipeline jobs that start by the clock."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

from google.protobuf import empty_pb2, timestamp_pb2

from .. import messages
from ..errors import FailedPreconditionError, InvalidArgumentError, ServiceError
from ..messages import ScheduleState
from ..store import Collection, Store
from . import filters, listing
from .cron import Cron
from .jobs import Jobs, check_job
from .operations import Operations, alone

_log = logging.getLogger(__name__)

_TICK_S = 0.5
_CHANGEABLE = (
    "display_name",
    "cron",
    "start_time",
    "end_time",
    "max_run_count",
    "max_concurrent_run_count",
    "max_concurrent_active_run_count",
    "allow_queueing",
    "create_pipeline_job_request",
)
_OUTPUT_ONLY = (
    "started_run_count",
    "last_pause_time",
    "last_resume_time",
    "catch_up",
    "last_scheduled_run_response",
)


def _state_of(schedule: Any) -> str:
    name: str = ScheduleState(schedule.state).name
    return name


_FIELDS = {
    "display_name": filters.text(lambda schedule: schedule.display_name, "= != :"),
    "state": filters.text(_state_of),
    "create_pipeline_job_request": filters.text(lambda schedule: schedule.create_pipeline_job_request.parent, ":"),
    **{name: filters.time(name) for name in ("create_time", "start_time", "next_run_time")},
    "end_time": filters.time("end_time", frozenset({"=", "!=", "<", ">", "<=", ">=", ":"})),
}
_ORDER_FIELDS = ("create_time", "start_time", "end_time", "next_run_time")


class Schedules:
    """Schedules, which start jobs while the emulator runs; what was missed while it did not is not made up for.

    A run that waits for its turn is one whose ``next_run_time`` has passed.
    """

    def __init__(self, store: Store, operations: Operations, jobs: Jobs) -> None:
        self._store = store
        self._schedules = Collection(store, "Schedule", messages.Schedule)
        self._operations = operations
        self._jobs = jobs
        self._ticking: asyncio.Task[None] | None = None

    def all(self) -> list[Any]:
        """Every schedule, newest first."""
        return self._schedules.all()

    def get(self, name: str) -> Any:
        """The schedule of that name.

        Raises:
            NotFoundError: there is none.
        """
        return self._schedules.get(name)

    def start(self) -> None:
        """Begins to start jobs."""
        for schedule in self._active():
            if schedule.next_run_time.ToDatetime(UTC) <= datetime.now(UTC):
                self._plan(schedule, datetime.now(UTC))
        self._ticking = asyncio.create_task(self._tick_on())

    async def stop(self) -> None:
        if self._ticking:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)

    def tick(self, now: datetime) -> None:
        """Starts the runs that are due, each schedule's next one."""
        for schedule in self._active():
            if schedule.next_run_time.ToDatetime(UTC) <= now:
                with self._store.transaction():
                    self._fire(schedule, now)

    # The methods of ScheduleService.

    def create_schedule(self, request: Any) -> Any:
        """Makes a schedule, which is active at once.

        Raises:
            InvalidArgumentError: no name, cron line or pipeline job, or a limit that is none.
        """
        schedule = request.schedule
        _check(schedule, request.parent)
        for field in _OUTPUT_ONLY:
            schedule.ClearField(field)
        schedule.name = f"{request.parent}/schedules/{messages.new_id()}"
        schedule.create_time.CopyFrom(messages.now())
        if not schedule.HasField("start_time"):
            schedule.start_time.CopyFrom(schedule.create_time)
        return self._plan(schedule, _not_before_start(schedule, datetime.now(UTC)))

    def get_schedule(self, request: Any) -> Any:
        return self._schedules.get(request.name)

    def list_schedules(self, request: Any) -> Any:
        schedules = self._schedules.all(f"{request.parent}/schedules/")
        found, token = listing.page(schedules, request, _FIELDS, _ORDER_FIELDS)
        return messages.ListSchedulesResponse(schedules=found, next_page_token=token)

    def update_schedule(self, request: Any) -> Any:
        """Changes the fields that the mask names; the next run is planned anew, those that waited are skipped.

        Raises:
            FailedPreconditionError: the schedule is completed.
            InvalidArgumentError: a field that cannot be changed, or a value that it cannot have.
        """
        schedule = self._schedules.get(request.schedule.name)
        if schedule.state == ScheduleState.COMPLETED:
            raise FailedPreconditionError(f"The Schedule {schedule.name!r} is COMPLETED and cannot be updated")
        messages.update(schedule, request.schedule, request.update_mask, _CHANGEABLE)
        _check(schedule, schedule.name.rpartition("/schedules/")[0])
        if schedule.state == ScheduleState.PAUSED:
            return self._save(schedule)
        return self._plan(schedule, _not_before_start(schedule, datetime.now(UTC)))

    def pause_schedule(self, request: Any) -> Any:
        """No runs from now on; those that have begun go on."""
        schedule = self._schedules.get(request.name)
        if schedule.state != ScheduleState.ACTIVE:
            raise FailedPreconditionError(
                f"The Schedule {request.name!r} is {_state_of(schedule)}: only an ACTIVE one can be paused"
            )
        schedule.state = ScheduleState.PAUSED
        schedule.last_pause_time.CopyFrom(messages.now())
        self._save(schedule)
        return empty_pb2.Empty()

    def resume_schedule(self, request: Any) -> Any:
        """Runs again; with ``catch_up`` also those that were missed since it was paused."""
        schedule = self._schedules.get(request.name)
        if schedule.state != ScheduleState.PAUSED:
            raise FailedPreconditionError(
                f"The Schedule {request.name!r} is {_state_of(schedule)}: only a PAUSED one can be resumed"
            )
        schedule.state = ScheduleState.ACTIVE
        schedule.catch_up = request.catch_up
        schedule.last_resume_time.CopyFrom(messages.now())
        since = schedule.last_pause_time.ToDatetime(UTC) if request.catch_up else datetime.now(UTC)
        self._plan(schedule, _not_before_start(schedule, since))
        return empty_pb2.Empty()

    def delete_schedule(self, request: Any) -> Any:
        """Forgets a schedule; its jobs stay."""
        name = request.name
        self._schedules.get(name)

        def delete() -> None:
            self._schedules.get(name)
            self._schedules.delete(name)

        return self._operations.start(name, messages.DeleteOperationMetadata(), alone(delete))

    def _active(self) -> list[Any]:
        return [schedule for schedule in self._schedules.all() if schedule.state == ScheduleState.ACTIVE]

    async def _tick_on(self) -> None:
        while True:
            try:
                self.tick(datetime.now(UTC))
            except Exception:
                _log.exception("schedules")
            await asyncio.sleep(_TICK_S)

    def _fire(self, schedule: Any, now: datetime) -> None:
        due = schedule.next_run_time.ToDatetime(UTC)
        # max_concurrent_run_count limits the requests that are being made, says the API, not the runs that they start;
        # here they are made one by one.
        limit = schedule.max_concurrent_active_run_count
        if limit and self._running(schedule) >= limit:
            if schedule.allow_queueing:
                return
            self._answer(schedule, due, f"Skipped: {limit} of its runs are active, as many as may be at a time.")
            self._plan(schedule, now)
            return
        request = messages.copy_of(schedule.create_pipeline_job_request)
        request.ClearField("pipeline_job_id")
        try:
            job = self._jobs.create(request, schedule.name)
        except ServiceError as error:
            self._answer(schedule, due, f"{error.status.name}: {error.message}")
        else:
            schedule.started_run_count += 1
            self._answer(schedule, due, f"OK: {job.name}")
        # A run that comes late leaves those behind it where they are, if they may wait or are to be made up for.
        self._plan(schedule, due if schedule.allow_queueing or schedule.catch_up else now)

    def _running(self, schedule: Any) -> int:
        return sum(job.schedule_name == schedule.name for job in self._jobs.unfinished())

    @staticmethod
    def _answer(schedule: Any, due: datetime, text: str) -> None:
        schedule.last_scheduled_run_response.run_response = text
        schedule.last_scheduled_run_response.scheduled_run_time.CopyFrom(_timestamp(due))

    def _plan(self, schedule: Any, after: datetime) -> Any:
        """The next run after that moment; none where the schedule is completed."""
        due = Cron.parse(schedule.cron).next_after(after)
        ended = schedule.HasField("end_time") and due > schedule.end_time.ToDatetime(UTC)
        if ended or 0 < schedule.max_run_count <= schedule.started_run_count:
            schedule.state = ScheduleState.COMPLETED
            schedule.ClearField("next_run_time")
        else:
            schedule.state = ScheduleState.ACTIVE
            schedule.next_run_time.CopyFrom(_timestamp(due))
        return self._save(schedule)

    def _save(self, schedule: Any) -> Any:
        schedule.update_time.CopyFrom(messages.now())
        self._schedules.put(schedule.name, schedule)
        return schedule


def _not_before_start(schedule: Any, moment: datetime) -> datetime:
    start: datetime = schedule.start_time.ToDatetime(UTC)
    return max(moment, start)


def _check(schedule: Any, parent: str) -> None:
    if not schedule.display_name:
        raise InvalidArgumentError("schedule.displayName is required")
    Cron.parse(schedule.cron)
    if schedule.max_concurrent_run_count < 1:
        raise InvalidArgumentError(
            f"schedule.maxConcurrentRunCount {schedule.max_concurrent_run_count} must be 1 or more"
        )
    if schedule.max_run_count < 0:
        raise InvalidArgumentError(f"schedule.maxRunCount {schedule.max_run_count} must not be negative")
    if schedule.max_concurrent_active_run_count < 0:
        raise InvalidArgumentError(
            f"schedule.maxConcurrentActiveRunCount {schedule.max_concurrent_active_run_count} must not be negative"
        )
    request = schedule.create_pipeline_job_request
    if request.parent != parent:
        raise InvalidArgumentError(
            f"schedule.createPipelineJobRequest.parent {request.parent!r} must be the schedule's own, {parent!r}"
        )
    check_job(request.pipeline_job)
    if schedule.HasField("end_time"):
        end = schedule.end_time.ToDatetime(UTC)
        if end <= max(datetime.now(UTC), schedule.start_time.ToDatetime(UTC)):
            raise InvalidArgumentError(f"schedule.endTime {end.isoformat()} must lie ahead, and after startTime")


def _timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(moment)
    return stamp
