"""The project itself, and the APIs that it has enabled."""

from __future__ import annotations

from collections.abc import Iterator

from google.api_core import exceptions

from components.check import Finding
from components.doctor.needs import Needs, failed

# What a run calls.
REQUIRED = ("aiplatform.googleapis.com", "artifactregistry.googleapis.com", "storage.googleapis.com")
_OPTIONAL = {
    "run.googleapis.com": "a trigger runs on it",
    "eventarc.googleapis.com": "starts a trigger when a model arrives",
    "pubsub.googleapis.com": "carries a trigger's events",
}


def check_project(needs: Needs) -> Iterator[Finding]:
    """The project exists and is not being deleted."""
    project = needs.project
    try:
        found = project.projects.get_project(name=f"projects/{project.id}")
    except (exceptions.NotFound, exceptions.Forbidden) as error:
        if error.reason == "SERVICE_DISABLED":
            raise
        yield failed("project", f"{project.id} does not exist, or is not yours to see", "gcloud projects list")
        return
    if found.state.name == "ACTIVE":
        yield Finding("project", "passed", f"{project.id}, number {found.name.rpartition('/')[2]}")
    else:
        yield failed("project", f"{project.id} is being deleted", f"gcloud projects undelete {project.id}")


def check_services(needs: Needs) -> Iterator[Finding]:
    """The APIs that a run calls are enabled; those of a trigger need not be."""
    parent = f"projects/{needs.project.id}"
    names = [f"{parent}/services/{service}" for service in (*REQUIRED, *_OPTIONAL)]
    answer = needs.project.services.batch_get_services({"parent": parent, "names": names})
    enabled = {each.name.rpartition("/")[2] for each in answer.services if each.state.name == "ENABLED"}
    if there := [service for service in (*REQUIRED, *_OPTIONAL) if service in enabled]:
        yield Finding("APIs", "passed", ", ".join(service.partition(".")[0] for service in there))
    for service in REQUIRED:
        if service not in enabled:
            yield failed("APIs", f"{service} is not enabled", enable(needs, service))
    for service, use in _OPTIONAL.items():
        if service not in enabled:
            text = f"{service} is not enabled, which {use}; if you want that, run: {enable(needs, service)}"
            yield Finding("APIs", "warning", text)


def enable(needs: Needs, service: str) -> str:
    """The command that enables an API."""
    return f"gcloud services enable {service} --project={needs.project.id}"
