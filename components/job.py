"""Pipeline jobs: submitted to Vertex AI and followed step by step.

Through the API's own client and not the SDK's PipelineJob.submit: that makes a bucket and grants
roles on it where the one named does not exist, which here is an error.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.api_core import exceptions

from components.earthengine.errors import JobError
from components.vertex import Vertex, explained

# Between two looks at a job, in seconds: often while steps come and go, seldom while one takes its time.
_SOONEST, _LATEST = 0.2, 10.0
_FAILED = {"FAILED", "CANCELLED"}
_OUTPUT = "output:"


@dataclass(frozen=True)
class Step:
    """A step that runs or has ended.

    Attributes:
        name: of the task in the DAG.
        state: RUNNING, SUCCEEDED, FAILED, NOT_TRIGGERED, SKIPPED or CANCELLED.
        seconds: from start to end, 0 while it runs.
        outputs: URI and metadata of each artifact by its name.
        parameters: the value of each output parameter by its name.
    """

    name: str
    state: str
    seconds: float
    outputs: dict[str, tuple[str, dict[str, Any]]]
    parameters: dict[str, Any]


def submit(
    vertex: Vertex,
    template: Path,
    parameters: dict[str, Any],
    pipeline_root: str,
    name: str,
    service_account: str | None = None,
) -> str:
    """Submit a compiled template; returns the job's resource name.

    Args:
        vertex: where to.
        template: compiled YAML.
        parameters: values of the pipeline's parameters.
        pipeline_root: gs:// folder for the steps' outputs.
        name: shown in the console.
        service_account: that the steps run as; the project's default if not given.

    Raises:
        VertexError: Vertex AI refuses it.
    """
    job = {
        "display_name": name,
        "pipeline_spec": yaml.safe_load(template.read_text(encoding="utf-8")),
        "runtime_config": {"gcs_output_directory": pipeline_root, "parameter_values": parameters},
        "service_account": service_account or "",
    }
    with explained(f"submit {template.name}"):
        return str(vertex.pipelines.create_pipeline_job(parent=vertex.parent, pipeline_job=job).name)


def follow(vertex: Vertex, name: str) -> Iterator[Step]:
    """The steps of a job, each when it is seen to run and when it has ended.

    Raises:
        JobError: the job failed or was cancelled.
        VertexError: Vertex AI does not answer.
    """
    seen: set[tuple[str, str]] = set()
    pause = _SOONEST
    while True:
        with explained(f"look at {name}"):
            job = vertex.pipelines.get_pipeline_job(name=name)
        news = [step for step in _begun(job) if (step.name, step.state) not in seen]
        seen.update((step.name, step.state) for step in news)
        yield from news
        state = job.state.name.removeprefix("PIPELINE_STATE_")
        if state == "SUCCEEDED":
            return
        if state in _FAILED:
            raise JobError(
                f"pipeline job {name} {state.lower()}: {job.error.message or 'see its steps in the console'}"
            )
        pause = _SOONEST if news else min(pause * 1.2, _LATEST)
        time.sleep(pause)


def has_ended(vertex: Vertex, run: str) -> bool:
    """Whether the pipeline job of an id runs no more, or is not known any more.

    Raises:
        VertexError: Vertex AI does not answer.
    """
    with explained(f"look at pipeline job {run}"):
        try:
            job = vertex.pipelines.get_pipeline_job(name=f"{vertex.parent}/pipelineJobs/{run}")
        except (exceptions.NotFound, exceptions.BadRequest):  # or no id that a job can have
            return True
    return job.state.name.removeprefix("PIPELINE_STATE_") in {"SUCCEEDED", *_FAILED}


def is_at_work(vertex: Vertex, other: str, run: str) -> bool:
    """Whether another run than this one works still; "" is no run.

    Raises:
        VertexError: Vertex AI does not answer.
    """
    return bool(other) and other != run and not has_ended(vertex, other)


def fault(vertex: Vertex, run: str) -> str:
    """Why a pipeline job fails: what its failed steps said; empty where none has failed.

    Raises:
        VertexError: Vertex AI does not answer.
    """
    with explained(f"look at pipeline job {run}"):
        job = vertex.pipelines.get_pipeline_job(name=f"{vertex.parent}/pipelineJobs/{run}")
    failed = [task for task in job.job_detail.task_details if task.state.name == "FAILED"]
    return "; ".join(f"{task.task_name}: {task.error.message}" for task in failed if task.error.message)


def _begun(job: Any) -> list[Step]:
    """The steps of a job that run or have ended, the first to begin first."""
    waiting = {"STATE_UNSPECIFIED", "PENDING", "CANCEL_PENDING"}
    tasks = [task for task in job.job_detail.task_details if task.state.name not in waiting]
    return [_step(task) for task in sorted(tasks, key=lambda task: (task.start_time or task.create_time, task.task_id))]


def _step(task: Any) -> Step:
    seconds = (task.end_time - task.start_time).total_seconds() if task.start_time and task.end_time else 0.0
    outputs = {
        name: (artifact.uri, dict(artifact.metadata))
        for name, listed in task.outputs.items()
        for artifact in listed.artifacts
    }
    # Vertex AI keeps parameters in the metadata of the task's execution, under these names.
    given = dict(task.execution.metadata or {})
    parameters = {name.removeprefix(_OUTPUT): value for name, value in given.items() if name.startswith(_OUTPUT)}
    return Step(task.task_name, task.state.name, seconds, outputs, parameters)
