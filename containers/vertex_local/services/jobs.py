"""PipelineService: pipeline jobs, each in a worker process of its own."""

import asyncio
import json
import logging
import math
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import empty_pb2, json_format

from .. import messages
from ..errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError
from ..logs import last_lines, reason
from ..messages import PipelineState, TaskState
from ..processes import Process
from ..projects import Projects
from ..store import Collection, Store
from . import filters, listing
from .operations import Change, Operations

_log = logging.getLogger(__name__)

_AT_ONCE = 4
_JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
ENDED = (
    PipelineState.PIPELINE_STATE_SUCCEEDED,
    PipelineState.PIPELINE_STATE_FAILED,
    PipelineState.PIPELINE_STATE_CANCELLED,
)
_FAILED_PRECONDITION, _ABORTED, _CANCELLED = 9, 10, 1  # google.rpc.Code
# Folders beside a job's logs: kfp leaves every step's program in the one, and removes the other itself.
_OF_THE_WORKER = ("tmp", "workspace")
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "BOOLEAN": (bool,),
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "LIST": (list,),
    "STRUCT": (dict,),
}


def _pipeline_name(job: Any) -> str:
    name: str = json_format.MessageToDict(job.pipeline_spec)["pipelineInfo"]["name"]
    return name


def _state_of(job: Any) -> str:
    name: str = PipelineState(job.state).name
    return name


_OUTPUT_ONLY = ("start_time", "end_time", "job_detail", "error")
_WILD = "= != :"
_FIELDS = {
    "pipeline_name": filters.text(_pipeline_name),
    "display_name": filters.text(lambda job: job.display_name, _WILD),
    "pipeline_job_user_id": filters.text(lambda job: messages.last_segment(job.name), _WILD),
    "state": filters.text(_state_of),
    "template_uri": filters.text(lambda job: job.template_uri, _WILD),
    "template_metadata.version": filters.text(lambda job: job.template_metadata.version, _WILD),
    "schedule_name": filters.text(lambda job: job.schedule_name),
    **{name: filters.time(name) for name in ("create_time", "update_time", "end_time")},
}
_ORDER_FIELDS = ("create_time", "update_time", "end_time", "start_time")


