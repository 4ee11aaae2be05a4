"""Google Cloud: clients, emulator hosts, and what went wrong.

`VERTEX_EMULATOR_HOST` (host:port) points the clients at a local Vertex AI, as `STORAGE_EMULATOR_HOST` does
google-cloud-storage.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.api_core import exceptions, retry
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.aiplatform_v1.services.job_service import JobServiceClient
from google.cloud.aiplatform_v1.services.pipeline_service import PipelineServiceClient

from .errors import MalformedError, NotYetError, RefusedError, UnavailableError

_VERTEX_EMULATOR, _STORAGE_EMULATOR = "VERTEX_EMULATOR_HOST", "STORAGE_EMULATOR_HOST"
# For its traces the client asks for the bucket itself, which needs a permission that reading objects does not.
os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")

REQUEST_SECONDS = 30
# Over what passes in a moment; what lasts longer is for the platform, which delivers the event again.
AGAIN = retry.Retry(initial=0.2, maximum=2, timeout=5)


@dataclass(frozen=True)
class Cloud:
    """Vertex AI in one project and region, and Cloud Storage."""

    project: str
    location: str

    @property
    def parent(self) -> str:
        """The resource name that jobs lie under."""
        return f"projects/{self.project}/locations/{self.location}"

    @cached_property
    def storage(self) -> storage.Client:
        """Objects in buckets."""
        anonymous = AnonymousCredentials() if _STORAGE_EMULATOR in os.environ else None
        return storage.Client(project=self.project, credentials=anonymous)

    @cached_property
    def pipelines(self) -> PipelineServiceClient:
        """Pipeline jobs."""
        return self._client(PipelineServiceClient)

    @cached_property
    def custom_jobs(self) -> JobServiceClient:
        """Custom jobs."""
        return self._client(JobServiceClient)

    def _client(self, kind: Any) -> Any:
        emulator = os.environ.get(_VERTEX_EMULATOR)
        host = f"http://{emulator}" if emulator else f"https://{self.location}-aiplatform.googleapis.com"
        # REST, because processes that gunicorn forks must not inherit gRPC's threads.
        return kind(
            credentials=AnonymousCredentials() if emulator else None,
            transport="rest",
            client_options={"api_endpoint": host},
        )


@contextmanager
def asked(what: str) -> Iterator[None]:
    """Turn what the clients raise in the block into the reason why an event starts nothing.

    Args:
        what: what the block does, as a verb phrase that names the resource.

    Raises:
        RefusedError: the request itself is found invalid.
        NotYetError: it is refused for a reason that people can mend, such as a missing permission.
        UnavailableError: the service is too busy, fails, or cannot be reached.
        MalformedError: a name in it is no text that can be sent.
    """
    try:
        yield
    except exceptions.ServerError as error:
        raise UnavailableError(f"could not {what}: {error.code}: {error.message}") from error
    except exceptions.GoogleAPICallError as error:
        reason = f"could not {what}: {status(error)}: {error.message}"
        if status(error) == "INVALID_ARGUMENT":
            raise RefusedError(
                f"{reason}; correct the template or the settings and upload the model.yaml anew"
            ) from error
        if status(error) == "ABORTED":
            raise UnavailableError(reason) from error
        raise NotYetError(f"{reason}; mend it, then the event's next delivery succeeds") from error
    # Among these the RetryError that AGAIN ends in, of 429 and 503 above all.
    except (exceptions.GoogleAPIError, GoogleAuthError, OSError) as error:
        raise UnavailableError(f"could not {what}: {error}") from error
    except UnicodeError as error:
        raise MalformedError(f"could not {what}: {error}") from error


def status(error: exceptions.GoogleAPICallError) -> str:
    """The canonical status of an error: over REST FAILED_PRECONDITION is the same class as INVALID_ARGUMENT."""
    try:
        found = error.response.json()["error"]["status"]
    except (AttributeError, ValueError, LookupError, TypeError):
        found = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED"}.get(error.code)
    return str(found or error.code)
