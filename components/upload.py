"""Upload: the archive into the registry, as a new version of its model, once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from google.api_core import exceptions

from components import images, storage
from components.check import check_platform
from components.deadline import OPERATION_SECONDS
from components.digest import FILE_NAME as DIGEST_NAME
from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError, VertexError
from components.golden import golden_hash
from components.operations import carry_out, wait_for_pending
from components.versions import GOLDEN, MADE_BY, SOURCE, label_value, list_versions, made_by
from components.vertex import Vertex


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry: `projects/P/locations/R/models/M@V`, and whether this run made it.

    P is as the caller says it; the service's own answers have the project's number.
    """

    name: str
    created: bool


def upload_model(vertex: Vertex, archive: Path, image: str, staging: str, run: str = "") -> RegisteredModel:
    """Register an archive as a model, or as a new version of the model of that name.

    The files go to `STAGING/NAME/DIGEST/`; those that lie there already are not sent again, and a
    version of the same source and image is found instead of made.

    Args:
        vertex: where to.
        archive: folder with what the image serves, and model.yaml.
        image: URI of the serving image.
        staging: folder in Cloud Storage, `gs://bucket/folder`.
        run: id of the pipeline job, which the version is labelled with.

    Raises:
        ContractError, ImageError: the archive has no contract, or the platform cannot carry it.
        ModelError: the archive is not one of this project's.
        StorageError: the bucket does not exist or cannot be written, or the files do not lie there as they were sent.
        VertexError: the registry refuses the model.
    """
    contract = ModelContract.read(archive)
    check_platform(contract, image, date.today())
    digest = _digest(archive, image)
    storage.split(staging)
    parent = f"{vertex.parent}/models/{contract.name}"
    wait_for_pending(vertex, parent)  # an upload goes on when the step that began it is killed
    versions = list_versions(vertex, contract.name)
    if same := same_version(versions, digest):
        created = any(made_by(version, run) for version in versions if version.version_id == same)
        return RegisteredModel(f"{parent}@{same}", created)
    uri = artifact_folder(staging, contract.name, digest)
    storage.check_staged(storage.stage(archive, uri))
    kind = images.of(image)
    model = {
        "display_name": contract.name,
        "description": f"{contract.framework}, {contract.payload_format}; model.yaml lies in its artifact folder",
        "artifact_uri": uri,
        "labels": {SOURCE: digest, GOLDEN: golden_hash(archive)[:63], **({MADE_BY: label_value(run)} if run else {})},
        "container_spec": {
            "image_uri": image,
            "ports": [{"container_port": kind.http_port}],
            # The port cannot be changed once the model is uploaded (aiplatform_v1, ModelContainerSpec).
            "grpc_ports": [{"container_port": kind.grpc_port}] if kind.grpc_port else [],
            "health_route": kind.health_route,
            "predict_route": kind.predict_route,
        },
    }
    request = {"parent": vertex.parent, "model": model}
    if versions:
        request["parent_model"] = parent
    else:
        request["model_id"] = contract.name

    def registered() -> str | None:
        return same_version(list_versions(vertex, contract.name), digest)

    try:
        result = carry_out(
            vertex,
            f"upload model {contract.name}",
            parent,
            lambda: vertex.models.upload_model(request),
            lambda: registered() is not None,
            OPERATION_SECONDS,
        )
    except VertexError as error:
        made_meanwhile = isinstance(error.__cause__, exceptions.Conflict)  # ALREADY_EXISTS, over REST too
        if versions or not made_meanwhile or not list_versions(vertex, contract.name):
            raise
        return upload_model(vertex, archive, image, staging, run)
    return RegisteredModel(f"{parent}@{result.model_version_id if result else registered()}", created=True)


def same_version(versions: list[Any], digest: str) -> str | None:
    """The id of the newest version that was made of the same source and image; None if there is none."""
    return next((version.version_id for version in versions if version.labels.get(SOURCE) == digest), None)


def version_digest(source: str, image: str) -> str:
    """What tells a model in an image from any other, 63 characters as a label can hold."""
    return hashlib.sha256(f"{source}\n{image}".encode()).hexdigest()[:63]


def artifact_folder(staging: str, name: str, digest: str) -> str:
    """Where the files of a version lie, under the staging folder."""
    return f"{staging.rstrip('/')}/{name}/{digest}"


def _digest(archive: Path, image: str) -> str:
    try:
        source = (archive / DIGEST_NAME).read_text(encoding="ascii")
    except OSError as error:
        raise ModelError(f"{archive} holds no {DIGEST_NAME} ({error}); export the model again") from error
    return version_digest(source, image)
