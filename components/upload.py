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
from components.digest import FILE_NAME as DIGEST_NAME
from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.vertex import READ_AGAIN, Vertex, explained, wait

_SECONDS = 1800
_DIGEST = "source-sha256"  # label of a version


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry: `projects/P/locations/R/models/M@V`, and whether this call made it.

    P is as the caller says it; the service's own answers have the project's number.
    """

    name: str
    created: bool


def upload_model(vertex: Vertex, archive: Path, image: str, staging: str) -> RegisteredModel:
    """Register an archive as a model, or as a new version of the model of that name.

    The files go to `STAGING/NAME/DIGEST/`; those that lie there already are not sent again, and a
    version of the same source and image is found instead of made.

    Args:
        vertex: where to.
        archive: folder with what the image serves, and model.yaml.
        image: URI of the serving image.
        staging: folder in Cloud Storage, `gs://bucket/folder`.

    Raises:
        ContractError, ImageError: the archive has no contract, or the platform cannot carry it.
        ModelError: the archive is not one of this project's.
        StorageError: the bucket does not exist or cannot be written.
        VertexError: the registry refuses the model.
    """
    contract = ModelContract.read(archive)
    check_platform(contract, image, date.today())
    digest = _digest(archive, image)
    storage.split(staging)
    parent = f"{vertex.parent}/models/{contract.name}"
    versions = _versions(vertex, contract.name)
    same = [int(version.version_id) for version in versions if version.labels.get(_DIGEST) == digest]
    if same:
        return RegisteredModel(f"{parent}@{max(same)}", created=False)
    uri = f"{staging.rstrip('/')}/{contract.name}/{digest}"
    storage.stage(archive, uri)
    kind = images.of(image)
    model = {
        "display_name": contract.name,
        "description": f"{contract.framework}, {contract.payload_format}; model.yaml lies in its artifact folder",
        "artifact_uri": uri,
        "labels": {_DIGEST: digest},
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
    with explained(f"upload model {contract.name}"):
        operation = vertex.models.upload_model(request)
    result = wait(operation, f"upload model {contract.name}", _SECONDS)
    return RegisteredModel(f"{parent}@{result.model_version_id}", created=True)


def _versions(vertex: Vertex, name: str) -> list[Any]:
    """The versions of a model; none if there is no such model."""
    with explained(f"list the versions of model {name}"):
        try:
            return list(vertex.models.list_model_versions(name=f"{vertex.parent}/models/{name}", retry=READ_AGAIN))
        except exceptions.NotFound:
            return []


def _digest(archive: Path, image: str) -> str:
    """What tells this model in this image from any other, 63 characters as a label can hold."""
    try:
        source = (archive / DIGEST_NAME).read_text(encoding="ascii")
    except OSError as error:
        raise ModelError(f"{archive} holds no {DIGEST_NAME} ({error}); export the model again") from error
    return hashlib.sha256(f"{source}\n{image}".encode()).hexdigest()[:63]
