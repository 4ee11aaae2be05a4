"""Doctor: what a Google Cloud project lacks of what the road needs, and what to run to mend it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError

from components.check import Finding
from components.doctor import account, apis, bucket, quota, registry, roles
from components.doctor.needs import Needs
from components.earthengine.errors import VertexError
from components.earthengine.redaction import redact

__all__ = ["Needs", "examine"]


_URL = re.compile(r"^[A-Z]+ https?://\S+: ")  # which the clients put before the service's own words


@dataclass(frozen=True)
class _Check:
    """A question about the project, and the role that who asks it needs to get an answer."""

    what: str
    ask: Callable[[Needs], Iterator[Finding]]
    role: str


_CHECKS = (
    _Check("project", apis.check_project, "roles/browser"),
    _Check("APIs", apis.check_services, "roles/serviceusage.serviceUsageViewer"),
    _Check("bucket", bucket.check_location, "roles/storage.bucketViewer"),
    _Check("repository", registry.check_repository, "roles/artifactregistry.reader"),
    _Check("repository", registry.check_reader, "roles/browser"),
    _Check("images", registry.check_images, "roles/artifactregistry.reader"),
    _Check("your roles", roles.check_project, "roles/browser"),
    _Check("your roles", roles.check_bucket, "roles/storage.bucketViewer"),
    _Check("your roles", roles.check_account, "roles/iam.serviceAccountViewer"),
    _Check("account", account.check_exists, "roles/iam.serviceAccountViewer"),
    _Check("account", account.check_project_roles, "roles/iam.securityReviewer"),
    _Check("account", account.check_bucket_roles, "roles/iam.securityReviewer"),
    _Check("quota", quota.check_quota, "roles/cloudquotas.viewer"),
)


def examine(needs: Needs) -> Iterator[Finding]:
    """Ask a project for all that the road needs, one finding after the other as they come.

    Nothing is changed. A question that gets no answer, for want of an API, a permission or what it is about, is a
    warning, unless a run wants that API too, and the others are asked all the same; without credentials none is.

    Raises:
        VertexError: Google Cloud, or the local Vertex AI, cannot be reached.
    """
    try:
        yield Finding("credentials", "passed", needs.project.sign_in())
    except VertexError as error:
        yield Finding("credentials", "failed", str(error))
        return
    for check in _CHECKS:
        try:
            yield from check.ask(needs)
        except exceptions.GoogleAPICallError as error:
            yield _unanswered(check, needs, error)
        except (exceptions.RetryError, GoogleAuthError, OSError) as error:
            raise needs.project.unreachable(error) from error


def _unanswered(check: _Check, needs: Needs, error: exceptions.GoogleAPICallError) -> Finding:
    understood = isinstance(error, (exceptions.Forbidden, exceptions.NotFound))
    text = f"could not be asked: {redact(_URL.sub('', error.message)).rstrip('.')}"
    if error.reason == "SERVICE_DISABLED":
        service = error.metadata["service"]
        understood = service not in apis.REQUIRED
        text = f"could not be asked: {service} is not enabled; run: {apis.enable(needs, service)}"
    elif isinstance(error, exceptions.Forbidden):
        text += f"; run: {needs.grant(needs.project.caller, check.role)}"
    return Finding(check.what, "warning" if understood else "failed", text)
