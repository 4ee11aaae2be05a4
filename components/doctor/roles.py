"""The roles of who submits, told by what they permit: they may be held through a group, a folder or a broader role."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from components.check import Finding
from components.doctor.needs import Needs, failed
from components.permissions import ACT_AS, SUBMITTER_STORAGE, SUBMITTER_VERTEX


def check_project(needs: Needs) -> Iterator[Finding]:
    """Who asks may submit pipelines and read what they make."""
    resource = f"projects/{needs.project.id}"
    answer = needs.project.projects.test_iam_permissions(resource=resource, permissions=SUBMITTER_VERTEX)
    role = "roles/aiplatform.user"
    yield _finding(
        SUBMITTER_VERTEX, answer.permissions, role, needs.project.id, needs.grant(needs.project.caller, role)
    )


def check_bucket(needs: Needs) -> Iterator[Finding]:
    """Who asks may write and read models in the bucket."""
    granted = needs.project.storage.bucket(needs.bucket).test_iam_permissions(SUBMITTER_STORAGE, retry=None)
    role = "roles/storage.objectUser"
    command = needs.grant_on_bucket(needs.project.caller, role)
    yield _finding(SUBMITTER_STORAGE, granted, role, f"gs://{needs.bucket}", command)


def check_account(needs: Needs) -> Iterator[Finding]:
    """Who asks may let steps run as their service account."""
    granted = needs.project.permissions_on(needs.account, [ACT_AS])
    role = "roles/iam.serviceAccountUser"
    command = (
        f"gcloud iam service-accounts add-iam-policy-binding {needs.account} "
        f"--project={needs.project.owner_of(needs.account)} "
        f"--member={needs.project.caller} --role={role}"
    )
    yield _finding([ACT_AS], granted, role, needs.account, command)


def _finding(wanted: Sequence[str], granted: Collection[str], role: str, where: str, command: str) -> Finding:
    if lacking := [permission for permission in wanted if permission not in granted]:
        return failed("your roles", f"you lack {role} on {where} ({', '.join(lacking)})", command)
    return Finding("your roles", "passed", f"you may do on {where} what {role} permits")
