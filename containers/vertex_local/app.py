"""The REST API: which method of which service answers a path."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from google.protobuf import empty_pb2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import messages, storage
from .endpoints import Endpoints
from .errors import InternalError, NotFoundError, ServiceError
from .jobs import Jobs
from .models import Models
from .operations import Operations
from .predictions import Predictions
from .serving import Fleet
from .store import Store

# A page of another site must not reach this service through a name of its own that resolves to 127.0.0.1.
_LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
_LOCATION = "/v1/projects/{project}/locations/{location}"


class VertexLocal:
    """The services of one state directory, wired together."""

    def __init__(self, store: Store, directory: Path) -> None:
        # The client's pool is what keeps the way to a model server short; proxies have no part in it.
        self.client = httpx.AsyncClient(
            trust_env=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=64)
        )
        self.operations = Operations()
        self.fleet = Fleet(self.client, directory / "log" / "servers")
        self.endpoints = Endpoints(store, self.operations, self.fleet)
        self.models = Models(store, self.operations, self.endpoints.deployments_of)
        self.predictions = Predictions(self.endpoints, self.fleet, self.client)
        self.jobs = Jobs(store, self.operations, directory)

    async def stop(self) -> None:
        await self.operations.stop()
        await self.jobs.stop()
        await self.fleet.stop()
        await self.client.aclose()

    # One method a REST method, in the order of the table below.

    async def upload_model(self, request: Request) -> Any:
        upload = messages.parse(messages.UploadModelRequest, await request.body())
        if upload.model.artifact_uri:
            storage_url = os.environ["STORAGE_EMULATOR_HOST"]
            await storage.check_artifacts(self.client, storage_url, upload.model.artifact_uri)
        return self.models.upload(_parent(request), upload)

    async def list_models(self, request: Request) -> Any:
        return self.models.page(_parent(request), request.query_params)

    async def list_model_versions(self, request: Request) -> Any:
        return self.models.version_page(_name(request, "models"), request.query_params)

    async def get_model(self, request: Request) -> Any:
        return self.models.get(_name(request, "models"))

    async def delete_model(self, request: Request) -> Any:
        return self.models.delete(_name(request, "models"))

    async def create_endpoint(self, request: Request) -> Any:
        endpoint = messages.parse(messages.Endpoint, await request.body())
        return self.endpoints.create(_parent(request), request.query_params.get("endpointId", ""), endpoint)

    async def list_endpoints(self, request: Request) -> Any:
        return self.endpoints.page(_parent(request), request.query_params)

    async def get_endpoint(self, request: Request) -> Any:
        return self.endpoints.get(_name(request, "endpoints"))

    async def update_endpoint(self, request: Request) -> Any:
        endpoint = messages.parse(messages.Endpoint, await request.body())
        mask = request.query_params.get("updateMask", "")
        return self.endpoints.update(_name(request, "endpoints"), mask, endpoint)

    async def delete_endpoint(self, request: Request) -> Any:
        return self.endpoints.delete(_name(request, "endpoints"))

    async def deploy_model(self, request: Request) -> Any:
        deploy = messages.parse(messages.DeployModelRequest, await request.body())
        return self.endpoints.deploy(_name(request, "endpoints"), deploy, self.models)

    async def undeploy_model(self, request: Request) -> Any:
        undeploy = messages.parse(messages.UndeployModelRequest, await request.body())
        return self.endpoints.undeploy(_name(request, "endpoints"), undeploy)

    async def predict(self, request: Request) -> Response:
        answer = await self.predictions.predict(_name(request, "endpoints"), await request.body())
        return Response(answer, media_type="application/json")

    async def raw_predict(self, request: Request) -> Response:
        content_type = request.headers.get("content-type", "application/json")
        answer = await self.predictions.raw_predict(_name(request, "endpoints"), await request.body(), content_type)
        return Response(answer.content, headers=answer.headers, media_type=answer.content_type)

    async def direct_raw_predict(self, request: Request) -> Any:
        call = messages.parse(messages.DirectRawPredictRequest, await request.body())
        return await self.predictions.direct_raw_predict(_name(request, "endpoints"), call)

    async def create_pipeline_job(self, request: Request) -> Any:
        job = messages.parse(messages.PipelineJob, await request.body())
        return self.jobs.create(_parent(request), request.query_params.get("pipelineJobId", ""), job)

    async def list_pipeline_jobs(self, request: Request) -> Any:
        return self.jobs.page(_parent(request), request.query_params)

    async def get_pipeline_job(self, request: Request) -> Any:
        return self.jobs.get(_name(request, "pipelineJobs"))

    async def cancel_pipeline_job(self, request: Request) -> Any:
        self.jobs.cancel(_name(request, "pipelineJobs"))
        return empty_pb2.Empty()

    async def delete_pipeline_job(self, request: Request) -> Any:
        return self.jobs.delete(_name(request, "pipelineJobs"))

    async def get_operation(self, request: Request) -> Any:
        return self.operations.get("{resource}/operations/{id}".format_map(request.path_params))

    def routes(self) -> list[Route]:
        """The paths; those with a verb first, as an id could else swallow it."""
        table: list[tuple[str, str, Callable[[Request], Awaitable[Any]]]] = [
            ("POST", "/models:upload", self.upload_model),
            ("GET", "/models/{id}:listVersions", self.list_model_versions),
            ("POST", "/endpoints/{id}:deployModel", self.deploy_model),
            ("POST", "/endpoints/{id}:undeployModel", self.undeploy_model),
            ("POST", "/endpoints/{id}:predict", self.predict),
            ("POST", "/endpoints/{id}:rawPredict", self.raw_predict),
            ("POST", "/endpoints/{id}:directRawPredict", self.direct_raw_predict),
            ("POST", "/pipelineJobs/{id}:cancel", self.cancel_pipeline_job),
            ("GET", "/models", self.list_models),
            ("GET", "/models/{id}", self.get_model),
            ("DELETE", "/models/{id}", self.delete_model),
            ("POST", "/endpoints", self.create_endpoint),
            ("GET", "/endpoints", self.list_endpoints),
            ("GET", "/endpoints/{id}", self.get_endpoint),
            ("PATCH", "/endpoints/{id}", self.update_endpoint),
            ("DELETE", "/endpoints/{id}", self.delete_endpoint),
            ("POST", "/pipelineJobs", self.create_pipeline_job),
            ("GET", "/pipelineJobs", self.list_pipeline_jobs),
            ("GET", "/pipelineJobs/{id}", self.get_pipeline_job),
            ("DELETE", "/pipelineJobs/{id}", self.delete_pipeline_job),
        ]
        routes = [Route(_LOCATION + path, _answering(method), methods=[verb]) for verb, path, method in table]
        # The GAPIC clients poll under /ui, other clients under /v1.
        operations = [
            Route(
                f"/{root}/{{resource:path}}/operations/{{id}}",
                _answering(self.get_operation),
                methods=["GET"],
            )
            for root in ("ui", "v1")
        ]
        return [Route("/", _identify, methods=["GET"]), *routes, *operations]


def application(service: VertexLocal, *, loopback_only: bool) -> Starlette:
    """The ASGI application; it starts again what was deployed, and stops everything at its end."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.endpoints.start_again(service.models)
        yield
        await service.stop()

    hosts = _LOOPBACK_HOSTS if loopback_only else ["*"]
    return Starlette(
        routes=service.routes(),
        lifespan=lifespan,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)],
        exception_handlers={
            ServiceError: _error_answer,
            HTTPException: _unknown_path,
            Exception: _unexpected,
        },
    )


def _answering(method: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        result = await method(request)
        if isinstance(result, Response):
            return result
        enums_as_integers = "enum-encoding=int" in request.query_params.get("$alt", "")
        text = messages.render(result, enums_as_integers=enums_as_integers)
        return Response(text, media_type="application/json")

    return answer


async def _identify(_: Request) -> Response:
    return JSONResponse({"service": "aiplatform.googleapis.com", "version": "v1", "emulator": True})


async def _error_answer(_: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # noqa: S101
    return JSONResponse(error.body(), error.http_code)


async def _unknown_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    text = f"{request.method} {request.url.path} is no method of this emulator"
    return JSONResponse(NotFoundError(text).body(), NotFoundError.http_code)


async def _unexpected(_: Request, error: Exception) -> Response:
    return JSONResponse(InternalError(f"{type(error).__name__}: {error}").body(), InternalError.http_code)


def _parent(request: Request) -> str:
    return f"projects/{request.path_params['project']}/locations/{request.path_params['location']}"


def _name(request: Request, collection: str) -> str:
    return f"{_parent(request)}/{collection}/{request.path_params['id']}"
