"""The model servers behind endpoints: a process each, from the deployed model's image."""

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

import grpc
import httpx

from . import images
from .errors import FailedPreconditionError, ServiceError, UnavailableError
from .processes import Process, free_port, last_lines

_log = logging.getLogger(__name__)

# Vertex AI waits for up to two hours; on a laptop less will do. containerSpec.deploymentTimeout overrides it.
_DEPLOYMENT_TIMEOUT_S = 600.0
# A health check has to be answered within this time (custom container requirements, Vertex AI).
_HEALTH_TIMEOUT_S = 10.0
_FIRST_POLL_S, _LAST_POLL_S = 0.05, 0.5
_NO_LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class ModelServer:
    """One deployed model: its process, its addresses, and what predictions say of it."""

    def __init__(self, endpoint: str, deployed: Any, model: Any, log_directory: Path) -> None:
        spec = model.container_spec
        endpoint_id = endpoint.rpartition("/")[2]
        route = f"/v1/endpoints/{endpoint_id}/deployedModels/{deployed.id}"
        self.deployed_id: str = deployed.id
        self.endpoint_id = endpoint_id
        self.log = log_directory / f"{endpoint_id}-{deployed.id}.log"
        self._model = model
        self._health_route: str = spec.health_route or route
        self._predict_route: str = spec.predict_route or f"{route}:predict"
        self._machine_type: str = deployed.dedicated_resources.machine_spec.machine_type
        self._process: Process | None = None
        self._ready = False
        self._http_port = self._grpc_port = 0
        self.channel: grpc.aio.Channel | None = None
        fields = {
            "deployedModelId": deployed.id,
            "model": model.name,
            "modelDisplayName": model.display_name,
            "modelVersionId": model.version_id,
        }
        self.answer_fields: bytes = json.dumps(fields).encode()[1:]

    @property
    def predict_url(self) -> str:
        return f"http://127.0.0.1:{self._http_port}{self._predict_route}"

    async def start(self, client: httpx.AsyncClient) -> None:
        """Starts the process and waits until it is healthy.

        Raises:
            FailedPreconditionError: it ended or never got healthy; the text ends with its last words.
        """
        self._http_port, self._grpc_port = free_port(), free_port()
        command = images.command_for(self._model.container_spec.image_uri)(self._http_port, self._grpc_port)
        self._process = await Process.start(command, self.log, self._environment())
        try:
            await self._until_healthy(client, self._process)
        except BaseException:
            await self.stop()
            raise
        self._ready = True
        # Without a port in the model's containerSpec.grpcPorts Vertex AI does not forward gRPC.
        if self._model.container_spec.grpc_ports:
            self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self._grpc_port}", options=_NO_LIMIT)

    async def stop(self) -> None:
        if self.channel:
            await self.channel.close(None)
        if self._process:
            await self._process.stop()

    def check_running(self) -> None:
        """Raises UnavailableError where the process is not ready or has ended."""
        if self._process and self._process.exit_status is not None:
            raise UnavailableError(f"The server of the deployed model {self.deployed_id!r} {self._end()}")
        if not self._ready:
            raise UnavailableError(f"The deployed model {self.deployed_id!r} is starting")

    async def _until_healthy(self, client: httpx.AsyncClient, process: Process) -> None:
        timeout_s = self._model.container_spec.deployment_timeout.seconds or _DEPLOYMENT_TIMEOUT_S
        deadline, pause_s = time.monotonic() + timeout_s, _FIRST_POLL_S
        url = f"http://127.0.0.1:{self._http_port}{self._health_route}"
        while time.monotonic() < deadline:
            if process.exit_status is not None:
                raise FailedPreconditionError(f"Model server terminated: the server {self._end()}")
            try:
                if (await client.get(url, timeout=_HEALTH_TIMEOUT_S)).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.2, _LAST_POLL_S)
        raise FailedPreconditionError(
            f"Model server never became ready: no 200 from {self._health_route} within {timeout_s:.0f} s;"
            f" its log ends:\n{last_lines(self.log)}"
        )

    def _end(self) -> str:
        status = self._process.exit_status if self._process else None
        return f"ended with exit status {status}; its log ends:\n{last_lines(self.log)}"

    def _environment(self) -> dict[str, str]:
        # As a container on Vertex AI has them, with the uploaded artifacts themselves instead of a copy.
        return {
            **{variable.name: variable.value for variable in self._model.container_spec.env},
            "AIP_ACCELERATOR_TYPE": "",
            "AIP_DEPLOYED_MODEL_ID": self.deployed_id,
            "AIP_ENDPOINT_ID": self.endpoint_id,
            "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
            "AIP_HEALTH_ROUTE": self._health_route,
            "AIP_HTTP_PORT": str(self._http_port),
            "AIP_MACHINE_TYPE": self._machine_type,
            "AIP_MODE": "PREDICTION",
            "AIP_MODEL_NAME": self.endpoint_id,
            "AIP_MODE_VERSION": "1.0.0",
            "AIP_PREDICT_ROUTE": self._predict_route,
            "AIP_STORAGE_URI": self._model.artifact_uri,
            "AIP_VERSION_NAME": self.deployed_id,
        }


class Fleet:
    """All model servers, by endpoint and deployed model."""

    def __init__(self, client: httpx.AsyncClient, log_directory: Path) -> None:
        self._client = client
        self._log_directory = log_directory
        self._servers: dict[tuple[str, str], ModelServer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def launch(self, endpoint: str, deployed: Any, model: Any) -> ModelServer:
        """Starts a server; it serves once ``add`` has been called with it."""
        server = ModelServer(endpoint, deployed, model, self._log_directory)
        await server.start(self._client)
        return server

    def add(self, endpoint: str, server: ModelServer) -> None:
        self._servers[endpoint, server.deployed_id] = server

    def relaunch(self, endpoint: str, deployed: Any, model: Any) -> None:
        """Starts a server again in the background, as after a restart of the emulator."""
        server = ModelServer(endpoint, deployed, model, self._log_directory)
        self.add(endpoint, server)
        self._in_background(self._start_again(server))

    def retire(self, endpoint: str, deployed_id: str) -> None:
        """Ends a server in the background."""
        server = self._servers.pop((endpoint, deployed_id), None)
        if server:
            self._in_background(server.stop())

    def get(self, endpoint: str, deployed_id: str) -> ModelServer:
        """The server of a deployed model.

        Raises:
            UnavailableError: it is starting, or has ended.
        """
        server = self._servers[endpoint, deployed_id]
        server.check_running()
        return server

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(server.stop() for server in self._servers.values()))

    async def _start_again(self, server: ModelServer) -> None:
        try:
            await server.start(self._client)
        except ServiceError as error:
            _log.error("deployed model %s did not start again: %s", server.deployed_id, error)

    def _in_background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