class Jobs:
    """Pipeline jobs: a few run at a time, the others queue."""

    def __init__(
        self,
        store: Store,
        operations: Operations,
        projects: Projects,
        directory: Path,
        containers: Mapping[str, Any] | None,
    ) -> None:
        """Takes what the containers of steps are created with; None for steps that are processes."""
        self._containers = containers
        self._jobs = Collection(store, "PipelineJob", messages.PipelineJob)
        self._operations = operations
        self._projects = projects
        self._directory = directory
        self.pipeline_root = directory / "pipeline_root"
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Goes on where the emulator ended: what had not begun is queued again, what ran has ended.

        A job that ran is not run again: its steps need not be such as can be repeated. On Vertex AI it would go on, but
        kfp.local begins with the first step.
        """
        for job in reversed(self._jobs.all()):
            match job.state:
                case PipelineState.PIPELINE_STATE_PENDING:
                    self._queue(job)
                case PipelineState.PIPELINE_STATE_CANCELLING:
                    self._clear(job)
                    self._end(job, _CANCELLED_END)
                case PipelineState.PIPELINE_STATE_RUNNING:
                    self._clear(job)
                    text = "The emulator ended before the job."
                    self._end(job, _End(PipelineState.PIPELINE_STATE_FAILED, _ABORTED, text))
        kept = {self.directory(job.name) for job in self._jobs.all()}
        for directory in self._directory.glob("jobs/*/*/*"):
            if directory not in kept:  # the job was deleted, and the emulator ended before its logs were
                shutil.rmtree(directory, ignore_errors=True)

    def all(self) -> list[Any]:
        """Every job, newest first."""
        return self._jobs.all()

    def get(self, name: str) -> Any:
        """The job of that name.

        Raises:
            NotFoundError: there is none.
        """
        return self._jobs.get(name)

    def directory(self, name: str) -> Path:
        """Where a job's logs lie, a file for each run of a task."""
        return self._directory / "jobs" / _relative(name)

    def unfinished(self) -> list[Any]:
        """The jobs that run or wait."""
        return [job for job in map(self._jobs.get, self._tasks) if job.state not in ENDED]

    def create(self, request: Any, schedule_name: str = "") -> Any:
        """Takes a job in, of a schedule perhaps, and starts it as soon as there is a place.

        Raises:
            InvalidArgumentError: no pipeline, or parameters that are not its own.
            AlreadyExistsError: the id is taken.
        """
        job = request.pipeline_job
        check_job(job)
        job_id = request.pipeline_job_id or f"{_pipeline_name(job)[:100]}-{messages.new_id()}"
        if not _JOB_ID.fullmatch(job_id):
            raise InvalidArgumentError(f"pipelineJobId {job_id!r} does not match {_JOB_ID.pattern}")
        name = f"{request.parent}/pipelineJobs/{job_id}"
        if name in self._jobs:
            raise AlreadyExistsError(f"The PipelineJob {name!r} already exists.")
        job.name = name
        job.display_name = job.display_name or job_id
        job.schedule_name = schedule_name
        job.state = PipelineState.PIPELINE_STATE_PENDING
        job.create_time.CopyFrom(messages.now())
        for field in _OUTPUT_ONLY:
            job.ClearField(field)
        self._save(job)
        self._queue(job)
        return messages.copy_of(job)

    # The methods of PipelineService.

    def create_pipeline_job(self, request: Any) -> Any:
        return self.create(request)

    def get_pipeline_job(self, request: Any) -> Any:
        return self._jobs.get(request.name)

    def list_pipeline_jobs(self, request: Any) -> Any:
        jobs = self._jobs.all(f"{request.parent}/pipelineJobs/")
        found, token = listing.page(jobs, request, _FIELDS, _ORDER_FIELDS)
        return messages.ListPipelineJobsResponse(pipeline_jobs=found, next_page_token=token)

    def cancel_pipeline_job(self, request: Any) -> Any:
        """Ends a job with everything that it runs.

        Raises:
            FailedPreconditionError: it has ended.
        """
        job = self._cancellable(request.name)
        self._cancel(job)
        self._interrupt([job])
        return empty_pb2.Empty()

    def batch_cancel_pipeline_jobs(self, request: Any) -> Any:
        """Ends several jobs, or none where one of them has ended."""
        jobs: list[Any] = []

        def cancel() -> Any:
            jobs.extend(self._cancellable(name) for name in request.names)
            for job in jobs:
                self._cancel(job)
            return messages.BatchCancelPipelineJobsResponse(pipeline_jobs=jobs)

        @asynccontextmanager
        async def cancelling() -> AsyncIterator[Change]:
            yield cancel
            self._interrupt(jobs)

        for name in request.names:
            self._cancellable(name)
        return self._operations.start(request.parent, messages.BatchCancelPipelineJobsOperationMetadata(), cancelling())

    def delete_pipeline_job(self, request: Any) -> Any:
        """Forgets a job and its logs.

        Raises:
            FailedPreconditionError: it has not ended.
        """
        self._deletable(request.name)
        work = self._deleting([request.name], lambda _: None)
        return self._operations.start(request.name, messages.DeleteOperationMetadata(), work)

    def batch_delete_pipeline_jobs(self, request: Any) -> Any:
        """Forgets several jobs, or none where one of them has not ended."""

        def response(jobs: Sequence[Any]) -> Any:
            return messages.BatchDeletePipelineJobsResponse(pipeline_jobs=jobs)

        for name in request.names:
            self._deletable(name)
        work = self._deleting(request.names, response)
        return self._operations.start(request.parent, messages.DeleteOperationMetadata(), work)

    async def stop(self) -> None:
        """Ends what runs; the next start marks it as failed, and queues what has not begun."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cancellable(self, name: str) -> Any:
        job = self._jobs.get(name)
        if job.state in ENDED:
            raise FailedPreconditionError(f"The PipelineJob {name!r} has ended: {_state_of(job)}")
        return job

    def _forget(self, name: str, task: asyncio.Task[None]) -> None:
        # A job of this id may have been deleted and made again.
        if self._tasks.get(name) is task:
            del self._tasks[name]

    def _queue(self, job: Any) -> None:
        name: str = job.name
        self._tasks[name] = task = asyncio.create_task(self._run(name))
        task.add_done_callback(lambda ended: self._forget(name, ended))

    def _cancel(self, job: Any) -> None:
        job.state = PipelineState.PIPELINE_STATE_CANCELLING
        self._save(job)

    def _interrupt(self, jobs: Sequence[Any]) -> None:
        """Ends what runs of jobs that are cancelled."""
        for job in jobs:
            task = self._tasks.get(job.name)
            if task and not task.cancelling():  # what ends its steps must not be cancelled too
                task.cancel()

    def _deletable(self, name: str) -> Any:
        job = self._jobs.get(name)
        if job.state not in ENDED:
            raise FailedPreconditionError(f"The PipelineJob {name!r} is in state {_state_of(job)}: cancel it first")
        return job

    @asynccontextmanager
    async def _deleting(self, names: Sequence[str], response: Callable[[Sequence[Any]], Any]) -> AsyncIterator[Change]:
        def delete() -> Any:
            jobs = [self._deletable(name) for name in names]
            for job in jobs:
                self._jobs.delete(job.name)
            return response(jobs)

        yield delete
        for name in names:
            shutil.rmtree(self.directory(name), ignore_errors=True)

    def _clear(self, job: Any) -> None:
        """Removes what a job's worker has left that would have removed it."""
        for folder in _OF_THE_WORKER:
            shutil.rmtree(self.directory(job.name) / folder, ignore_errors=True)

    async def _run(self, name: str) -> None:
        job = self._jobs.get(name)
        try:
            async with self._places:
                end = await self._run_worker(job)
        except asyncio.CancelledError:
            job = self._jobs.get(name)
            if job.state != PipelineState.PIPELINE_STATE_CANCELLING:
                raise  # the emulator ends; the next start goes on from here
            end = _CANCELLED_END
        except Exception as fault:
            _log.exception("job %s", name)
            end = _End(PipelineState.PIPELINE_STATE_FAILED, _ABORTED, f"The worker could not be run: {fault}")
        self._end(job, end)

    async def _run_worker(self, job: Any) -> "_End":
        """How the job ended; nothing of it runs any more then."""
        job.state = PipelineState.PIPELINE_STATE_RUNNING
        job.start_time.CopyFrom(messages.now())
        self._save(job)
        directory = self._prepare(job)
        command = [sys.executable, "-m", "containers.vertex_local.worker", str(directory)]
        temporary = {"TMPDIR": str(directory / "tmp")}
        worker = await Process.start(command, directory / "worker.log", temporary, pipe_stdout=True)
        try:
            async for line in worker.stdout:
                event = json.loads(line)
                if event["event"] == "end":
                    return _end_of(job, event)
                self._take(job, event, directory)
            status = await worker.wait()
            text = f"The job's worker ended with exit status {status}: {last_lines(worker.log)}"
            return _End(PipelineState.PIPELINE_STATE_FAILED, _ABORTED, text)
        finally:
            await worker.stop()
            self._clear(job)

    def _prepare(self, job: Any) -> Path:
        directory = self.directory(job.name)
        shutil.rmtree(directory, ignore_errors=True)  # of a job of this id that has been deleted
        (directory / "tmp").mkdir(parents=True)
        description = {
            "pipelineSpec": self._placed(job),
            "parameters": check_job(job),
            "pipelineRoot": str(self.pipeline_root / _relative(job.name)),
            "containers": self._containers,
        }
        (directory / "job.json").write_text(json.dumps(description))
        return directory.resolve()

    def _placed(self, job: Any) -> Any:
        """The job's pipeline with the placeholders filled that Vertex AI knows and kfp.local does not."""
        text = json.dumps(json_format.MessageToDict(job.pipeline_spec))
        places = {
            "pipeline_google_cloud_project_id": self._projects.id_of(job.name),
            "pipeline_google_cloud_location": job.name.split("/")[3],
            "pipeline_job_name": messages.last_segment(job.name),
            "pipeline_job_resource_name": job.name,
        }
        for place, value in places.items():
            text = text.replace(f"{{{{$.{place}}}}}", value)
        return json.loads(text)

    def _take(self, job: Any, event: Mapping[str, Any], directory: Path) -> None:
        """Writes what the worker says into the job."""
        details = job.job_detail.task_details
        match event["event"]:
            case "plan":
                for task in event["tasks"]:
                    details.add(task_name=task, task_id=len(details) + 1, state=TaskState.PENDING)
                    details[-1].create_time.FromJsonString(event["time"])
            case "task":
                _take_task(_detail_of(details, event), event, directory)
        self._save(job)

    def _end(self, job: Any, end: "_End") -> None:
        job.state = end.state
        job.end_time.CopyFrom(messages.now())
        if end.code:
            job.error.code, job.error.message = end.code, end.message
        for task in job.job_detail.task_details:
            if task.state == TaskState.PENDING:
                task.state = TaskState.NOT_TRIGGERED
            elif task.state == TaskState.RUNNING:
                cancelled = end.state == PipelineState.PIPELINE_STATE_CANCELLED
                task.state = TaskState.CANCELLED if cancelled else TaskState.FAILED
                task.end_time.CopyFrom(job.end_time)
                task.error.CopyFrom(job.error)
        job.update_time.CopyFrom(messages.now())
        self._jobs.put_end(job.name, job)

    def _save(self, job: Any) -> None:
        job.update_time.CopyFrom(messages.now())
        self._jobs.put(job.name, job)


