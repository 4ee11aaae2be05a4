import contextlib
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from google.api_core import exceptions
from google.api_core.future import polling
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform, aiplatform_v1, storage

PARENT = "projects/local/locations/us-central1"
# Answers name a project by its number, which the emulator derives from the id.
NUMBERED = "projects/642872260880/locations/us-central1"
BUCKET = "models"
ARTIFACTS = f"gs://{BUCKET}/ndvi"
ECHO = "registry/local/images/serving-echo:1"


class Emulator:
    """A running emulator, and the official clients pointed at it."""

    def __init__(self, process: subprocess.Popen[str], port: int, state: Path) -> None:
        self.process = process
        self.port = port
        self.state = state
        self.url = f"http://127.0.0.1:{port}"
        self.models = self._client(aiplatform_v1.ModelServiceClient)
        self.endpoints = self._client(aiplatform_v1.EndpointServiceClient)
        self.predictions = self._client(aiplatform_v1.PredictionServiceClient)
        self.jobs = self._client(aiplatform_v1.PipelineServiceClient)
        self.schedules = self._client(aiplatform_v1.ScheduleServiceClient)
        self.custom_jobs = self._client(aiplatform_v1.JobServiceClient)
        self.storage = storage.Client(
            project="local",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": f"http://127.0.0.1:{port + 1}"},
        )

    def _client(self, client_class: Any) -> Any:
        return client_class(
            transport="rest", client_options={"api_endpoint": self.url}, credentials=AnonymousCredentials()
        )

    def upload(self, model_id: str = "", **fields: Any) -> Any:
        """Uploads the echo model; gives the response of the operation."""
        parent_model = fields.pop("parent_model", "")
        container: dict[str, Any] = {"image_uri": ECHO, "grpc_ports": [{"container_port": 8500}]}
        container |= fields.pop("container_spec", {})
        model = {"display_name": "ndvi", "artifact_uri": ARTIFACTS, "container_spec": container, **fields}
        request = {"parent": PARENT, "model": model, "model_id": model_id, "parent_model": parent_model}
        return result_of(self.models.upload_model(request))

    def endpoint(self, **fields: Any) -> str:
        """Makes an endpoint and gives its name."""
        endpoint = {"display_name": "ndvi", **fields}
        name: str = result_of(self.endpoints.create_endpoint(parent=PARENT, endpoint=endpoint)).name
        return name

    def deploy(self, endpoint: str, model: str, traffic: dict[str, int] | None = None, **fields: Any) -> Any:
        """Deploys a model and gives the DeployedModel."""
        resources = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}
        deployed = {"model": model, "dedicated_resources": resources, **fields}
        operation = self.endpoints.deploy_model(
            {"endpoint": endpoint, "deployed_model": deployed, "traffic_split": traffic or {}}
        )
        return result_of(operation).deployed_model

    def http(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """A plain request: the HTTP code and the JSON of the answer."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())


def result_of(operation: Any) -> Any:
    """The response of an operation, asked for more often than the clients do, who wait for a second at least."""
    return operation.result(timeout=60, polling=polling.DEFAULT_POLLING.with_delay(initial=0.05, maximum=0.1))


@contextlib.contextmanager
def refused(status: str, message: str) -> Iterator[None]:
    """Expects a call to fail with this canonical status, and with a text that matches ``message``."""
    with pytest.raises(exceptions.GoogleAPICallError, match=message) as caught:
        yield
    error = caught.value
    # REST has classes by HTTP code alone, BadRequest for both INVALID_ARGUMENT and FAILED_PRECONDITION, and the
    # status in the body. Failed operations and gRPC have a class for each status.
    if isinstance(error.response, requests.Response):
        body = error.response.json()["error"]
        assert (body["status"], body["code"]) == (status, error.code)
    else:
        assert error.grpc_status_code
        assert error.grpc_status_code.name == status


def free_ports() -> int:
    """A port that is free together with the next two; no connection is given it while the emulator is away."""
    while True:
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            port = random.randrange(20_000, 32_000)  # noqa: S311  connections get ports from 32768 on
            for number in range(port, port + 3):
                held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            return port


def command(port: int, state: Path) -> list[str]:
    return [sys.executable, "-m", "tests.vertex_local.emulator", "--port", str(port), "--state", str(state)]


def start(state: Path, port: int | None = None, *options: str, **variables: str) -> Emulator:
    port = port or free_ports()
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_EMULATOR_HOST")}
    environment |= variables
    process = subprocess.Popen([*command(port, state), *options], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    assert f"http://127.0.0.1:{port}" in process.stdout.readline()
    assert process.stdout.readline() == f"export VERTEX_EMULATOR_HOST=127.0.0.1:{port}\n"
    assert process.stdout.readline() == f"export STORAGE_EMULATOR_HOST=http://127.0.0.1:{port + 1}\n"
    return Emulator(process, port, state)


def stop(emulator: Emulator) -> None:
    emulator.process.terminate()
    assert emulator.process.wait(timeout=20) == 0
    if emulator.process.stdout:
        emulator.process.stdout.close()


def kill(emulator: Emulator) -> None:
    """Ends it with SIGKILL."""
    emulator.process.kill()
    emulator.process.wait()
    if emulator.process.stdout:
        emulator.process.stdout.close()


def until(found: Callable[[], Any], timeout_s: float = 30) -> Any:
    """What ``found`` gives as soon as that is true."""
    deadline = time.monotonic() + timeout_s
    while not (result := found()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return result


def store_artifacts(emulator: Emulator) -> None:
    emulator.storage.create_bucket(BUCKET)
    emulator.storage.bucket(BUCKET).blob("ndvi/model.mar").upload_from_string(b"weights")


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """One emulator for all tests that leave it running, with the SDK pointed at it."""
    running = start(tmp_path_factory.mktemp("state"))
    store_artifacts(running)
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{running.port + 1}"
    aiplatform.init(
        project="local",
        location="us-central1",
        staging_bucket="gs://staging",
        api_endpoint=running.url,
        api_transport="rest",
        credentials=AnonymousCredentials(),
    )
    yield running
    del os.environ["STORAGE_EMULATOR_HOST"]
    stop(running)
