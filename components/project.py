"""The sibling of components/vertex.py: clients of the APIs that tell what a Google Cloud project has and allows.

It shares that module's credentials and emulator. It is a module of its own because its libraries come with the command
line alone: the images of steps, which import components/vertex.py, stay small.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError

from components.earthengine.errors import VertexError
from components.vertex import EMULATOR, credentials

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.auth.transport.requests import AuthorizedSession
    from google.cloud import artifactregistry_v1, cloudquotas_v1, resourcemanager_v3, service_usage_v1, storage

_IAM = "https://iam.googleapis.com"
_SECONDS = 30
# Of an account that a user made; Google's own, such as Compute Engine's, are named by the project's number instead.
_ACCOUNT = re.compile(r"[^@]+@(?P<project>[^.]+)\.iam\.gserviceaccount\.com")


@dataclass(frozen=True)
class Project:
    """A Google Cloud project, by its id."""

    id: str

    @cached_property
    def projects(self) -> resourcemanager_v3.ProjectsClient:
        """Resource Manager: the project itself and its IAM policy."""
        from google.cloud.resourcemanager_v3.services.projects import ProjectsClient

        return self._client(ProjectsClient)

    @cached_property
    def services(self) -> service_usage_v1.ServiceUsageClient:
        """Service Usage: which APIs are enabled."""
        from google.cloud.service_usage_v1.services.service_usage import ServiceUsageClient

        return self._client(ServiceUsageClient)

    @cached_property
    def registry(self) -> artifactregistry_v1.ArtifactRegistryClient:
        """Artifact Registry: repositories and the images in them."""
        from google.cloud.artifactregistry_v1.services.artifact_registry import ArtifactRegistryClient

        return self._client(ArtifactRegistryClient)

    @cached_property
    def quotas(self) -> cloudquotas_v1.CloudQuotasClient:
        """Cloud Quotas: limits; it does not tell how much of them is used."""
        from google.cloud.cloudquotas_v1.services.cloud_quotas import CloudQuotasClient

        return self._client(CloudQuotasClient)

    @cached_property
    def storage(self) -> storage.Client:
        """Cloud Storage, for buckets and their policies; a local Vertex AI answers these itself."""
        from google.cloud import storage

        options = {"api_endpoint": self._host} if self._host else None
        return storage.Client(self.id, credentials(), client_options=options)

    @cached_property
    def number(self) -> str:
        """The project's number.

        Raises:
            GoogleAPICallError: it cannot be read.
        """
        name: str = self.projects.get_project(name=f"projects/{self.id}").name
        return name.rpartition("/")[2]

    def sign_in(self) -> str:
        """Find credentials and make sure that they still hold; returns whose they are.

        Raises:
            VertexError: there are none, or they have expired or been withdrawn.
        """
        if self._host:
            return f"none are needed by the local Vertex AI at {self._host}"
        email = getattr(self._refreshed, "service_account_email", None)
        return f"of the service account {email}" if email else "of a user"

    def unreachable(self, error: Exception) -> VertexError:
        """What to tell of an error that means that nothing has answered."""
        if self._host:
            way_out = f"start one there with `python pipeline.py local`, or unset {EMULATOR}"
            return VertexError(f"no local Vertex AI answers at {self._host}: {way_out}")
        return VertexError(f"Google Cloud cannot be reached: {error}; see whether this machine has a network")

    @cached_property
    def caller(self) -> str:
        """Who asks, as a member of an IAM policy; a user's credentials do not tell, so for these gcloud is to say."""
        email = getattr(self._refreshed, "service_account_email", None)
        return f"serviceAccount:{email}" if email else '"user:$(gcloud config get account)"'

    def owner_of(self, email: str) -> str:
        """The project that a service account lies in, as its address tells; Google's own are taken for this one's."""
        owner = _ACCOUNT.match(email)
        return owner["project"] if owner else self.id

    def service_account(self, email: str) -> dict[str, Any]:
        """A service account, as `iam.v1` has it.

        Raises:
            GoogleAPICallError: there is none of this address, or it cannot be read.
        """
        return self._iam("GET", email)

    def permissions_on(self, email: str, permissions: list[str]) -> set[str]:
        """Which of some permissions who asks has on a service account.

        Raises:
            GoogleAPICallError: there is no such account.
        """
        answer = self._iam("POST", f"{email}:testIamPermissions", json={"permissions": permissions})
        return set(answer.get("permissions", []))

    def _iam(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        # google-cloud-iam speaks gRPC alone, which a local server without TLS cannot answer.
        url = f"{self._host or _IAM}/v1/projects/{self.owner_of(path)}/serviceAccounts/{path}"
        answer = self._session.request(method, url, timeout=_SECONDS, **body)
        if not answer.ok:
            raise exceptions.from_http_response(answer)
        found: dict[str, Any] = answer.json()
        return found

    @cached_property
    def _refreshed(self) -> Credentials:
        """Credentials that hold; Compute Engine's do not tell whose they are before they are refreshed."""
        from google.auth.transport.requests import Request

        found = credentials()
        if self._host:
            return found
        try:
            found.refresh(Request())
        except GoogleAuthError as error:
            raise VertexError(
                f"the Google Cloud credentials do not hold: {error}; run `gcloud auth application-default login`"
            ) from error
        return found

    @cached_property
    def _session(self) -> AuthorizedSession:
        from google.auth.transport.requests import AuthorizedSession

        return AuthorizedSession(credentials())

    @property
    def _host(self) -> str:
        """The local Vertex AI's address; empty where Google's are meant."""
        return f"http://{os.environ[EMULATOR]}" if EMULATOR in os.environ else ""

    def _client(self, kind: Any) -> Any:
        options = {"api_endpoint": self._host} if self._host else None
        return kind(credentials=credentials(), transport="rest", client_options=options)
