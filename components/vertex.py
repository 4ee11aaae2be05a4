"""The one seam to Google Cloud: clients, emulator hosts, credentials, waiting, and what went wrong.

`VERTEX_EMULATOR_HOST` (host:port) points every client here at a local Vertex AI, as
`STORAGE_EMULATOR_HOST` does google-cloud-storage; nothing else in the project knows of either.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from google.api_core import exceptions, retry
from google.api_core.future import polling
from google.auth import default as default_credentials
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.resumable_media import DataCorruption

from components.earthengine.errors import PayloadError, PipelineError, StorageError, VertexError
from components.lazy import import_by_submodule

# All forty services and their messages take 1.5 s to import, which five steps would each pay for one or two.
import_by_submodule("google.cloud.aiplatform_v1")
import_by_submodule("google.cloud.aiplatform_v1.types")

if TYPE_CHECKING:
    from google.auth.transport.requests import AuthorizedSession
    from google.cloud import aiplatform, aiplatform_v1, storage

EMULATOR = "VERTEX_EMULATOR_HOST"
_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
# Vertex AI's own limit for a request to a shared endpoint is 60 s (endpoint types page).
_REQUEST_SECONDS = 60
_LATE = (
    f"has not answered within {_REQUEST_SECONDS} s, which is a shared endpoint's limit; declare a smaller tile in "
    "model.yaml or choose a faster machine_type"
)
# For calls that only read.
READ_AGAIN = retry.Retry(initial=0.5, maximum=8, timeout=60)
# As long as `Vertex.session` sends a prediction again.
_PREDICT_AGAIN = retry.Retry(
    retry.if_exception_type(exceptions.ServiceUnavailable, exceptions.TooManyRequests),
    initial=0.5,
    maximum=8,
    timeout=15,
)


@dataclass(frozen=True)
class Vertex:
    """Vertex AI in one project and region."""

    project: str
    location: str

    @property
    def parent(self) -> str:
        """The resource name that models, endpoints and jobs lie under."""
        return f"projects/{self.project}/locations/{self.location}"

    @property
    def host(self) -> str:
        """The API's address, with its scheme."""
        emulator = os.environ.get(EMULATOR)
        return f"http://{emulator}" if emulator else f"https://{self.location}-aiplatform.googleapis.com"

    def uri(self, name: str) -> str:
        """The address of a resource, which the console links."""
        return f"{self.host}/v1/{name}"

    def page(self, name: str) -> str:
        """The page of the console that shows a model, also `M@V`, an endpoint, a pipeline job or a schedule."""
        if EMULATOR in os.environ:
            return f"{self.host}/console/{name}"
        _, project, _, location, kind, resource = name.split("/")
        model, _, version = resource.partition("@")
        path = {
            "endpoints": f"locations/{location}/endpoints/{resource}",
            "models": f"models/locations/{location}/models/{model}" + (f"/versions/{version}" if version else ""),
            "pipelineJobs": f"locations/{location}/pipelines/runs/{resource}",
            "schedules": f"locations/{location}/pipelines/schedules/{resource}",
        }[kind]
        return f"https://console.cloud.google.com/vertex-ai/{path}?project={project}"

    @cached_property
    def models(self) -> aiplatform_v1.ModelServiceClient:
        """The registry."""
        from google.cloud.aiplatform_v1.services.model_service import ModelServiceClient

        return self._client(ModelServiceClient)

    @cached_property
    def endpoints(self) -> aiplatform_v1.EndpointServiceClient:
        """Endpoints and what is deployed to them."""
        from google.cloud.aiplatform_v1.services.endpoint_service import EndpointServiceClient

        return self._client(EndpointServiceClient)

    @cached_property
    def predictions(self) -> aiplatform_v1.PredictionServiceClient:
        """Predictions through gRPC."""
        from google.cloud.aiplatform_v1.services.prediction_service import PredictionServiceClient

        return self._client(PredictionServiceClient)

    @cached_property
    def pipelines(self) -> aiplatform_v1.PipelineServiceClient:
        """Pipeline jobs."""
        from google.cloud.aiplatform_v1.services.pipeline_service import PipelineServiceClient

        return self._client(PipelineServiceClient)

    @cached_property
    def schedules(self) -> aiplatform_v1.ScheduleServiceClient:
        """Schedules of pipeline jobs."""
        from google.cloud.aiplatform_v1.services.schedule_service import ScheduleServiceClient

        return self._client(ScheduleServiceClient)

    @cached_property
    def session(self) -> AuthorizedSession:
        """HTTP with credentials, for requests whose bytes matter."""
        from google.auth.transport.requests import AuthorizedSession
        from requests.adapters import HTTPAdapter
        from urllib3.exceptions import ReadTimeoutError
        from urllib3.util import Retry

        class Again(Retry):
            """Does not wait again for a model that is too slow."""

            def increment(self, *args: Any, **keys: Any) -> Self:
                if isinstance(error := keys.get("error"), ReadTimeoutError):
                    raise error
                return super().increment(*args, **keys)

        session = AuthorizedSession(credentials())
        # A prediction changes nothing, so it may be sent again.
        again = Again(
            5, backoff_factor=0.5, status_forcelist=(429, 502, 503, 504), allowed_methods=None, raise_on_status=False
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=again))
        return session

    def predict(self, endpoint: str, body: bytes) -> tuple[bytes, str]:
        """POST a body to an endpoint's `:predict`, as Earth Engine does.

        Returns:
            The answer's body, and the id of the deployed model that gave it.

        Raises:
            VertexError: the endpoint cannot be reached, does not answer in time, or not with 200.
        """
        import orjson
        import requests

        url = f"{self.uri(endpoint)}:predict"
        try:
            answer = self.session.post(
                url, data=body, headers={"Content-Type": "application/json"}, timeout=_REQUEST_SECONDS
            )
        except requests.ReadTimeout as error:
            raise VertexError(f"{url} {_LATE}") from error
        except (requests.RequestException, GoogleAuthError) as error:
            raise VertexError(f"{url} cannot be reached: {error}; see whether the endpoint still exists") from error
        if answer.status_code != requests.codes.ok:
            raise VertexError(f"{url} answers {answer.status_code} to a golden tile: {answer.text[:2000]}")
        try:
            return answer.content, str(orjson.loads(answer.content)["deployedModelId"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise PayloadError(f"{url} answers without a deployedModelId: {answer.text[:200]}") from error

    def direct_raw_predict(self, endpoint: str, method: str, body: bytes) -> bytes:
        """Send a serialized gRPC request to the model behind an endpoint, as Earth Engine does (INFERRED).

        Raises:
            VertexError: the endpoint refuses it, or does not answer in time.
        """
        import requests

        request = {"endpoint": endpoint, "method_name": method, "input": body}
        with explained(f"send {method} to {endpoint}"):
            try:
                answer = self.predictions.direct_raw_predict(request, retry=_PREDICT_AGAIN, timeout=_REQUEST_SECONDS)
            except requests.ReadTimeout as error:
                raise VertexError(f"{endpoint} {_LATE}") from error
        return bytes(answer.output)

    def pipeline_job(
        self, name: str, template: Path, parameters: dict[str, Any], pipeline_root: str
    ) -> aiplatform.PipelineJob:
        """The SDK's own job of a compiled template, which asks nothing of Vertex AI before it is told to.

        Raises:
            ValueError: the pipeline has no such parameter, or the SDK knows no such region.
        """
        from google.cloud import aiplatform

        # It would tell on stdout what it makes.
        logging.getLogger("google.cloud.aiplatform.pipeline_job_schedules").setLevel(logging.WARNING)
        # The SDK takes an address only for the whole process.
        aiplatform.init(
            project=self.project,
            location=self.location,
            credentials=credentials(),
            api_endpoint=self.host,
            api_transport="rest",
        )
        return aiplatform.PipelineJob(
            display_name=name, template_path=str(template), pipeline_root=pipeline_root, parameter_values=parameters
        )

    def _client(self, kind: Any) -> Any:
        return kind(credentials=credentials(), transport="rest", client_options={"api_endpoint": self.host})


def model_id(name: str) -> str:
    """The model's id in a resource name `.../models/ID` or `.../models/ID@VERSION`."""
    return name.rsplit("/", 1)[-1].split("@", maxsplit=1)[0]


def credentials() -> Credentials:
    """The user's or the step's own; none for a local Vertex AI.

    Raises:
        VertexError: there are none.
    """
    if EMULATOR in os.environ:
        return AnonymousCredentials()
    try:
        found: Credentials = default_credentials(scopes=_SCOPES)[0]
    except GoogleAuthError as error:
        raise VertexError(
            f"no Google Cloud credentials: {error}; run `gcloud auth application-default login`"
        ) from error
    return found


def storage_client() -> storage.Client:
    """Cloud Storage, or its emulator where STORAGE_EMULATOR_HOST says so.

    Raises:
        StorageError: there are no credentials.
    """
    return _storage_client(os.environ.get("STORAGE_EMULATOR_HOST"))


@cache
def _storage_client(emulator: str | None) -> storage.Client:
    from google.cloud import storage

    # For its traces the client asks for the bucket itself, in a thread that lasts as long as the retries; that needs a
    # permission which reading and writing objects does not.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    if emulator:
        return storage.Client(project="local", credentials=AnonymousCredentials())
    try:
        return storage.Client()
    except (GoogleAuthError, OSError) as error:
        raise StorageError(
            f"no Google Cloud credentials: {error}; run `gcloud auth application-default login`"
        ) from error


def wait(operation: Any, what: str, seconds: float) -> Any:
    """The result of a long-running operation, polled often at first and ever less so.

    Raises:
        VertexError: it failed, or did not end in time.
    """
    often_at_first = polling.DEFAULT_POLLING.with_delay(initial=0.1, multiplier=1.2, maximum=10)
    with explained(what):
        return operation.result(polling=often_at_first.with_timeout(seconds))


def wait_until_ended(vertex: Vertex, operation: str, seconds: float) -> None:
    """Wait for an operation that an earlier process began, however it ends.

    Raises:
        VertexError: it did not end in time.
    """
    deadline = time.monotonic() + seconds
    pause = 0.1
    with explained(f"look at {operation}"):
        while not vertex.endpoints.get_operation({"name": operation}, retry=READ_AGAIN).done:
            if time.monotonic() > deadline:
                raise VertexError(
                    f"{operation} has not ended within {seconds:g} s; look at the endpoint in the console"
                )
            time.sleep(pause)
            pause = min(pause * 1.2, 10)


@contextmanager
def explained(what: str, error_type: type[PipelineError] = VertexError) -> Iterator[None]:
    """Turn what Google Cloud's clients raise in the block into one of our errors.

    Args:
        what: what the block does, as a verb phrase that names the resource.
        error_type: the error to raise.
    """
    try:
        yield
    except (exceptions.RetryError, TimeoutError) as error:
        raise error_type(f"could not {what}: not done in time ({error}); see its state in the console") from error
    except exceptions.GoogleAPICallError as error:
        status = error.grpc_status_code.name if error.grpc_status_code else error.code
        raise error_type(f"could not {what}: {status}: {error.message}{_way_out(error)}") from error
    except (exceptions.GoogleAPIError, GoogleAuthError, DataCorruption, OSError) as error:
        raise error_type(f"could not {what}: {error}; see whether the service can be reached") from error


def _way_out(error: exceptions.GoogleAPICallError) -> str:
    match error:
        case exceptions.PermissionDenied() | exceptions.Forbidden() | exceptions.Unauthorized():
            return "; grant the account that runs this the role it lacks (README.md, 'To the cloud')"
        case exceptions.ResourceExhausted() | exceptions.TooManyRequests():
            return "; ask for more quota, or wait and run again"
        case _:
            return ""
