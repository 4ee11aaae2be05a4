"""The pipeline job that deploys a model: made from the framework's template, once a model."""

import hashlib
from typing import Any

import yaml
from google.api_core.exceptions import Conflict, NotFound
from google.cloud import storage

from .cloud import AGAIN, REQUEST_SECONDS, Cloud, asked, status
from .errors import NotYetError
from .model import CONTRACT, Model
from .settings import Settings


def job_id(model: Model) -> str:
    """The id of the job that deploys a model: the same for each announcement of the same model.yaml."""
    announced = f"{model.folder.uri}/{CONTRACT}#{model.generation}"
    return f"deploy-{hashlib.sha256(announced.encode()).hexdigest()[:24]}"


def start(cloud: Cloud, settings: Settings, model: Model) -> bool:
    """Start the deploy pipeline for a model.

    Returns:
        Whether it was started now; False where it has been already.

    Raises:
        RefusedError: Vertex AI finds the job invalid.
        NotYetError: there is no template, or a permission is missing.
        UnavailableError: Vertex AI or Cloud Storage does not answer.
    """
    parameters = {**settings.parameters, "model_uri": model.folder.uri}
    if settings.staging:
        parameters["staging"] = settings.staging
    staging = settings.staging_folder(model.folder.bucket)
    job = {
        "display_name": model.contract.name[:128] or job_id(model),
        "pipeline_spec": _template(cloud, settings, model.contract.framework),
        "runtime_config": {"gcs_output_directory": f"{staging}/pipeline-root", "parameter_values": parameters},
        "service_account": settings.service_account,
    }
    with asked(f"start {job_id(model)} in {cloud.parent}"):
        try:
            cloud.pipelines.create_pipeline_job(
                parent=cloud.parent,
                pipeline_job=job,
                pipeline_job_id=job_id(model),
                # Safe to send again: the id is taken then.
                retry=AGAIN,
                timeout=REQUEST_SECONDS,
            )
        except Conflict as error:
            # Over REST ALREADY_EXISTS is a plain conflict, as ABORTED is.
            if status(error) == "ABORTED":
                raise
            return False
    return True


def _template(cloud: Cloud, settings: Settings, framework: str) -> Any:
    uri = f"{settings.templates}/deploy-{framework}.yaml"
    way_out = f"put there what `pipeline.py compile` writes: gcloud storage cp build/templates/* {settings.templates}/"
    with asked(f"read {uri}"):
        try:
            blob = storage.Blob.from_uri(uri, cloud.storage)
            text = blob.download_as_bytes(retry=AGAIN, timeout=REQUEST_SECONDS)
        except NotFound as error:
            raise NotYetError(f"there is no template {uri}; {way_out}") from error
    try:
        template = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotYetError(f"{uri} is no YAML: {error}; {way_out}") from error
    if not isinstance(template, dict):
        raise NotYetError(f"{uri} is no compiled pipeline; {way_out}")
    return template
