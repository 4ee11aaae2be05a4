"""Where a training job that has succeeded has put its model."""

import re
from collections.abc import Callable
from typing import Any

from google.api_core.exceptions import NotFound
from google.cloud import aiplatform_v1

from .cloud import AGAIN, REQUEST_SECONDS, Cloud, asked
from .errors import NotYetError, SkippedError
from .events import Succeeded
from .model import CONTRACT, Folder, holds_model

# Models of any kind: system.Model, and those of Google's pipeline components.
_MODEL = re.compile(r"system\.Model|google\.\w*Model")
# This project's own pipelines are named so; the model that one of them has deployed is not to be deployed again.
_OWN_SUFFIX = "-earth-engine"


def output_folder(cloud: Cloud, event: Succeeded) -> Folder:
    """The model directory among a job's output.

    Raises:
        SkippedError: the job has none, did not succeed, or is one of this project's pipelines.
        NotYetError: Vertex AI still shows the job as running.
        UnavailableError: Vertex AI or Cloud Storage does not answer.
    """
    name = f"{cloud.parent}/{event.collection}/{event.job}"
    if event.location not in {"", cloud.location}:
        raise SkippedError(f"the job {event.job} is in {event.location}; jobs in {cloud.location} are looked at")
    if event.collection == "customJobs":
        return _of_custom_job(_job(cloud.custom_jobs.get_custom_job, name), name)
    return _of_pipeline_job(cloud, _job(cloud.pipelines.get_pipeline_job, name), name)


def _of_custom_job(job: Any, name: str) -> Folder:
    _check_state(name, aiplatform_v1.JobState(job.state).name)
    # AIP_MODEL_DIR, as CustomJobSpec.base_output_directory documents it.
    folder = Folder.at(f"{job.job_spec.base_output_directory.output_uri_prefix.rstrip('/')}/model")
    if folder is None:
        raise SkippedError(f"{name} has no baseOutputDirectory, so no folder for its model")
    return folder


def _of_pipeline_job(cloud: Cloud, job: Any, name: str) -> Folder:
    pipeline = str((job.pipeline_spec or {}).get("pipelineInfo", {}).get("name", ""))
    if pipeline.endswith(_OWN_SUFFIX):
        raise SkippedError(f"{name} ran {pipeline}, which deploys models itself")
    _check_state(name, aiplatform_v1.PipelineState(job.state).name)
    for folder in _models(job):
        if holds_model(cloud, folder):
            return folder
    raise SkippedError(f"no Model artifact of {name} is a folder in Cloud Storage that holds {CONTRACT}")


def _job(get: Callable[..., Any], name: str) -> Any:
    with asked(f"look at {name}"):
        try:
            return get(name=name, retry=AGAIN, timeout=REQUEST_SECONDS)
        except NotFound as error:
            raise SkippedError(f"there is no {name}") from error


def _models(job: Any) -> list[Folder]:
    """The folders of a pipeline job's Model artifacts, those of the task that ended last first."""
    ended = [task for task in job.job_detail.task_details if task.end_time]
    artifacts = [
        artifact
        for task in sorted(ended, key=lambda task: task.end_time, reverse=True)
        for output in task.outputs.values()
        for artifact in output.artifacts
    ]
    found = [Folder.at(artifact.uri) for artifact in artifacts if _MODEL.fullmatch(artifact.schema_title)]
    return [folder for folder in found if folder]


def _check_state(name: str, state: str) -> None:
    if state.endswith(("_FAILED", "_CANCELLED", "_EXPIRED")):
        raise SkippedError(f"{name} is in state {state}")
    if not state.endswith("_STATE_SUCCEEDED"):
        raise NotYetError(f"{name} has succeeded, as its log says, but is still in state {state}")
