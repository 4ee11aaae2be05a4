"""Pipeline jobs: submitted to Vertex AI and followed step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.earthengine.errors import JobError
from components.vertex import Vertex, explained

# Between two looks at a job: often while steps come and go, seldom while one takes its time.
_SOONEST, _LATEST = 0.2, 10.0


@dataclass(frozen=True)
class Step:
    """A step that has ended.

    Attributes:
        name: of the task in the DAG.
        state: SUCCEEDED, FAILED, SKIPPED, CANCELLED.
        seconds: from start to end.
        error: why it failed.
        outputs: URI and metadata of each artifact by its name.
    """

    name: str
    state: str
    seconds: float
    error: str
    outputs: dict[str, tuple[str, dict[str, Any]]]


def submit(vertex: Vertex, template: Path, parameters: dict[str, Any], pipeline_root: str, name: str) -> Any:
    """Submit a compiled template; returns the SDK's job.

    Raises:
        VertexError: Vertex AI refuses it.
    """
    with explained(f"submit {template.name}"):
        job = vertex.pipelines()(
            display_name=name,
            template_path=str(template),
            parameter_values=parameters,
            pipeline_root=pipeline_root,
            enable_caching=False,
        )
        job.submit()
    return job


def follow(job: Any) -> Iterator[Step]:
    """The steps of a job as they end.

    Raises:
        JobError: the job failed or was cancelled.
        VertexError: Vertex AI does not answer.
    """
    ended: set[str] = set()
    pause = _SOONEST
    while True:
        with explained(f"look at {job.resource_name}"):
            state = job.state.name.removeprefix("PIPELINE_STATE_")
            tasks = job.gca_resource.job_detail.task_details
        news = [step for step in map(_step, tasks) if step and step.name not in ended]
        for step in news:
            ended.add(step.name)
            yield step
        if state == "SUCCEEDED":
            return
        if state in {"FAILED", "CANCELLED"}:
            raise JobError(f"the pipeline job {state.lower()}: {job.gca_resource.error.message or job.resource_name}")
        pause = _SOONEST if news else min(pause * 1.2, _LATEST)
        time.sleep(pause)


def _step(task: Any) -> Step | None:
    state = task.state.name
    if state in {"STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCEL_PENDING"}:
        return None
    seconds = (task.end_time - task.start_time).total_seconds() if task.start_time and task.end_time else 0.0
    outputs = {
        name: (artifact.uri, dict(artifact.metadata))
        for name, listed in task.outputs.items()
        for artifact in listed.artifacts
    }
    return Step(task.task_name, state, seconds, task.error.message, outputs)
