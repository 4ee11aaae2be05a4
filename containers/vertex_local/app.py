"""The services of one state directory, wired together, and the ASGI application that they make."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response

from . import messages
from .api.grpc_api import grpc_server
from .api.methods import OPERATIONS
from .api.origin import SameOrigin
from .api.rest import Rest, error_answer
from .artifacts import Artifacts
from .console import Console
from .errors import NotFoundError
from .project import ProjectApis
from .projects import Projects
from .servers.fleet import Fleet
from .servers.runners import Runner
from .services.custom_jobs import CustomJobs
from .services.endpoints import Endpoints
from .services.jobs import Jobs
from .services.models import Models
from .services.operations import Operations
from .services.predictions import Predictions
from .services.schedules import Schedules
from .store import Collection, Store

SERVICES: Mapping[str, type] = {
    "ModelService": Models,
    "EndpointService": Endpoints,
    "PredictionService": Predictions,
    "PipelineService": Jobs,
    "ScheduleService": Schedules,
    "JobService": CustomJobs,
    OPERATIONS: Operations,
}
"""What implements which service."""


class VertexLocal:
    """The services of one state directory, wired together."""

    def __init__(self, store: Store, directory: Path, runner: Runner) -> None:
        # The client's pool is what keeps the way to a model server short. uvicorn hangs up after 5 s without a request.
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )
        endpoints = Collection(store, "Endpoint", messages.Endpoint)
        self.projects = Projects(store)
        self.operations = Operations(store)
        self.fleet = Fleet(runner, self._client, directory / "log" / "servers")
        self.models = Models(store, self.operations, endpoints, runner, Artifacts(store, self._client))
        self.endpoints = Endpoints(endpoints, self.operations, self.fleet, self.models)
        self.predictions = Predictions(self.endpoints, self.fleet, self._client)
        self.jobs = Jobs(store, self.operations, self.projects, directory, runner.steps)
        self.custom_jobs = CustomJobs(store, self.operations, self.projects, directory, runner)
        self.schedules = Schedules(store, self.operations, self.jobs)
        self.project_apis = ProjectApis(directory / "project.json", self.projects, self._client)
        self.console = Console(
            self.jobs, self.models, self.endpoints, self.schedules, self.fleet, directory / "storage"
        )

    @property
    def services(self) -> Mapping[str, object]:
        """By the names that aiplatform_v1 has for them."""
        mine = (
            self.models,
            self.endpoints,
            self.predictions,
            self.jobs,
            self.schedules,
            self.custom_jobs,
            self.operations,
        )
        return {name: service for name, kind in SERVICES.items() for service in mine if isinstance(service, kind)}

    async def start(self) -> None:
        """Starts again what was deployed and what was queued, and the schedules."""
        await self.models.start()
        self.endpoints.start_again()
        self.jobs.start()
        self.custom_jobs.start()
        self.schedules.start()

    async def stop(self) -> None:
        await self.schedules.stop()
        await self.operations.stop()
        await self.jobs.stop()
        await self.custom_jobs.stop()
        await self.fleet.stop()
        await self._client.close()


def application(service: VertexLocal, grpc_address: str, hosts: Sequence[str]) -> Starlette:
    """The ASGI application, which serves gRPC at ``grpc_address`` for as long as it lives itself.

    Requests must name one of ``hosts`` as theirs; "*" stands for any.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        grpc = grpc_server(service.services, service.projects)
        grpc.add_insecure_port(grpc_address)
        try:
            await service.start()
            await grpc.start()
            yield
        finally:
            await grpc.stop(None)
            await service.stop()

    rest = Rest(service.services, service.predictions, service.projects)
    return Starlette(
        routes=[*service.project_apis.routes(), *rest.routes(), *service.console.routes()],
        lifespan=lifespan,
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
            Middleware(SameOrigin),
        ],
        exception_handlers={HTTPException: _unknown_path},
    )


async def _unknown_path(request: Request, _: Exception) -> Response:
    return error_answer(NotFoundError(f"{request.method} {request.url.path} is no path of this emulator"))
