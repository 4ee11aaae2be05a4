"""JobService: custom jobs, each the program that its first worker pool names, run as a process of this machine."""

import asyncio
import logging
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import empty_pb2

from .. import messages
from ..errors import FailedPreconditionError, InvalidArgumentError, UnimplementedError
from ..logs import reason
from ..messages import JobState
from ..processes import Process
from ..projects import Projects
from ..servers.runners import Runner
from ..store import Collection, Store
from . import filters, listing
from .operations import Change, Operations

_log = logging.getLogger(__name__)

_AT_ONCE = 4
_FOLDER = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/.*)?")
_ENDED = (JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_FAILED, JobState.JOB_STATE_CANCELLED)
_INVALID_ARGUMENT, _ABORTED, _CANCELLED = 3, 10, 1  # google.rpc.Code
_OUTPUT_ONLY = ("state", "create_time", "start_time", "end_time", "update_time", "error", "web_access_uris")


def _state_of(job: Any) -> str:
    name: str = JobState(job.state).name
    return name


# As ListCustomJobsRequest documents them.
_FIELDS = {
    "display_name": filters.text(lambda job: job.display_name, "= != :"),
    "state": filters.text(_state_of),
    "create_time": filters.time("create_time"),
}


class CustomJobs:
    """Custom jobs: a few run at a time, the others queue."""

    def __init__(
        self, store: Store, operations: Operations, projects: Projects, directory: Path, runner: Runner
    ) -> None:
        self._jobs = Collection(store, "CustomJob", messages.CustomJob)
        self._operations = operations
        self._projects = projects
        self._directory = directory
        self._runner = runner
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Goes on where the emulator ended: what had not begun is queued again, what ran has ended.

        A job that ran is not run again, as its program need not be such as can be repeated.
        """
        for job in reversed(self._jobs.all()):
            match job.state:
                case JobState.JOB_STATE_PENDING:
                    self._queue(job)
                case JobState.JOB_STATE_CANCELLING:
                    self._end(job, _CANCELLED_END)
                case JobState.JOB_STATE_RUNNING:
                    self._end(job, _End(JobState.JOB_STATE_FAILED, _ABORTED, "The emulator ended before the job."))
        kept = {self._log_of(job.name).parent for job in self._jobs.all()}
        for directory in self._directory.glob("custom_jobs/*/*/*"):
            if directory not in kept:  # the job was deleted, and the emulator ended before its log was
                shutil.rmtree(directory, ignore_errors=True)

    # The methods of JobService.

    def create_custom_job(self, request: Any) -> Any:
        """Takes a job in, and starts it as soon as there is a place.

        Raises:
            InvalidArgumentError: the job is not such as Vertex AI takes.
            FailedPreconditionError: no process may be started here.
            UnimplementedError: what it runs is in an image or a package alone.
        """
        job = request.custom_job
        _check(job)
        self._runner.check_custom_job()
        for field in _OUTPUT_ONLY:
            job.ClearField(field)
        job.name = f"{request.parent}/customJobs/{messages.new_id()}"
        job.state = JobState.JOB_STATE_PENDING
        job.create_time.CopyFrom(messages.now())
        self._save(job)
        self._queue(job)
        return messages.copy_of(job)

    def get_custom_job(self, request: Any) -> Any:
        return self._jobs.get(request.name)

    def list_custom_jobs(self, request: Any) -> Any:
        found, token = listing.page(self._jobs.all(f"{request.parent}/customJobs/"), request, _FIELDS, ())
        return messages.ListCustomJobsResponse(custom_jobs=found, next_page_token=token)

    def cancel_custom_job(self, request: Any) -> Any:
        """Ends a job with everything that it runs.

        Raises:
            FailedPreconditionError: it has ended.
        """
        job = self._jobs.get(request.name)
        if job.state in _ENDED:
            raise FailedPreconditionError(f"The CustomJob {job.name!r} has ended: {_state_of(job)}")
        if job.state != JobState.JOB_STATE_CANCELLING:  # what ends its program must not be cancelled too
            job.state = JobState.JOB_STATE_CANCELLING
            self._save(job)
            self._tasks[job.name].cancel()
        return empty_pb2.Empty()

    def delete_custom_job(self, request: Any) -> Any:
        """Forgets a job and its log.

        Raises:
            FailedPreconditionError: it has not ended.
        """
        name = request.name

        @asynccontextmanager
        async def deleting() -> AsyncIterator[Change]:
            yield lambda: self._jobs.delete(self._deletable(name).name)
            shutil.rmtree(self._log_of(name).parent, ignore_errors=True)

        self._deletable(name)
        return self._operations.start(name, messages.DeleteOperationMetadata(), deleting())

    async def stop(self) -> None:
        """Ends what runs; the next start marks it as failed, and queues what has not begun."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _queue(self, job: Any) -> None:
        name: str = job.name
        self._tasks[name] = task = asyncio.create_task(self._run(name))
        task.add_done_callback(lambda _: self._tasks.pop(name))

    def _deletable(self, name: str) -> Any:
        job = self._jobs.get(name)
        if job.state not in _ENDED:
            raise FailedPreconditionError(f"The CustomJob {name!r} is in state {_state_of(job)}: cancel it first")
        return job

    async def _run(self, name: str) -> None:
        try:
            async with self._places:
                end = await self._run_program(self._jobs.get(name))
        except asyncio.CancelledError:
            if self._jobs.get(name).state != JobState.JOB_STATE_CANCELLING:
                raise  # the emulator ends; the next start goes on from here
            end = _CANCELLED_END
        except Exception as fault:
            _log.exception("job %s", name)
            end = _End(JobState.JOB_STATE_FAILED, _ABORTED, f"The program could not be run: {fault}")
        self._end(self._jobs.get(name), end)

    async def _run_program(self, job: Any) -> "_End":
        """How the job ended; nothing of it runs any more then."""
        # First: what may have begun is not to begin once more, whenever the emulator ends.
        job.state = JobState.JOB_STATE_RUNNING
        job.start_time.CopyFrom(messages.now())
        self._save(job)
        container = job.job_spec.worker_pool_specs[0].container_spec
        log = self._log_of(job.name)
        program = await Process.start([*container.command, *container.args], log, self._environment(job))
        try:
            status = await program.wait()
        finally:
            await program.stop()
        if status == 0:
            return _End(JobState.JOB_STATE_SUCCEEDED)
        text = f"The replica workerpool0-0 exited with a non-zero status of {status}. {reason(log)}"
        return _End(JobState.JOB_STATE_FAILED, _INVALID_ARGUMENT, text)

    def _environment(self, job: Any) -> dict[str, str]:
        """What Vertex AI sets for a training program, and what the job's own container spec does."""
        # "python" of the image is the emulator's own here, which has the project's packages.
        variables = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
        variables["CLOUD_ML_PROJECT_ID"] = self._projects.id_of(job.name)
        variables["CLOUD_ML_JOB_ID"] = messages.last_segment(job.name)
        folder = job.job_spec.base_output_directory.output_uri_prefix.rstrip("/")
        if folder:
            # CustomJobSpec documents these three.
            variables["AIP_MODEL_DIR"] = f"{folder}/model/"
            variables["AIP_CHECKPOINT_DIR"] = f"{folder}/checkpoints/"
            variables["AIP_TENSORBOARD_LOG_DIR"] = f"{folder}/logs/"
        own = job.job_spec.worker_pool_specs[0].container_spec.env
        return variables | {variable.name: variable.value for variable in own}

    def _log_of(self, name: str) -> Path:
        _, project, _, location, _, job_id = name.split("/")
        return self._directory / "custom_jobs" / project / location / job_id / "workerpool0-0.log"

    def _end(self, job: Any, end: "_End") -> None:
        job.state = end.state
        job.end_time.CopyFrom(messages.now())
        if end.code:
            job.error.code, job.error.message = end.code, end.message
        self._save(job)

    def _save(self, job: Any) -> None:
        job.update_time.CopyFrom(messages.now())
        self._jobs.put(job.name, job)


