"""The server of one deployed model: its process, its addresses, and its restarts."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import grpc

from ..artifacts import managed_uri
from ..errors import FailedPreconditionError, ServiceError, UnavailableError
from ..logs import last_lines
from ..processes import Process
from . import images
from .runners import Runner

_log = logging.getLogger(__name__)

# Vertex AI waits for up to two hours; on a laptop less will do. containerSpec.deploymentTimeout overrides it.
_DEPLOYMENT_TIMEOUT_S = 600.0
# A health check has to be answered within this time (custom container requirements, Vertex AI).
_HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=10.0)
_FIRST_POLL_S, _LAST_POLL_S = 0.05, 0.5
# Before a server that has ended is started again; from the first pause again once it has served for a while.
_FIRST_PAUSE_S, _LAST_PAUSE_S, _PROVEN_S = 0.5, 30.0, 60.0
# An answer may take as long as a request to a shared endpoint.
_LAST_ANSWER_S = 60.0
_NO_LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

State = Literal["starting", "serving", "restarting"]


@dataclass(frozen=True)
class ServerStatus:
    """How a server fares since the emulator was started.

    Attributes:
        state: starting for the first time, serving, or on its way back after it has ended.
        restarts: how often it was started again.
        requests: predictions that were sent its way, also while it was not there.
        failures: those of them without an answer, or with one that was an error.
        log: what it writes, over all restarts.
    """

    state: State
    restarts: int
    requests: int
    failures: int
    log: Path


class ModelServer:
    """One deployed model: its process, its addresses, and what predictions say of it."""

    def __init__(
        self,
        endpoint: str,
        deployed: Any,
        model: Any,
        runner: Runner,
        client: aiohttp.ClientSession,
        log_directory: Path,
    ) -> None:
        spec = model.container_spec
        endpoint_id = endpoint.rpartition("/")[2]
        route = f"/v1/endpoints/{endpoint_id}/deployedModels/{deployed.id}"
        routes = images.prebuilt_routes(spec.image_uri) or images.Routes(route, f"{route}:predict")
        self.deployed_id: str = deployed.id
        self.title = f"The deployed model {deployed.id!r} of {endpoint!r}"
        self.endpoint_id = endpoint_id
        self.channel: grpc.aio.Channel | None = None
        _, project, _, location, *_ = endpoint.split("/")
        self._log = log_directory / project / location / f"{endpoint_id}-{deployed.id}.log"
        self._requests = self._failures = 0
        self._in_flight = 0
        self._runner = runner
        self._client = client
        self._model = model
        self._health_route: str = spec.health_route or routes.health
        self._predict_route: str = spec.predict_route or routes.predict
        self._machine_type: str = deployed.dedicated_resources.machine_spec.machine_type
        self._process: Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._address = ""
        self._ready = False
        self._restarts = 0
        self._fault = ""
        fields = {
            "deployedModelId": deployed.id,
            "model": model.name,
            "modelDisplayName": model.display_name,
            "modelVersionId": model.version_id,
        }
        self.answer_fields: bytes = json.dumps(fields).encode()[1:]

    @property
    def predict_url(self) -> str:
        return f"{self._address}{self._predict_route}"

    @property
    def status(self) -> ServerStatus:
        return ServerStatus(self._state(), self._restarts, self._requests, self._failures, self._log)

    async def start(self) -> None:
        """Starts the process and waits until it is healthy.

        Raises:
            FailedPreconditionError: it ended or never got healthy; the text ends with its last words.
        """
        launch = self._runner.launch(self._model.container_spec, self._variables())
        self._address = f"http://127.0.0.1:{launch.http_port}"
        self._process = await Process.start(launch.command, self._log, launch.environment, append=self._restarts > 0)
        try:
            await self._until_healthy(self._process)
        except BaseException:
            await self._end()
            raise
        # Without a port in the model's containerSpec.grpcPorts Vertex AI does not forward gRPC.
        if self._model.container_spec.grpc_ports:
            self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{launch.grpc_port}", options=_NO_LIMIT)
        self._ready = True

    def keep_running(self) -> None:
        """Sees to it from now on that the server runs, until it is stopped."""
        self._keeper = asyncio.create_task(self._keep())

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Counts the prediction that is made within, as a failure where it raises a ServiceError."""
        self._requests += 1
        self._in_flight += 1
        try:
            yield
        except ServiceError:
            self._failures += 1
            raise
        finally:
            self._in_flight -= 1

    async def retire(self) -> None:
        """Stops when the requests that it has been sent are answered; it must get no more."""
        deadline = time.monotonic() + _LAST_ANSWER_S
        while self._in_flight and time.monotonic() < deadline:
            await asyncio.sleep(_FIRST_POLL_S)
        await self.stop()

    async def stop(self) -> None:
        if self._keeper:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        await self._end()

    def check_running(self) -> None:
        """Raises UnavailableError where the process is not ready or has ended."""
        match self._state():
            case "starting":
                raise UnavailableError(f"{self.title} is starting")
            case "restarting":
                fault = self._fault or f"the server {self._how_it_ended()}"
                raise UnavailableError(f"{self.title} is being started again: {fault}")

    def _state(self) -> State:
        if self._ready and self._process and self._process.exit_status is None:
            return "serving"
        return "restarting" if self._ready or self._fault else "starting"

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            served_s = await self._serve()
            if served_s >= _PROVEN_S:
                pause_s = _FIRST_PAUSE_S
            _log.warning(
                "deployed model %s of %s, restart %d in %.1f s: %s",
                *(self.deployed_id, self.endpoint_id, self._restarts + 1, pause_s, self._fault),
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)
            self._restarts += 1

    async def _serve(self) -> float:
        """Lets the server run until it ends, and starts it before where it does not run; for how long it served, s."""
        try:
            if not self._ready:
                await self.start()
        except Exception as fault:
            # Whatever it was, the next start may do better.
            if not isinstance(fault, (ServiceError, OSError)):
                _log.exception("deployed model %s of %s", self.deployed_id, self.endpoint_id)
            self._fault = str(fault)
            return 0.0
        assert self._process  # noqa: S101
        begin = time.monotonic()
        await self._process.wait()
        self._fault = f"the server {self._how_it_ended()}"
        await self._end()
        return time.monotonic() - begin

    async def _end(self) -> None:
        self._ready = False
        if self.channel:
            await self.channel.close(None)
        self.channel = None
        if self._process:
            await self._process.stop()
        self._process = None

    async def _until_healthy(self, process: Process) -> None:
        timeout_s = self._model.container_spec.deployment_timeout.seconds or _DEPLOYMENT_TIMEOUT_S
        try:
            async with asyncio.timeout(timeout_s):
                await self._poll_health(process)
        except TimeoutError:
            raise FailedPreconditionError(
                f"Model server never became ready: no 200 from {self._health_route} within {timeout_s:.0f} s;"
                f" its log ends:\n{last_lines(self._log)}"
            ) from None

    async def _poll_health(self, process: Process) -> None:
        pause_s = _FIRST_POLL_S
        while process.exit_status is None:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                url = f"{self._address}{self._health_route}"
                async with self._client.get(url, timeout=_HEALTH_TIMEOUT) as answer:
                    await answer.read()  # else the connection is broken off, which some servers log
                    if answer.status == 200:
                        return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.2, _LAST_POLL_S)
        raise FailedPreconditionError(f"Model server terminated: the server {self._how_it_ended()}")

    def _how_it_ended(self) -> str:
        status = self._process.exit_status if self._process else None
        return f"ended with exit status {status}; its log ends:\n{last_lines(self._log)}"

    def _variables(self) -> dict[str, str]:
        # As a container on Vertex AI has them.
        return {
            "AIP_ACCELERATOR_TYPE": "",
            "AIP_DEPLOYED_MODEL_ID": self.deployed_id,
            "AIP_ENDPOINT_ID": self.endpoint_id,
            "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
            "AIP_HEALTH_ROUTE": self._health_route,
            "AIP_MACHINE_TYPE": self._machine_type,
            "AIP_MODE": "PREDICTION",
            "AIP_MODEL_NAME": self.endpoint_id,
            "AIP_MODE_VERSION": "1.0.0",
            "AIP_PREDICT_ROUTE": self._predict_route,
            "AIP_STORAGE_URI": managed_uri(self._model),
            "AIP_VERSION_NAME": self.deployed_id,
        }
