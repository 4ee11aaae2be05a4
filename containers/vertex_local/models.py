"""ModelService: the registry of models and their versions."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from . import images, listing, messages
from .errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from .operations import Operations
from .store import Collection, Store

_MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}|[1-9][0-9]*")
_ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
_DEFAULT = "default"

DeploymentsOf = Callable[[str, str], list[Any]]
"""From a model's name and version to the Model.deployed_models that endpoints hold of it."""


class Models:
    """Versions are kept each by ``NAME@VERSION``; a model is its versions."""

    def __init__(self, store: Store, operations: Operations, deployments_of: DeploymentsOf) -> None:
        self._versions = Collection(store, "Model", messages.Model)
        self._operations = operations
        self._deployments_of = deployments_of

    def upload(self, parent: str, request: Any) -> Any:
        """Registers a model, or the next version under ``parentModel``; the artifacts have been checked.

        Raises:
            InvalidArgumentError: a field is missing or malformed, or no server is known for the image.
            NotFoundError: the parent model does not exist.
            AlreadyExistsError: the id asked for is taken.
        """
        model = request.model
        if not model.display_name:
            raise InvalidArgumentError("model.displayName is required")
        if not model.container_spec.image_uri:
            raise InvalidArgumentError("model.containerSpec.imageUri is required")
        images.command_for(model.container_spec.image_uri)
        name = self._name_for(parent, request)
        aliases = _checked_aliases(model.version_aliases)
        earlier = self._versions_of(name)
        if not earlier:
            aliases.add(_DEFAULT)
        for version in earlier:
            self._take_aliases(version, aliases)

        model.name = name
        model.version_id = str(max((int(version.version_id) for version in earlier), default=0) + 1)
        model.version_aliases[:] = sorted(aliases)
        model.etag = messages.new_etag()
        for stamp in ("create_time", "update_time", "version_create_time", "version_update_time"):
            getattr(model, stamp).CopyFrom(messages.now())
        if earlier:
            model.create_time.CopyFrom(earlier[0].create_time)
        # A container of one's own runs on machines of one's own only.
        model.supported_deployment_resources_types[:] = [
            messages.Model.DeploymentResourcesType.Value("DEDICATED_RESOURCES")
        ]
        self._versions.put(f"{name}@{model.version_id}", model)
        return self._operations.finished(
            name,
            messages.UploadModelOperationMetadata(),
            messages.UploadModelResponse(model=name, model_version_id=model.version_id),
        )

    def get(self, name: str) -> Any:
        """A version by ``NAME``, ``NAME@VERSION`` or ``NAME@ALIAS``.

        Raises:
            NotFoundError: there is no such model or version.
        """
        base, _, wanted = name.partition("@")
        for version in self._versions_of(base):
            if (wanted or _DEFAULT) in (version.version_id, *version.version_aliases):
                return self._with_deployments(version)
        raise NotFoundError(f"The Model {name!r} does not exist.")

    def page(self, parent: str, query: Mapping[str, str]) -> Any:
        """The default version of each model."""
        defaults = [
            self._with_deployments(version)
            for version in self._versions.all(f"{parent}/models/")
            if _DEFAULT in version.version_aliases
        ]
        found, token = listing.page(defaults, query)
        return messages.ListModelsResponse(models=found, next_page_token=token)

    def version_page(self, name: str, query: Mapping[str, str]) -> Any:
        """All versions of a model, newest first."""
        versions = self._versions_of(name.partition("@")[0])
        if not versions:
            raise NotFoundError(f"The Model {name!r} does not exist.")
        found, token = listing.page([self._with_deployments(version) for version in versions[::-1]], query)
        return messages.ListModelVersionsResponse(models=found, next_page_token=token)

    def delete(self, name: str) -> Any:
        """Forgets a model with all its versions.

        Raises:
            FailedPreconditionError: a version of it is deployed.
        """
        versions = self._versions_of(name)
        if not versions:
            raise NotFoundError(f"The Model {name!r} does not exist.")
        for version in versions:
            for deployment in self._with_deployments(version).deployed_models:
                raise FailedPreconditionError(
                    f"The Model {name!r} is deployed at {deployment.endpoint!r} as"
                    f" {deployment.deployed_model_id!r}: undeploy it first"
                )
        for version in versions:
            self._versions.delete(f"{name}@{version.version_id}")
        return self._operations.finished(name, messages.DeleteOperationMetadata())

    def _name_for(self, parent: str, request: Any) -> str:
        if request.parent_model:
            name: str = request.parent_model.partition("@")[0]
            if not name.startswith(f"{parent}/models/"):
                raise InvalidArgumentError(f"parentModel {request.parent_model!r} is not a model of {parent!r}")
            if not self._versions_of(name):
                raise NotFoundError(f"The Model {name!r} does not exist.")
            return name
        model_id = request.model_id or messages.new_id()
        if not _MODEL_ID.fullmatch(model_id):
            raise InvalidArgumentError(
                f"modelId {model_id!r}: up to 63 of a-z, 0-9, _ and -, not beginning with a digit or -"
            )
        name = f"{parent}/models/{model_id}"
        if self._versions_of(name):
            raise AlreadyExistsError(
                f"The Model {name!r} already exists; parentModel adds a version to it under the same name"
            )
        return name

    def _versions_of(self, name: str) -> list[Any]:
        return self._versions.all(f"{name}@")[::-1]

    def _take_aliases(self, version: Any, aliases: set[str]) -> None:
        kept = [alias for alias in version.version_aliases if alias not in aliases]
        if len(kept) < len(version.version_aliases):
            version.version_aliases[:] = kept
            version.version_update_time.CopyFrom(messages.now())
            self._versions.put(f"{version.name}@{version.version_id}", version)

    def _with_deployments(self, version: Any) -> Any:
        version.deployed_models.extend(self._deployments_of(version.name, version.version_id))
        return version


def _checked_aliases(aliases: Any) -> set[str]:
    for alias in aliases:
        if not _ALIAS.fullmatch(alias):
            raise InvalidArgumentError(f"version alias {alias!r} does not match {_ALIAS.pattern}")
    return set(aliases)
