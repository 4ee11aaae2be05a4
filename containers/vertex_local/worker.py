"""Runs one pipeline job: ``python -m containers.vertex_local.worker JOB_DIR``.

JOB_DIR holds ``job.json``; the worker writes a log for each task beside it, and on stdout one JSON object a
line for each thing that happens (``plan``, ``task``, ``end``), which ``jobs.py`` reads. The steps are run by
kfp.local, in subprocesses, or in containers where ``job.json`` says what these are created with. Nothing here imports
the rest of the emulator: a job would wait a second and a half for it.
"""

import copy
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# Under this variable `import kfp` leaves out the client for Kubeflow clusters, half a second of imports; what
# comes after is to be imported in full again.
os.environ["_KFP_RUNTIME"] = "true"
import kfp  # noqa: F401

del os.environ["_KFP_RUNTIME"]
from google.protobuf import json_format
from kfp import dsl, local
from kfp.local import graph_utils, pipeline_orchestrator, subprocess_task_handler
from kfp.local.orchestrator import task_executor
from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils
from kfp.local.status import Status
from kfp.pipeline_spec import pipeline_spec_pb2

_NUMBERS: dict[str, type] = {"NUMBER_INTEGER": int, "NUMBER_DOUBLE": float}


def main(job_directory: Path) -> int:
    """Runs the job to its end; the exit status is 0 when it could be run, whatever became of it."""
    with _private_stdout() as events:
        warnings.filterwarnings("ignore", message=".*custom or non-Python base image.*", category=RuntimeWarning)
        job = json.loads((job_directory / "job.json").read_text())
        spec = pipeline_spec_pb2.PipelineSpec()
        report = Report(events)
        try:
            json_format.ParseDict(job["pipelineSpec"], spec)
            report.plan(list(_leaf_tasks(spec)))
            _run(spec, job, job_directory, report)
        except Exception as fault:
            # kfp says what has failed in colours for a terminal; the failed tasks have told more by now.
            report.end("FAILED", "" if report.failures else f"{type(fault).__name__}: {fault}")
        else:
            report.end("SUCCEEDED")
    return 0


class Report:
    """Tells the emulator what happens, in lines of JSON."""

    def __init__(self, events: IO[str]) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._started = 0
        self.failures = 0

    def plan(self, tasks: Sequence[str]) -> None:
        self._write({"event": "plan", "tasks": tasks})

    def start(self, task: str, inputs: Mapping[str, Any]) -> str:
        """Announces a task; the name returned is this run's own, as a loop has several, and its log's."""
        with self._lock:
            self._started += 1
            name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', task)}-{self._started}"
        self._write({"event": "task", "task": task, "name": name, "state": "RUNNING", "inputs": _values(inputs)})
        return name

    def succeed(self, task: str, name: str, outputs: Mapping[str, Any]) -> None:
        self._write({"event": "task", "task": task, "name": name, "state": "SUCCEEDED", "outputs": _values(outputs)})

    def fail(self, task: str, name: str, fault: str = "") -> None:
        """Announces a failure: ``fault``, or else what the task's own program has written to its log."""
        self.failures += 1
        self._write({"event": "task", "task": task, "name": name, "state": "FAILED", "error": fault})

    def end(self, state: str, fault: str = "") -> None:
        self._write({"event": "end", "state": state, "error": fault})

    def _write(self, event: Mapping[str, Any]) -> None:
        moment = datetime.datetime.now(datetime.UTC).isoformat()
        with self._lock:
            self._events.write(json.dumps({**event, "time": moment}) + "\n")
            self._events.flush()


class TaskLogs:
    """A log file for each run of a task, in place of kfp's copying of every line to its own stdout."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._current = threading.local()

    def begin(self, name: str) -> None:
        """What this thread runs from now on writes to the log of that name."""
        self._current.path = self._directory / f"{name}.log"
        self._current.path.touch()

    @property
    def current(self) -> Path:
        """The log of what this thread runs."""
        path: Path = self._current.path
        return path

    def run_subprocess(self, full_command: list[str], env_vars: Mapping[str, str] | None = None) -> int:
        """Stands in for kfp.local's function of the same signature."""
        with self._current.path.open("ab") as log:
            return subprocess.run(  # noqa: S603
                full_command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env_vars or {})},
                check=False,
            ).returncode


