"""The few methods of Google Cloud's other APIs that tell what a project has and allows, over REST.

All hosts are one here: paths are those of the real APIs and do not meet. Cloud Storage's emulator knows no policy of a
bucket and a single region, so that buckets are told of here too.
"""

import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..api.rest import error_answer
from ..errors import InternalError, NotFoundError, PermissionDeniedError, ServiceError
from ..projects import Projects
from .asked import Asked
from .description import Account, Description, Repository

_log = logging.getLogger(__name__)
# CPUs, more than a rehearsal asks for; a new project has fewer.
_QUOTA = 1000
_SERVICES, _RESOURCES = "serviceusage.googleapis.com", "cloudresourcemanager.googleapis.com"
_IAM, _STORAGE = "iam.googleapis.com", "storage.googleapis.com"
_REGISTRY, _QUOTAS = "artifactregistry.googleapis.com", "cloudquotas.googleapis.com"
_NONE = ""  # what one may do oneself, everyone may ask

_Answer = Callable[[Asked], Awaitable[dict[str, Any]]]


class ProjectApis:
    """The APIs of one project, which the file at ``path`` describes; it is read at each request."""

    def __init__(self, path: Path, projects: Projects, client: aiohttp.ClientSession) -> None:
        self._path = path
        self._projects = projects
        self._client = client

    def routes(self) -> list[BaseRoute]:
        project = "/v3/projects/{project}"
        account = "/v1/projects/{project}/serviceAccounts/{email}"
        repository = "/v1/projects/{project}/locations/{location}/repositories/{repository}"
        image = f"{repository}/packages/{{image}}"
        quota = "/v1/projects/{project}/locations/global/services/{service}/quotaInfos/{quota}"
        bucket = "/storage/v1/b/{bucket}"
        methods: list[tuple[str, str, str, str, _Answer]] = [  # of two paths that a request meets, the longer first
            ("GET", "/v1/projects/{project}/services:batchGet", _SERVICES, "serviceusage.services.get", self._services),
            ("POST", f"{project}:testIamPermissions", _RESOURCES, _NONE, self._own_permissions),
            ("POST", f"{project}:getIamPolicy", _RESOURCES, "resourcemanager.projects.getIamPolicy", self._policy),
            ("GET", project, _RESOURCES, "resourcemanager.projects.get", self._project),
            ("POST", f"{account}:testIamPermissions", _IAM, _NONE, self._account_permissions),
            ("GET", account, _IAM, "iam.serviceAccounts.get", self._account),
            ("GET", repository, _REGISTRY, "artifactregistry.repositories.get", self._repository),
            ("GET", f"{image}/tags/{{tag}}", _REGISTRY, "artifactregistry.tags.get", self._tag),
            ("GET", f"{image}/versions/{{digest}}", _REGISTRY, "artifactregistry.versions.get", self._version),
            ("GET", quota, _QUOTAS, "cloudquotas.quotas.get", self._quota),
            ("GET", f"{bucket}/iam/testPermissions", _STORAGE, _NONE, self._bucket_permissions),
            ("GET", f"{bucket}/iam", _STORAGE, "storage.buckets.getIamPolicy", self._bucket_policy),
            ("GET", bucket, _STORAGE, "storage.buckets.get", self._bucket),
        ]
        return [
            Route(path, partial(self._respond, api, permission, answer), methods=[method])
            for method, path, api, permission, answer in methods
        ]

    async def _respond(self, api: str, permission: str, answer: _Answer, request: Request) -> Response:
        try:
            project = Description.read(self._path)
            self._check(request, project, api, permission)
            return JSONResponse(await answer(Asked(request, project)))
        except ServiceError as error:
            return error_answer(error)
        except Exception as fault:
            _log.exception("%s %s", request.method, request.url.path)
            return error_answer(InternalError(f"{type(fault).__name__}: {fault}"))

    def _check(self, request: Request, project: Description, api: str, permission: str) -> None:
        name = request.path_params.get("project", os.environ["GOOGLE_CLOUD_PROJECT"])
        number = self._projects.number_of(name)
        if project.state is None:
            raise PermissionDeniedError(f"The caller has no permission on the project {name!r} (or it may not exist)")
        if api in project.services_disabled:
            why = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "SERVICE_DISABLED",
                "domain": "googleapis.com",
                "metadata": {"service": api, "consumer": f"projects/{number}"},
            }
            raise PermissionDeniedError(f"{api} has not been used in project {number} before or it is disabled.", why)
        if permission in project.permissions_denied:
            path = request.url.path
            raise PermissionDeniedError(f"Permission '{permission}' denied on resource '{path}' (or it may not exist).")

    async def _project(self, asked: Asked) -> dict[str, Any]:
        project = asked.names["project"]
        number = self._projects.number_of(project)
        return {"name": f"projects/{number}", "projectId": project, "state": asked.project.state}

    async def _services(self, asked: Asked) -> dict[str, Any]:
        disabled = asked.project.services_disabled
        names = asked.listed("names")
        states = ("DISABLED" if name.rpartition("/")[2] in disabled else "ENABLED" for name in names)
        return {"services": [{"name": name, "state": state} for name, state in zip(names, states, strict=True)]}

    async def _own_permissions(self, asked: Asked) -> dict[str, Any]:
        return {"permissions": asked.granted(await asked.permissions())}

    async def _policy(self, asked: Asked) -> dict[str, Any]:
        accounts = self._accounts(asked, asked.names["project"])
        return _policy((email, account, account.roles) for email, account in accounts.items())

    async def _account(self, asked: Asked) -> dict[str, Any]:
        project, email = asked.names["project"], asked.names["email"]
        account = self._accounts(asked, project).get(email)
        if account is None:
            raise NotFoundError(f"Unknown service account {email!r}")
        return {"name": f"projects/{project}/serviceAccounts/{email}", "email": email, "disabled": account.disabled}

    async def _account_permissions(self, asked: Asked) -> dict[str, Any]:
        await self._account(asked)
        return await self._own_permissions(asked)

    async def _repository(self, asked: Asked) -> dict[str, Any]:
        found = asked.project.repositories.get(asked.names["repository"], Repository())
        name = "projects/{project}/locations/{location}/repositories/{repository}".format(**asked.names)
        if found is None:
            raise NotFoundError(f'Repository "{name}" not found')
        return {"name": name, "format": found.format}

    async def _tag(self, asked: Asked) -> dict[str, Any]:
        repository = (await self._repository(asked))["name"]
        image, tag = asked.names["image"], asked.names["tag"]
        if {image, f"{image}:{tag}"} & set(asked.project.images_missing):
            raise NotFoundError(f'Tag "{tag}" of package "{repository}/packages/{image}" not found')
        return {"name": f"{repository}/packages/{image}/tags/{tag}"}

    async def _version(self, asked: Asked) -> dict[str, Any]:
        repository = (await self._repository(asked))["name"]
        image, digest = asked.names["image"], asked.names["digest"]
        if {image, f"{image}@{digest}"} & set(asked.project.images_missing):
            raise NotFoundError(f'Version "{digest}" of package "{repository}/packages/{image}" not found')
        return {"name": f"{repository}/packages/{image}/versions/{digest}"}

    async def _quota(self, asked: Asked) -> dict[str, Any]:
        limits = asked.project.quotas.get(asked.names["quota"], {})
        own = [{"dimensions": {"region": region}, "details": {"value": str(limits[region])}} for region in limits]
        # What has no region is the limit of every region without one of its own.
        infos = [*own, {"details": {"value": str(_QUOTA)}}]
        return {"quotaId": asked.names["quota"], "service": asked.names["service"], "dimensionsInfos": infos}

    async def _bucket(self, asked: Asked) -> dict[str, Any]:
        bucket = asked.names["bucket"]
        url = f"{os.environ['STORAGE_EMULATOR_HOST'].rstrip('/')}/storage/v1/b/{quote(bucket, safe='')}"
        async with self._client.get(url) as answer:
            if answer.status == 404:
                raise NotFoundError("The specified bucket does not exist.")
            answer.raise_for_status()
            found: dict[str, Any] = await answer.json()
        if described := asked.project.buckets.get(bucket):
            found |= {"location": described.location, "locationType": described.type}
        return found

    async def _bucket_policy(self, asked: Asked) -> dict[str, Any]:
        await self._bucket(asked)
        accounts = self._accounts(asked, os.environ["GOOGLE_CLOUD_PROJECT"])
        return _policy((email, account, account.bucket_roles) for email, account in accounts.items())

    async def _bucket_permissions(self, asked: Asked) -> dict[str, Any]:
        await self._bucket(asked)
        return {"permissions": asked.granted(asked.listed("permissions"))}

    def _accounts(self, asked: Asked, project: str) -> dict[str, Account]:
        return asked.project.accounts(project, self._projects.number_of(project))


def _policy(grants: Iterable[tuple[str, Account, list[str]]]) -> dict[str, Any]:
    bindings = [
        {"role": role, "members": [f"serviceAccount:{email}"]}
        | ({"condition": {"title": "project.json", "expression": account.condition}} if account.condition else {})
        for email, account, roles in grants
        for role in roles
    ]
    return {"version": 3 if any("condition" in each for each in bindings) else 1, "bindings": bindings}
