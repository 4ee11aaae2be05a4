"""The pages: what each path of the console answers."""

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from ..errors import NotFoundError
from ..logs import last_lines
from ..servers.fleet import Fleet
from ..services.endpoints import Endpoints
from ..services.jobs import Jobs
from ..services.models import Models
from ..services.schedules import Schedules
from . import text
from .artifacts import File, Shelf
from .deployments import EndpointView, ModelView
from .runs import Run

_HERE = Path(__file__).parent
# The overview reads every job each two seconds; older ones are a click away.
_RECENT = 25
_LOG_LINES = 200
_COMMON = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
# Of what is true for this moment, and for nobody else.
_FRESH = {**_COMMON, "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin"}
_PAGE = {
    **_FRESH,
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
    " frame-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
# What a step has written may run scripts, but as of an origin of its own, and from there not speak to this service:
# neither by fetch() nor by asking for a picture, as http: is not among the sources. A link that is clicked opens a page
# of its own, as any link would.
_WRITTEN_BY_A_STEP = {
    **_FRESH,
    "X-Frame-Options": "SAMEORIGIN",
    "Content-Security-Policy": "sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox;"
    " default-src 'unsafe-inline' 'unsafe-eval' data: blob: https:; form-action 'none'; base-uri 'none';"
    " frame-ancestors 'self'",
}
_LOCATION = "/console/projects/{project}/locations/{location}"


class Console:
    """Pages about what the services have; nothing here changes anything."""

    def __init__(
        self,
        jobs: Jobs,
        models: Models,
        endpoints: Endpoints,
        schedules: Schedules,
        fleet: Fleet,
        storage_directory: Path,
    ) -> None:
        self._jobs = jobs
        self._models = models
        self._endpoints = endpoints
        self._schedules = schedules
        self._fleet = fleet
        self._shelf = Shelf(jobs.pipeline_root, storage_directory)
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(text.FILTERS)
        self._templates.filters["log_tail"] = lambda log: text.plain(last_lines(log, _LOG_LINES)) if log else ""

    def routes(self) -> list[BaseRoute]:
        run = _LOCATION + "/pipelineJobs/{id}"
        pages: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
            ("/", self._overview),
            (run, self._run),
            (run + "/logs/worker", self._worker_log),
            (run + "/logs/{task:int}", self._task_log),
            (run + "/artifacts/{task:int}/{direction}/{number:int}", self._artifact),
            (run + "/artifacts/{task:int}/{direction}/{number:int}/{file:path}", self._artifact),
            (_LOCATION + "/models/{id}", self._model),
            (_LOCATION + "/endpoints/{id}", self._endpoint),
            (_LOCATION + "/endpoints/{id}/logs/{deployed}", self._server_log),
            (_LOCATION + "/schedules/{id}", self._schedule),
        ]
        static = [_static(f"/console/static/{file.name}", file) for file in (_HERE / "static").iterdir()]
        # Browsers ask for this beside a log or a picture, which have no page around them to name an icon.
        static.append(_static("/favicon.ico", _HERE / "static" / "icon.svg"))
        nothing = Route("/console/{path:path}", self._nothing, methods=["GET"])
        return [*static, *(Route(path, self._answering(page), methods=["GET"]) for path, page in pages), nothing]

    async def _overview(self, request: Request) -> Response:
        jobs = self._jobs.all()
        shown = jobs if request.query_params.get("runs") == "all" else jobs[:_RECENT]
        return self._page(
            "overview.html",
            runs=[self._run_of(job) for job in shown],
            run_count=len(jobs),
            models=ModelView.group(self._models.all()),
            endpoints=[EndpointView.of(endpoint, self._fleet) for endpoint in self._endpoints.all()],
            schedules=self._schedules.all(),
            bucket=os.environ.get("GOOGLE_CLOUD_PROJECT", "local"),
            environment={
                name: os.environ[name]
                for name in ("VERTEX_EMULATOR_HOST", "STORAGE_EMULATOR_HOST")
                if name in os.environ
            },
        )

    async def _run(self, request: Request) -> Response:
        run = self._run_of(self._jobs.get(_name(request, "pipelineJobs")))
        schedule = next((one for one in self._schedules.all() if one.name == run.job.schedule_name), None)
        return self._page("run.html", run=run, schedule=schedule)

    async def _task_log(self, request: Request) -> Response:
        name = _name(request, "pipelineJobs")
        task_run = self._run_of(self._jobs.get(name)).task_run(request.path_params["task"])
        if task_run is None:
            raise NotFoundError(
                f"The PipelineJob {name!r} has no task run {request.path_params['task']}; its page lists all."
            )
        return _log(task_run.log)

    async def _worker_log(self, request: Request) -> Response:
        job = self._jobs.get(_name(request, "pipelineJobs"))
        return _log(self._jobs.directory(job.name) / "worker.log")

    async def _artifact(self, request: Request) -> Response:
        """A file of an artifact that the job names; parts of the path only choose among these."""
        name, where = _name(request, "pipelineJobs"), request.path_params
        task_run = self._run_of(self._jobs.get(name)).task_run(where["task"])
        path = "{page}/artifacts/{task}/{direction}/{number}".format_map({**where, "page": text.page_of(name)})
        for artifact in (*task_run.input_artifacts, *task_run.output_artifacts) if task_run else ():
            if artifact.path == path and artifact.content:
                file = artifact.content.file(where.get("file", ""))
                if file:
                    return _file(file, artifact.key)
        raise NotFoundError(
            f"The PipelineJob {name!r} names no artifact with a file at {request.url.path} on this machine;"
            " its page lists those that it has."
        )

    async def _model(self, request: Request) -> Response:
        name = _name(request, "models").partition("@")[0]
        for model in ModelView.group(self._models.all()):
            if model.name == name:
                return self._page("model.html", model=model, endpoints=self._endpoint_titles())
        raise NotFoundError(f"The Model {name!r} does not exist.")

    async def _endpoint(self, request: Request) -> Response:
        endpoint = self._endpoints.get(_name(request, "endpoints"))
        return self._page("endpoint.html", endpoint=EndpointView.of(endpoint, self._fleet))

    async def _server_log(self, request: Request) -> Response:
        endpoint = self._endpoints.get(_name(request, "endpoints"))
        for deployed in EndpointView.of(endpoint, self._fleet).deployed:
            if deployed.message.id == request.path_params["deployed"]:
                return _log(deployed.status.log)
        raise NotFoundError(
            f"The Endpoint {endpoint.name!r} has no deployed model {request.path_params['deployed']!r};"
            f" it has {', '.join(one.id for one in endpoint.deployed_models) or 'none'}."
        )

    async def _schedule(self, request: Request) -> Response:
        name = _name(request, "schedules")
        schedule = self._schedules.get(name)
        jobs = [job for job in self._jobs.all() if job.schedule_name == name]
        return self._page("schedule.html", schedule=schedule, runs=[self._run_of(job) for job in jobs])

    async def _nothing(self, request: Request) -> Response:
        return self._page("missing.html", 404, message=f"The console has no page {request.url.path}")

    def _endpoint_titles(self) -> dict[str, str]:
        return {endpoint.name: endpoint.display_name for endpoint in self._endpoints.all()}

    def _run_of(self, job: Any) -> Run:
        return Run(job, self._jobs.directory(job.name), self._shelf)

    def _answering(self, page: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await page(request)
            except NotFoundError as error:
                return self._page("missing.html", error.http_code, message=error.message)

        return answer

    def _page(self, template: str, status: int = 200, **content: Any) -> Response:
        return HTMLResponse(self._templates.get_template(template).render(content), status, _PAGE)


def _name(request: Request, collection: str) -> str:
    return "projects/{project}/locations/{location}/{collection}/{id}".format_map(
        {**request.path_params, "collection": collection}
    )


def _static(path: str, file: Path) -> Route:
    async def answer(_: Request) -> Response:
        # Another version of the emulator has other files under these names.
        return FileResponse(file, headers={**_COMMON, "Cache-Control": "no-cache"})

    return Route(path, answer, methods=["GET"])


def _log(log: Path | None) -> Response:
    if log is None or not log.is_file():
        raise NotFoundError("There is no log: what writes it has not begun, or runs no program.")
    # Not a FileResponse: the log may grow while it is read, beyond the length that was announced.
    return StreamingResponse(_chunks(log), media_type="text/plain", headers=_WRITTEN_BY_A_STEP)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 16):
            yield chunk


def _file(file: File, key: str) -> Response:
    shown = file.is_picture or file.is_report or file.media_type.startswith("text/")
    return FileResponse(
        file.path,
        media_type=file.media_type,
        filename=Path(file.name).name or file.path.name or key,
        content_disposition_type="inline" if shown else "attachment",
        headers=_WRITTEN_BY_A_STEP,
    )