def _run(spec: Any, job: Mapping[str, Any], job_directory: Path, report: Report) -> None:
    workspace = job_directory / "workspace"  # kfp removes it
    workspace.mkdir()
    logs = TaskLogs(job_directory)
    runner = _runner(job, workspace, logs)
    task_executor.execute_single_task = _reporting(task_executor.execute_single_task, report, logs)
    local.init(
        runner,
        # Not the request's gcsOutputDirectory: nothing is mounted under /gcs on this machine, and steps read
        # each other's outputs as files.
        pipeline_root=job["pipelineRoot"],
        workspace_root=str(workspace),
        raise_on_error=True,
    )
    parameters = spec.root.input_definitions.parameters
    arguments = {
        name: _NUMBERS.get(_type_name(parameters[name]), lambda same: same)(value)
        for name, value in job["parameters"].items()
    }
    pipeline_orchestrator.run_local_pipeline(spec, arguments)


def _runner(job: Mapping[str, Any], workspace: Path, logs: TaskLogs) -> local.SubprocessRunner | local.DockerRunner:
    if job["containers"] is None:
        subprocess_task_handler.run_local_subprocess = logs.run_subprocess
        return local.SubprocessRunner(use_venv=False)
    # Only now: the Docker SDK need not be there for subprocesses.
    from kfp.local import docker_task_handler

    from .step_containers import StepContainers

    warnings.filterwarnings("ignore", message=".*no effect in the current local runner")  # see _with_limits
    steps = StepContainers(job["containers"], lambda: logs.current)
    signal.signal(signal.SIGTERM, steps.end)
    for folder in (Path(job["pipelineRoot"]), workspace):
        steps.give(folder)
    docker_task_handler.run_docker_container = steps.run
    return local.DockerRunner()


def _reporting(execute: Callable[..., Any], report: Report, logs: TaskLogs) -> Callable[..., Any]:
    def execute_single_task(**call: Any) -> Any:
        task = call["task_name"]
        inputs = OrchestratorUtils.make_task_arguments(call["task_spec"].inputs, call["io_store"])
        name = report.start(task, inputs)
        logs.begin(name)
        try:
            outputs, status = execute(**call | {"runner": _with_limits(call, inputs)})
        except Exception as fault:
            report.fail(task, name, f"{type(fault).__name__}: {fault}")
            raise
        if status == Status.SUCCESS:
            report.succeed(task, name, outputs)
        else:
            report.fail(task, name)
        return outputs, status

    return execute_single_task


def _with_limits(call: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
    """The runner for a task, which kfp gives nothing of the task's own limits."""
    runner = call["runner"]
    executor = call["executors"][call["components"][call["task_spec"].component_ref.name].executor_label]
    if not isinstance(runner, local.DockerRunner) or executor.WhichOneof("spec") != "container":
        return runner
    from .step_containers import options_of

    limited = copy.copy(runner)
    limited.container_run_args = options_of(executor.container, inputs)
    return limited


def _values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as they are, artifacts as aiplatform_v1.Artifact has them."""
    parameters: dict[str, Any] = {}
    artifacts: dict[str, list[Any]] = {}
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        if items and all(isinstance(item, dsl.Artifact) for item in items):
            artifacts[name] = [_artifact(name, item) for item in items]
        else:
            parameters[name] = value
    return {"parameters": parameters, "artifacts": artifacts}


def _artifact(name: str, artifact: dsl.Artifact) -> dict[str, Any]:
    return {
        "displayName": name,
        "uri": artifact.uri,
        "schemaTitle": artifact.schema_title,
        "schemaVersion": artifact.schema_version,
        "metadata": artifact.metadata,
    }


def _leaf_tasks(spec: Any) -> Iterator[str]:
    """The tasks that a program runs for, in order; those of nested pipelines, branches and loops as well."""

    def within(dag: Any) -> Iterator[str]:
        for name in reversed(graph_utils.topological_sort_tasks(dag.tasks)):
            component = spec.components[dag.tasks[name].component_ref.name]
            if component.WhichOneof("implementation") == "dag":
                yield from within(component.dag)
            else:
                yield name

    yield from within(spec.root.dag)


def _type_name(parameter: Any) -> str:
    name: str = pipeline_spec_pb2.ParameterType.ParameterTypeEnum.Name(parameter.parameter_type)
    return name


def _private_stdout() -> IO[str]:
    """Stdout for the events alone; whatever else writes there goes to stderr, the worker's log."""
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return events


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