@dataclass(frozen=True)
class _End:
    """A job's last state, and its error where it has one."""

    state: int
    code: int = 0
    message: str = ""


_CANCELLED_END = _End(PipelineState.PIPELINE_STATE_CANCELLED, _CANCELLED, "The PipelineJob was cancelled.")


def _end_of(job: Any, event: Mapping[str, Any]) -> _End:
    if event["state"] == "SUCCEEDED":
        return _End(PipelineState.PIPELINE_STATE_SUCCEEDED)
    failed = [task for task in job.job_detail.task_details if task.state == TaskState.FAILED]
    names = ", ".join(task.task_name for task in failed)
    causes = [f"{task.task_name}: {task.error.message}" for task in failed]
    text = f"The DAG failed because some tasks failed. The failed tasks are: [{names}]. " if failed else ""
    text += "; ".join(causes) + event["error"]
    return _End(PipelineState.PIPELINE_STATE_FAILED, _FAILED_PRECONDITION, text)


def _detail_of(details: Any, event: Mapping[str, Any]) -> Any:
    """The detail of a task's run: a planned one that has not begun, or another one in a loop."""
    for detail in details:
        if detail.task_unique_name == event["name"]:
            return detail
    for detail in details:
        if detail.task_name == event["task"] and detail.state == TaskState.PENDING:
            break
    else:
        detail = details.add(task_name=event["task"], task_id=len(details) + 1)
        detail.create_time.FromJsonString(event["time"])
    detail.task_unique_name = event["name"]
    return detail