@dataclass(frozen=True)
class _End:
    """A job's last state, and its error where it has one."""

    state: int
    code: int = 0
    message: str = ""


_CANCELLED_END = _End(JobState.JOB_STATE_CANCELLED, _CANCELLED, "The CustomJob was cancelled.")


def _check(job: Any) -> None:
    """Refuses a job that Vertex AI would not take, or whose program cannot be known here."""
    if not job.display_name:
        raise InvalidArgumentError("customJob.displayName is required")
    pools = job.job_spec.worker_pool_specs
    if not pools:
        raise InvalidArgumentError("customJob.jobSpec.workerPoolSpecs is required: the first one names what is to run")
    place = "customJob.jobSpec.workerPoolSpecs[0]"
    first = pools[0]
    if first.HasField("python_package_spec"):
        raise UnimplementedError(
            f"{place}.pythonPackageSpec runs in its image, which needs Docker: give containerSpec with a command"
        )
    if not first.container_spec.image_uri:
        raise InvalidArgumentError(f"{place}.containerSpec.imageUri is required")
    if first.replica_count > 1:
        raise InvalidArgumentError(f"{place}.replicaCount {first.replica_count}: the first pool has one replica")
    if not first.container_spec.command:
        raise UnimplementedError(
            f"{place}.containerSpec.command is empty: without Docker the entry point of"
            f" {first.container_spec.image_uri!r} is not known; give the command that it stands for"
        )
    folder = job.job_spec.base_output_directory.output_uri_prefix
    if folder and not _FOLDER.fullmatch(folder):
        raise InvalidArgumentError(
            f"customJob.jobSpec.baseOutputDirectory.outputUriPrefix {folder!r}: gs://BUCKET/FOLDER is allowed"
        )
