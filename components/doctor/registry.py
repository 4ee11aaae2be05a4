"""The repository of the images, and the images in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from google.api_core import exceptions

from components.check import Finding
from components.doctor.needs import Needs, failed
from components.earthengine.contract import Framework

_IMAGES = (
    "steps-vertex",
    *(f"{kind}-{framework}" for kind in ("steps", "serving") for framework in get_args(Framework)),
)


def check_repository(needs: Needs) -> Iterator[Finding]:
    """The repository exists, holds Docker images, and lies in the region of the run, as Vertex AI asks of images."""
    address = needs.address
    create = _create(needs, address["project"], address["name"])
    if address["region"] != needs.location:
        text = (
            f"{needs.images.repository} lies in {address['region']}, it is to lie in the single region {needs.location}"
        )
        yield failed("repository", text, create)
        return
    try:
        found = _repository(needs)
    except exceptions.NotFound:
        yield failed("repository", f"{needs.images.repository} does not exist", create)
        return
    if found.format_.name == "DOCKER":
        yield Finding("repository", "passed", f"{needs.images.repository} holds Docker images")
    else:
        text = f"{needs.images.repository} is of format {found.format_.name}, not DOCKER"
        yield failed("repository", text, _create(needs, address["project"], f"{address['name']}-docker"))


def check_reader(needs: Needs) -> Iterator[Finding]:
    """Vertex AI may read what lies in another project: whether it may is that project's to tell."""
    region, project, name = (needs.address[part] for part in ("region", "project", "name"))
    if project == needs.project.id:
        return
    agent = f"service-{needs.project.number}@gcp-sa-aiplatform.iam.gserviceaccount.com"
    role = "roles/artifactregistry.reader"
    command = (
        f"gcloud artifacts repositories add-iam-policy-binding {name} --location={region} --project={project} "
        f"--member=serviceAccount:{agent} --role={role}"
    )
    text = f"{needs.images.repository} lies in another project, where Vertex AI's service agent needs {role}"
    yield Finding("repository", "warning", f"{text}; if it has not, run: {command}")


def check_images(needs: Needs) -> Iterator[Finding]:
    """The images that templates name are in the repository, with the tag or by their digests."""
    repository = _repository(needs)
    if repository.format_.name != "DOCKER":
        yield Finding("images", "warning", f"could not be looked for: {needs.images.repository} can hold none")
        return
    images = needs.images
    there = [each for each in _IMAGES if _is_there(needs, f"{repository.name}/packages/{each}", each)]
    if there:
        named = f"with the tag {images.tag}" if images.digests is None else "by its digest"
        yield Finding("images", "passed", f"{', '.join(there)}, each {named}")
    for image in _IMAGES:
        if image not in there:
            uri = images.uri(image)
            push = f"docker push {uri}"
            if images.digests is not None:  # which only a registry gives
                push = f"make push REPOSITORY={images.repository} TAG={images.tag}"
            yield failed("images", f"{uri} is missing; build it (docs/cloud.md)", push)


def _repository(needs: Needs) -> Any:
    name = "projects/{project}/locations/{region}/repositories/{name}".format(**needs.address)
    return needs.project.registry.get_repository(name=name)


def _is_there(needs: Needs, package: str, image: str) -> bool:
    registry, images = needs.project.registry, needs.images
    try:
        if images.digests is None:
            registry.get_tag(name=f"{package}/tags/{images.tag}")
        else:  # a version of a Docker package is named by its digest
            registry.get_version(name=f"{package}/versions/{images.digests[image]}")
    except exceptions.NotFound:
        return False
    return True


def _create(needs: Needs, project: str, name: str) -> str:
    return (
        f"gcloud artifacts repositories create {name} --repository-format=docker --location={needs.location} "
        f"--project={project}"
    )
