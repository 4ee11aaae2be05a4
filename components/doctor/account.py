"""The service account that steps run as, and its roles, as the policies of project and bucket have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.api_core import exceptions

from components.check import Finding
from components.doctor import apis
from components.doctor.needs import Needs, failed

# The role to grant, and the broader ones that hold all that it permits; see the reference of roles and permissions.
_OF_PROJECT = ("roles/aiplatform.user", "roles/aiplatform.admin", "roles/editor", "roles/owner")
_OF_BUCKET = ("roles/storage.objectUser", "roles/storage.objectAdmin", "roles/storage.admin")
_OF_ALL_BUCKETS = (*_OF_BUCKET, "roles/owner")
_Bindings = list[tuple[str, Any]]


def check_exists(needs: Needs) -> Iterator[Finding]:
    """The account exists and may be used."""
    email = needs.account
    try:
        found = needs.project.service_account(email)
    except exceptions.NotFound:
        yield failed("account", f"{email} does not exist", _create(needs))
        return
    if found.get("disabled"):
        command = f"gcloud iam service-accounts enable {email} --project={needs.project.owner_of(email)}"
        yield failed("account", f"{email} is disabled", command)
    else:
        yield Finding("account", "passed", f"{email} exists; steps run as it")


def check_project_roles(needs: Needs) -> Iterator[Finding]:
    """The account may use Vertex AI."""
    held = _held(needs, _on_project(needs), _OF_PROJECT)
    yield _finding(needs, held, _OF_PROJECT[0], needs.project.id, needs.grant)


def check_bucket_roles(needs: Needs) -> Iterator[Finding]:
    """The account may write to the bucket, by a role on it or on the project."""
    policy = needs.project.storage.bucket(needs.bucket).get_iam_policy(requested_policy_version=3, retry=None)
    bindings = [(each["role"], each["members"]) for each in policy.bindings if not each.get("condition")]
    held = _held(needs, bindings, _OF_BUCKET) or _held(needs, _on_project(needs), _OF_ALL_BUCKETS)
    yield _finding(needs, held, _OF_BUCKET[0], f"gs://{needs.bucket}", needs.grant_on_bucket)


def _create(needs: Needs) -> str:
    name, _, domain = needs.account.partition("@")
    if domain == "developer.gserviceaccount.com":  # Compute Engine makes its own account when it is enabled
        return apis.enable(needs, "compute.googleapis.com")
    return f"gcloud iam service-accounts create {name} --project={needs.project.owner_of(needs.account)}"


def _on_project(needs: Needs) -> _Bindings:
    request = {"resource": f"projects/{needs.project.id}", "options": {"requested_policy_version": 3}}
    policy = needs.project.projects.get_iam_policy(request)
    return [(each.role, each.members) for each in policy.bindings if not each.condition.expression]


def _held(needs: Needs, bindings: _Bindings, roles: tuple[str, ...]) -> str | None:
    member = f"serviceAccount:{needs.account}"
    return next((role for role, members in bindings if member in members and role in roles), None)


def _finding(needs: Needs, held: str | None, role: str, where: str, grant: Callable[[str, str], str]) -> Finding:
    if held:
        return Finding("account", "passed", f"{needs.account} has {held} on {where}")
    text = f"{needs.account} has no {role} on {where}, unless a group or a folder grants it, which is not seen here"
    return failed("account", text, grant(f"serviceAccount:{needs.account}", role))