def _take_task(detail: Any, event: Mapping[str, Any], directory: Path) -> None:
    detail.state = TaskState[event["state"]]
    moment = detail.start_time if event["state"] == "RUNNING" else detail.end_time
    moment.FromJsonString(event["time"])
    for direction, lists in (("inputs", detail.inputs), ("outputs", detail.outputs)):
        values = event.get(direction, {"artifacts": {}, "parameters": {}})
        for name, artifacts in values["artifacts"].items():
            for artifact in artifacts:
                json_format.ParseDict(artifact, lists[name].artifacts.add())
        # Vertex AI keeps parameters in the metadata of the task's execution, under these names.
        parameters = {f"{direction[:-1]}:{name}": _finite(value) for name, value in values["parameters"].items()}
        detail.execution.metadata.update(parameters)
    detail.execution.schema_title = "system.ContainerExecution"
    detail.execution.display_name = detail.task_name
    if event["state"] == "FAILED":
        detail.error.code = _FAILED_PRECONDITION
        detail.error.message = event["error"] or reason(directory / f"{detail.task_unique_name}.log")


def _finite(value: Any) -> Any:
    """A parameter with what JSON has no numbers for as text: the loss of a training that diverged, say."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case list():
            return [_finite(item) for item in value]
        case dict():
            return {key: _finite(item) for key, item in value.items()}
    return value


def check_job(job: Any) -> dict[str, Any]:
    """The pipeline's arguments, checked.

    Raises:
        InvalidArgumentError: the pipeline or its parameters are not such as Vertex AI takes.
    """
    if job.template_uri and not job.pipeline_spec.fields:
        raise InvalidArgumentError("pipelineSpec is required: this emulator fetches no templateUri")
    spec = json_format.MessageToDict(job.pipeline_spec)
    if not spec.get("root", {}).get("dag") or not spec.get("pipelineInfo", {}).get("name"):
        raise InvalidArgumentError("pipelineSpec is no compiled pipeline: it has no root.dag or no pipelineInfo.name")
    if not job.runtime_config.gcs_output_directory.startswith("gs://"):
        raise InvalidArgumentError("runtimeConfig.gcsOutputDirectory is required, of the form gs://BUCKET/DIRECTORY")
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    given = {name: json_format.MessageToDict(value) for name, value in job.runtime_config.parameter_values.items()}
    for name, value in given.items():
        if name not in declared:
            raise InvalidArgumentError(
                f"The pipeline {spec['pipelineInfo']['name']!r} has no parameter {name!r};"
                f" it has {', '.join(sorted(declared)) or 'none'}"
            )
        _check_type(name, value, declared[name].get("parameterType", ""))
    for name, parameter in declared.items():
        if name not in given and "defaultValue" not in parameter and not parameter.get("isOptional"):
            raise InvalidArgumentError(
                f"The parameter {name!r} of the pipeline {spec['pipelineInfo']['name']!r} is required"
                " in runtimeConfig.parameterValues"
            )
    return given


def _check_type(name: str, value: Any, type_name: str) -> None:
    fits = isinstance(value, _PYTHON_TYPES.get(type_name, (object,)))
    if type_name.startswith("NUMBER"):
        fits = fits and not isinstance(value, bool)
    if type_name == "NUMBER_INTEGER":
        fits = fits and float(value).is_integer()
    if not fits:
        raise InvalidArgumentError(f"The parameter {name!r} is of type {type_name}, which {value!r} is not")


def _relative(name: str) -> Path:
    _, project, _, location, _, job_id = name.split("/")
    return Path(project, location, job_id)
