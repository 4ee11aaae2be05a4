"""The one seam to Google Cloud: clients, emulator hosts, credentials, and what went wrong.

`VERTEX_EMULATOR_HOST` (host:port) points every client here at a local Vertex AI, as
`STORAGE_EMULATOR_HOST` does google-cloud-storage; nothing else in the project knows of either.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.api_core import exceptions
from google.auth import default as default_credentials
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import GoogleAuthError
from google.resumable_media import DataCorruption

from components.calls import (
    ATTEMPT_SECONDS,
    PASSING,
    Again,
    AnswerError,
    Calls,
    GivenUpError,
    LostAnswerError,
    NoTimeLeftError,
    attempt_seconds,
    described,
    is_passing_prediction,
    status_of,
)
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
_LATE = (
    f"has not answered within {ATTEMPT_SECONDS:g} s, which is a shared endpoint's limit; declare a smaller tile in "
    "model.yaml or choose a faster machine_type"
)
_UNREACHED = "; see whether the service can be reached, and run again"
# A model that answers nothing else for this long is not one to release; a verification sends many requests.
_PREDICT_AGAIN = Again(is_passing_prediction, 15, "predict")


@dataclass(frozen=True)
class Prediction:
    """What an endpoint answered.

    Attributes:
        body: of the answer.
        seconds: of the attempt that was answered, without those before it and the pauses between them.
        deployed_model: the id of the model that gave it; empty where that is not told.
    """

    body: bytes
    seconds: float
    deployed_model: str = ""


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

        return AuthorizedSession(credentials())

    def predict(self, endpoint: str, body: bytes) -> Prediction:
        """POST a body to an endpoint's `:predict`, as Earth Engine does.

        Raises:
            VertexError: the endpoint cannot be reached, does not answer in time, or not with 200.
            PayloadError: the answer does not say which model gave it.
        """
        import orjson
        import requests

        url = f"{self.uri(endpoint)}:predict"

        def post() -> requests.Response:
            answer: requests.Response = self.session.post(
                url, data=body, headers={"Content-Type": "application/json"}, timeout=attempt_seconds()
            )
            if answer.status_code in PASSING:
                raise AnswerError(answer.status_code, answer.text)
            return answer

        attempt = _Timed(_PREDICT_AGAIN)
        with explained(f"send a golden tile to {url}"), _not_late(url), _told(url):
            answer = attempt(post)()
        if answer.status_code != requests.codes.ok:
            raise VertexError(f"{url} answers {answer.status_code} to a golden tile: {answer.text[:2000]}")
        try:
            deployed_model = str(orjson.loads(answer.content)["deployedModelId"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise PayloadError(f"{url} answers without a deployedModelId: {answer.text[:200]}") from error
        return Prediction(answer.content, attempt.seconds, deployed_model)

    def direct_raw_predict(self, endpoint: str, method: str, body: bytes) -> Prediction:
        """Send a serialized gRPC request to the model behind an endpoint, as Earth Engine does (INFERRED).

        Raises:
            VertexError: the endpoint refuses it, or does not answer in time.
        """
        request = {"endpoint": endpoint, "method_name": method, "input": body}
        attempt = _Timed(_PREDICT_AGAIN)
        with explained(f"send {method} to {endpoint}"), _not_late(endpoint):
            answer = self.predictions.direct_raw_predict(request, retry=attempt)
        return Prediction(bytes(answer.output), attempt.seconds)

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
        return Calls(kind(credentials=credentials(), transport="rest", client_options={"api_endpoint": self.host}))


@dataclass
class _Timed:
    """Repeats calls, and tells the seconds that the last attempt took."""

    again: Again
    seconds: float = 0.0

    def __call__(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            begin = time.perf_counter()
            answer = call(*arguments, **keywords)
            self.seconds = time.perf_counter() - begin
            return answer

        return self.again(timed)


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


@contextmanager
def explained(what: str, error_type: type[PipelineError] = VertexError) -> Iterator[None]:
    """Turn what Google Cloud's clients raise in the block into one of our errors.

    Args:
        what: what the block does, as a verb phrase that names the resource.
        error_type: the error to raise.
    """
    try:
        yield
    except NoTimeLeftError as error:
        raise error_type(f"could not {what}: {error}; see in its log what took so long, and run again") from error
    except LostAnswerError as error:
        raise error_type(f"could not {what}: {error}; see whether it was done before you run again") from error
    except GivenUpError as error:
        raise error_type(f"could not {what}: {error}{_way_out(error.last) or _UNREACHED}") from error
    except exceptions.GoogleAPICallError as error:
        raise error_type(f"could not {what}: {described(error)}{_way_out(error)}") from error
    except (exceptions.GoogleAPIError, GoogleAuthError, DataCorruption, OSError) as error:
        raise error_type(f"could not {what}: {error}{_UNREACHED}") from error


@contextmanager
def _not_late(address: str) -> Iterator[None]:
    """Say of a model that is too slow, which alone is not asked again, what can be done."""
    try:
        yield
    except LostAnswerError as error:
        raise VertexError(f"{address} {_LATE}") from error


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Say what an endpoint answered, where it is asked no more and the model itself may have said why."""
    try:
        yield
    except GivenUpError as error:
        if not isinstance(error.last, AnswerError):
            raise
        status, text = error.last.status, error.last.text[:2000]
        raise VertexError(
            f"{url} answers {status} to a golden tile after {error.tried}: {text}{_way_out(error.last)}"
        ) from error


def _way_out(error: Exception) -> str:
    match status_of(error):
        case 401 | 403:
            return "; grant the account that runs this the role it lacks (README.md, 'To the cloud')"
        case 429:
            return "; ask for more quota, or wait and run again"
        case _:
            return ""
