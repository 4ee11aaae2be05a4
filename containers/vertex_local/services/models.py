"""ModelService: the registry of models and their versions."""

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from .. import messages
from ..artifacts import Artifacts
from ..errors import AbortedError, AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from ..servers.runners import Runner
from ..store import Collection, Store
from . import filters, listing
from .operations import Change, Operations

_MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}")
# As the documentation of MergeVersionAliasesRequest has it.
_ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9-]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEFAULT = "default"
_FIELDS = {
    "model": filters.text(lambda model: messages.last_segment(model.name)),
    "display_name": filters.text(lambda model: model.display_name),
}
_ORDER_FIELDS = ("display_name", "create_time", "update_time")
# Of UpdateModelRequest: what belongs to the model, and what to one of its versions.
_OF_THE_MODEL = ("display_name", "description", "labels")
_OF_A_VERSION = ("version_description", "labels")


class Models:
    """Versions are kept each by ``NAME@VERSION``; a model is its versions."""

    def __init__(
        self,
        store: Store,
        operations: Operations,
        endpoints: Collection,
        runner: Runner,
        artifacts: Artifacts,
    ) -> None:
        self._store = store
        self._versions = Collection(store, "Model", messages.Model)
        self._operations = operations
        self._endpoints = endpoints
        self._runner = runner
        self._artifacts = artifacts

    async def start(self) -> None:
        """Deletes the copies of artifacts that the emulator had not finished making or deleting when it ended."""
        await self._artifacts.delete_disowned()

    def all(self) -> list[Any]:
        """Every version of every model, newest first."""
        return self._with_deployments(self._versions.all())

    def version(self, name: str) -> Any:
        """A version by ``NAME``, ``NAME@VERSION`` or ``NAME@ALIAS``.

        Raises:
            NotFoundError: there is no such model or version.
        """
        base, _, wanted = name.partition("@")
        for version in self._versions_of(base):
            if (wanted or _DEFAULT) in (version.version_id, *version.version_aliases):
                return self._with_deployments([version])[0]
        raise NotFoundError(f"The Model {name!r} does not exist.")

    # The methods of ModelService.

    async def upload_model(self, request: Any) -> Any:
        """Registers a model, or the next version under ``parent_model``."""
        model = request.model
        if not model.display_name:
            raise InvalidArgumentError("model.displayName is required")
        if not model.container_spec.image_uri:
            raise InvalidArgumentError("model.containerSpec.imageUri is required")
        _check_container(model.container_spec)
        self._runner.check(model.container_spec)
        _check_aliases(model.version_aliases)
        name = self._name_for(request)
        if model.artifact_uri:
            await self._artifacts.check(model.artifact_uri)
        metadata = messages.UploadModelOperationMetadata()
        return self._operations.start(name, metadata, self._registering(name, request))

    def get_model(self, request: Any) -> Any:
        return self._answer(request.name)

    def list_models(self, request: Any) -> Any:
        """The default version of each model."""
        versions = self._versions.all(f"{request.parent}/models/")
        defaults = [version for version in versions if _DEFAULT in version.version_aliases]
        found, token = listing.page(self._with_deployments(defaults), request, _FIELDS, _ORDER_FIELDS)
        return messages.ListModelsResponse(models=found, next_page_token=token)

    def list_model_versions(self, request: Any) -> Any:
        """All versions of a model, newest first."""
        versions = self._with_deployments(self._existing(request.name)[::-1])
        found, token = listing.page(
            [_named_with_version(version) for version in versions],
            request,
            {},
            ("create_time", "update_time"),
            lambda version, field: getattr(version, f"version_{field}"),
        )
        return messages.ListModelVersionsResponse(models=found, next_page_token=token)

    def update_model(self, request: Any) -> Any:
        """Changes the model, or one version where the name has ``@VERSION``.

        Raises:
            AbortedError: the request's etag is no version's: somebody changed it since it was read.
            FailedPreconditionError: a version's field is to be changed in the model, or the other way round.
            InvalidArgumentError: a field that cannot be changed, or no display name.
        """
        name = request.model.name.removesuffix("@-")
        named = self.version(name)
        one_version = "@" in name
        changing = [named] if one_version else self._versions_of(named.name)
        if request.model.etag and request.model.etag not in {version.etag for version in changing}:
            raise AbortedError(
                f"The Model {name!r} has changed since etag {request.model.etag}; read it again and retry"
            )
        mine, others = (_OF_A_VERSION, _OF_THE_MODEL) if one_version else (_OF_THE_MODEL, _OF_A_VERSION)
        for path in request.update_mask.paths:
            if path in others and path not in mine:
                raise FailedPreconditionError(
                    f"{path} is a field of {'the model' if one_version else 'a version'}:"
                    f" give it with the name {named.name + ('' if one_version else '@VERSION')!r}"
                )
        for version in changing:
            labels = dict(version.labels)
            messages.update(version, request.model, request.update_mask, mine)
            if version.version_id != named.version_id:
                # Every version keeps its own; what the model is given shows in its default version
                # (github.com/googleapis/python-aiplatform/issues/3049).
                version.labels.clear()
                version.labels.update(labels)
            if not version.display_name:
                raise InvalidArgumentError("model.displayName is required")
        with self._store.transaction():
            for version in changing:
                self._save(version)
        return self._answer(name)

    def merge_version_aliases(self, request: Any) -> Any:
        """Gives aliases to a version, taking them from any other; ``-ALIAS`` takes one away."""
        version = self._named_version(request.name)
        aliases = list(request.version_aliases)
        _check_aliases([alias.removeprefix("-") for alias in aliases])
        added = {alias for alias in aliases if not alias.startswith("-") and f"-{alias}" not in aliases}
        removed = {alias[1:] for alias in aliases if alias.startswith("-") and alias[1:] not in aliases}
        if _DEFAULT in removed and _DEFAULT in version.version_aliases:
            raise InvalidArgumentError(
                f"The alias {_DEFAULT!r} cannot be taken from {request.name!r}: give it to another version instead"
            )
        with self._store.transaction():
            for other in self._versions_of(version.name):
                self._take_aliases(other, added)
            version.version_aliases[:] = sorted((set(version.version_aliases) | added) - removed)
            self._save(version)
        return _named_with_version(self._with_deployments([version])[0])

    def delete_model(self, request: Any) -> Any:
        """Forgets a model with all its versions.

        Raises:
            FailedPreconditionError: a version of it is deployed.
            InvalidArgumentError: the name says a version.
        """
        if "@" in request.name:
            raise InvalidArgumentError(
                f"name {request.name!r} must be a model's, not a version's: models.deleteVersion deletes that"
            )

        def check() -> list[Any]:
            versions = self._existing(request.name)
            self._check_not_deployed(versions)
            return versions

        def doomed() -> list[Any]:
            versions = check()
            self._store.forget_number(f"{request.name}@")
            return versions

        check()
        return self._operations.start(request.name, messages.DeleteOperationMetadata(), self._deleting(doomed))

    def delete_model_version(self, request: Any) -> Any:
        """Forgets a version.

        Raises:
            FailedPreconditionError: it is the only one, the default one, or deployed.
        """

        def check() -> Any:
            version = self._named_version(request.name)
            if len(self._versions_of(version.name)) == 1:
                raise FailedPreconditionError(
                    f"The Model version {request.name!r} is the only one of its model: delete the model instead"
                )
            if _DEFAULT in version.version_aliases:
                raise FailedPreconditionError(
                    f"The Model version {request.name!r} is the default one: give that alias to another first"
                )
            self._check_not_deployed([version])
            return version

        name = check().name
        work = self._deleting(lambda: [check()])
        return self._operations.start(name, messages.DeleteOperationMetadata(), work)

    @asynccontextmanager
    async def _registering(self, name: str, request: Any) -> AsyncIterator[Change]:
        model = request.model
        latest = max((int(version.version_id) for version in self._before(name, request)), default=0)
        model.name, model.version_id = name, str(self._store.next_number(f"{name}@", latest))
        async with self._artifacts.copied(model):
            yield lambda: self._register(request)

    def _register(self, request: Any) -> Any:
        model = request.model
        earlier = self._before(model.name, request)  # it may have changed while the artifacts were copied
        aliases = set(model.version_aliases) | (set() if earlier else {_DEFAULT})
        model.version_aliases[:] = sorted(aliases)
        model.create_time.CopyFrom(earlier[0].create_time if earlier else messages.now())
        model.version_create_time.CopyFrom(messages.now())
        # A container of one's own runs on machines of one's own only.
        model.supported_deployment_resources_types[:] = [
            messages.Model.DeploymentResourcesType.Value("DEDICATED_RESOURCES")
        ]
        for version in earlier:
            self._take_aliases(version, aliases)
        self._save(model)
        self._artifacts.own(model)
        return messages.UploadModelResponse(model=model.name, model_version_id=model.version_id)

    @asynccontextmanager
    async def _deleting(self, doomed: Callable[[], Sequence[Any]]) -> AsyncIterator[Change]:
        """Forgets the versions that ``doomed`` gives, and deletes their artifacts then."""
        versions: list[Any] = []

        def delete() -> None:
            versions.extend(doomed())
            for version in versions:
                self._artifacts.disown(version)
                self._versions.delete(f"{version.name}@{version.version_id}")

        yield delete
        for version in versions:
            await self._artifacts.delete(version)

    def _before(self, name: str, request: Any) -> list[Any]:
        """The versions that a new one joins: none of a new model, some of a parent model."""
        if request.parent_model:
            return self._existing(name)
        if self._versions_of(name):
            raise AlreadyExistsError(
                f"The Model {name!r} already exists; parentModel adds a version to it under the same name"
            )
        return []

    def _name_for(self, request: Any) -> str:
        if request.parent_model:
            name: str = request.parent_model.partition("@")[0]
            if not name.startswith(f"{request.parent}/models/"):
                raise InvalidArgumentError(f"parentModel {request.parent_model!r} is not a model of {request.parent!r}")
        elif request.model_id and not _MODEL_ID.fullmatch(request.model_id):
            raise InvalidArgumentError(
                f"modelId {request.model_id!r}: up to 63 of a-z, 0-9, _ and -, not beginning with a digit or -"
            )
        else:
            name = f"{request.parent}/models/{request.model_id or messages.new_id()}"
        self._before(name, request)
        return name

    def _answer(self, name: str) -> Any:
        version = self.version(name)
        return _named_with_version(version) if "@" in name else version

    def _existing(self, name: str) -> list[Any]:
        versions = self._versions_of(name.partition("@")[0])
        if not versions:
            raise NotFoundError(f"The Model {name!r} does not exist.")
        return versions

    def _named_version(self, name: str) -> Any:
        if "@" not in name:
            raise InvalidArgumentError(f"name {name!r} must say which version, as in {name + '@1'!r}")
        return self.version(name)

    def _versions_of(self, name: str) -> list[Any]:
        """Oldest first."""
        return self._versions.all(f"{name}@")[::-1]

    def _take_aliases(self, version: Any, aliases: set[str]) -> None:
        kept = [alias for alias in version.version_aliases if alias not in aliases]
        if len(kept) < len(version.version_aliases):
            version.version_aliases[:] = kept
            self._save(version)

    def _save(self, version: Any) -> None:
        version.ClearField("deployed_models")  # endpoints know
        version.etag = messages.new_etag()
        version.update_time.CopyFrom(messages.now())
        version.version_update_time.CopyFrom(version.update_time)
        self._versions.put(f"{version.name}@{version.version_id}", version)

    def _check_not_deployed(self, versions: Sequence[Any]) -> None:
        for version in self._with_deployments(versions):
            for deployment in version.deployed_models:
                raise FailedPreconditionError(
                    f"The Model {version.name + '@' + version.version_id!r} is deployed at {deployment.endpoint!r} as"
                    f" {deployment.deployed_model_id!r}: undeploy it first"
                )

    def _with_deployments(self, versions: Sequence[Any]) -> list[Any]:
        """The versions, each with where it is deployed."""
        deployments = defaultdict(list)
        for endpoint in self._endpoints.all():
            for deployed in endpoint.deployed_models:
                deployments[deployed.model, deployed.model_version_id].append((endpoint.name, deployed.id))
        for version in versions:
            version.ClearField("deployed_models")
            for endpoint_name, deployed_id in deployments[version.name, version.version_id]:
                version.deployed_models.add(endpoint=endpoint_name, deployed_model_id=deployed_id)
        return list(versions)


def _named_with_version(version: Any) -> Any:
    """As a version is answered that was asked for as such (ListModelVersionsResponse says so)."""
    version.name = f"{version.name}@{version.version_id}"
    return version


def _check_container(spec: Any) -> None:
    for variable in spec.env:
        if not _VARIABLE.fullmatch(variable.name) or "\0" in variable.value:
            raise InvalidArgumentError(
                f"containerSpec.env {variable.name!r}: a name is of letters, digits and _, not beginning with a digit,"
                " and a value has no NUL"
            )
    for field in ("health_route", "predict_route"):
        route = getattr(spec, field)
        if route and not route.startswith("/"):
            raise InvalidArgumentError(f"containerSpec.{field} {route!r} must begin with /")


def _check_aliases(aliases: Any) -> None:
    for alias in aliases:
        if not _ALIAS.fullmatch(alias):
            raise InvalidArgumentError(f"version alias {alias!r} does not match {_ALIAS.pattern}")
