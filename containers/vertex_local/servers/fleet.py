"""The model servers behind all endpoints."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp

from .runners import Runner
from .server import ModelServer, ServerStatus


class Fleet:
    """Model servers by endpoint and deployed model; one that ends is started again until it is retired."""

    def __init__(self, runner: Runner, client: aiohttp.ClientSession, log_directory: Path) -> None:
        self._runner = runner
        self._client = client
        self._log_directory = log_directory
        self._servers: dict[tuple[str, str], ModelServer] = {}
        self._retiring: dict[ModelServer, asyncio.Task[None]] = {}

    async def launch(self, endpoint: str, deployed: Any, model: Any) -> ModelServer:
        """Starts a server; it serves once ``add`` has been called with it.

        Raises:
            FailedPreconditionError: it ended or never got healthy.
        """
        server = self._server(endpoint, deployed, model)
        await server.start()
        return server

    def add(self, endpoint: str, server: ModelServer) -> None:
        self._servers[endpoint, server.deployed_id] = server
        server.keep_running()

    def relaunch(self, endpoint: str, deployed: Any, model: Any) -> None:
        """Starts a server again in the background, as after a restart of the emulator."""
        self.add(endpoint, self._server(endpoint, deployed, model))

    def retire(self, endpoint: str, deployed_id: str) -> None:
        """Ends a server in the background, when it has answered the requests that it has."""
        server = self._servers.pop((endpoint, deployed_id), None)
        if server:
            self._retiring[server] = task = asyncio.create_task(server.retire())
            task.add_done_callback(lambda _: self._retiring.pop(server, None))

    def get(self, endpoint: str, deployed_id: str) -> ModelServer:
        """The server of a deployed model, which may be starting, or may have ended."""
        return self._servers[endpoint, deployed_id]

    def status(self, endpoint: str, deployed_id: str) -> ServerStatus:
        """How the server of a deployed model fares; KeyError where there is no such deployed model."""
        return self._servers[endpoint, deployed_id].status

    async def stop(self) -> None:
        retiring = dict(self._retiring)
        for task in retiring.values():
            task.cancel()
        await asyncio.gather(*retiring.values(), return_exceptions=True)
        await asyncio.gather(*(server.stop() for server in (*retiring, *self._servers.values())))

    def _server(self, endpoint: str, deployed: Any, model: Any) -> ModelServer:
        return ModelServer(endpoint, deployed, model, self._runner, self._client, self._log_directory)
