"""EndpointService: endpoints, the models deployed at them, and the traffic between those."""

import re
from collections.abc import Mapping
from typing import Any

from . import listing, messages
from .errors import AbortedError, AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from .models import Models
from .operations import Operations
from .serving import Fleet
from .store import Collection, Store

_ENDPOINT_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,8}")
_DEPLOYED_ID = re.compile(r"[0-9]{1,10}")
# In a deploy request's traffic split, the model that is being deployed.
_THE_NEW_ONE = "0"
_CHANGEABLE = ("description", "display_name", "labels", "traffic_split")


class Endpoints:
    """Endpoints as they are stored; a change has no await within, so that none sees half of another."""

    def __init__(self, store: Store, operations: Operations, fleet: Fleet) -> None:
        self._endpoints = Collection(store, "Endpoint", messages.Endpoint)
        self._operations = operations
        self._fleet = fleet

    def start_again(self, models: Models) -> None:
        """Starts the servers of all that was deployed when the emulator ended."""
        for endpoint in self._endpoints.all():
            for deployed in endpoint.deployed_models:
                model = models.get(f"{deployed.model}@{deployed.model_version_id}")
                self._fleet.relaunch(endpoint.name, deployed, model)

    def deployments_of(self, model: str, version_id: str) -> list[Any]:
        """Where a model's version is deployed, as Model.deployed_models says it."""
        return [
            messages.Model().deployed_models.add(endpoint=endpoint.name, deployed_model_id=deployed.id)
            for endpoint in self._endpoints.all()
            for deployed in endpoint.deployed_models
            if (deployed.model, deployed.model_version_id) == (model, version_id)
        ]

    def create(self, parent: str, endpoint_id: str, endpoint: Any) -> Any:
        """Makes an endpoint, under an id that may be given."""
        if not endpoint.display_name:
            raise InvalidArgumentError("endpoint.displayName is required")
        if endpoint_id and not _ENDPOINT_ID.fullmatch(endpoint_id):
            raise InvalidArgumentError(
                f"endpointId {endpoint_id!r}: up to 63 of a-z, 0-9 and - from a letter on,"
                " or up to 9 digits not beginning with 0"
            )
        name = f"{parent}/endpoints/{endpoint_id or messages.new_id()}"
        if name in self._endpoints:
            raise AlreadyExistsError(f"The Endpoint {name!r} already exists.")
        endpoint.name = name
        endpoint.ClearField("deployed_models")
        endpoint.ClearField("traffic_split")
        endpoint.create_time.CopyFrom(messages.now())
        created = self._save(endpoint)
        return self._operations.finished(name, messages.CreateEndpointOperationMetadata(), created)

    def get(self, name: str) -> Any:
        return self._endpoints.get(name)

    def page(self, parent: str, query: Mapping[str, str]) -> Any:
        found, token = listing.page(self._endpoints.all(f"{parent}/endpoints/"), query)
        return messages.ListEndpointsResponse(endpoints=found, next_page_token=token)

    def update(self, name: str, update_mask: str, wanted: Any) -> Any:
        """Changes the fields that the mask names.

        Raises:
            AbortedError: the request's etag is not the endpoint's: somebody changed it since it was read.
            InvalidArgumentError: a field that cannot be changed, or a traffic split that is none.
        """
        endpoint = self._endpoints.get(name)
        if wanted.etag and wanted.etag != endpoint.etag:
            raise AbortedError(f"The Endpoint {name!r} has changed since etag {wanted.etag}; read it again and retry")
        for field in messages.mask_fields(update_mask):
            if field not in _CHANGEABLE:
                raise InvalidArgumentError(f"updateMask {field!r}: only {', '.join(_CHANGEABLE)} can be updated")
            if field == "traffic_split":
                _set_traffic(endpoint, wanted.traffic_split)
            else:
                endpoint.ClearField(field)
                endpoint.MergeFrom(messages.Endpoint(**{field: getattr(wanted, field)}))
        return self._save(endpoint)

    def deploy(self, name: str, request: Any, models: Models) -> Any:
        """Starts a server for a model; the endpoint changes when that is ready, and not if it fails."""
        endpoint = self._endpoints.get(name)
        deployed = request.deployed_model
        _check_resources(deployed)
        model = models.get(deployed.model)
        if not model.name.startswith(f"{name.rpartition('/endpoints/')[0]}/"):
            raise InvalidArgumentError(f"The Model {model.name!r} is not in the location of {name!r}")
        if deployed.id and not _DEPLOYED_ID.fullmatch(deployed.id):
            raise InvalidArgumentError(f"deployedModel.id {deployed.id!r}: 1 to 10 digits")
        deployed.id = deployed.id or messages.new_id()
        deployed.model, deployed.model_version_id = model.name, model.version_id
        deployed.display_name = deployed.display_name or model.display_name
        _add(endpoint, deployed, request.traffic_split)  # refuses at once what would be refused at the end
        work = self._deploy(name, deployed, request.traffic_split, model)
        return self._operations.start(name, messages.DeployModelOperationMetadata(), work)

    async def _deploy(self, name: str, deployed: Any, traffic: Mapping[str, int], model: Any) -> Any:
        server = await self._fleet.launch(name, deployed, model)
        try:
            endpoint = self._endpoints.get(name)
            deployed.create_time.CopyFrom(messages.now())
            _add(endpoint, deployed, traffic)
        except BaseException:
            await server.stop()
            raise
        self._fleet.add(name, server)
        self._save(endpoint)
        return messages.DeployModelResponse(deployed_model=deployed)

    def undeploy(self, name: str, request: Any) -> Any:
        """Takes a model off, if it has no traffic, is the last one, or ``trafficSplit`` says who takes over.

        Raises:
            FailedPreconditionError: it has traffic, and no new split is given.
        """
        endpoint = self._endpoints.get(name)
        deployed_id = request.deployed_model_id
        others = [deployed for deployed in endpoint.deployed_models if deployed.id != deployed_id]
        if len(others) == len(endpoint.deployed_models):
            raise NotFoundError(f"The Endpoint {name!r} has no deployed model {deployed_id!r}.")
        traffic = request.traffic_split or endpoint.traffic_split
        if others and traffic.get(deployed_id):
            raise FailedPreconditionError(
                f"The deployed model {deployed_id!r} of {name!r} has {traffic[deployed_id]} % of the traffic:"
                " give a trafficSplit without it, or move its traffic first"
            )
        del endpoint.deployed_models[:]
        endpoint.deployed_models.extend(others)
        endpoint.traffic_split.pop(deployed_id, None)
        if request.traffic_split and others:
            _set_traffic(endpoint, {key: share for key, share in traffic.items() if key != deployed_id})
        self._save(endpoint)
        self._fleet.retire(name, deployed_id)
        return self._operations.finished(
            name, messages.UndeployModelOperationMetadata(), messages.UndeployModelResponse()
        )

    def delete(self, name: str) -> Any:
        """Forgets an endpoint.

        Raises:
            FailedPreconditionError: models are deployed at it.
        """
        endpoint = self._endpoints.get(name)
        if endpoint.deployed_models:
            ids = ", ".join(deployed.id for deployed in endpoint.deployed_models)
            raise FailedPreconditionError(f"The Endpoint {name!r} has deployed models: undeploy {ids} first")
        self._endpoints.delete(name)
        return self._operations.finished(name, messages.DeleteOperationMetadata())

    def _save(self, endpoint: Any) -> Any:
        endpoint.etag = messages.new_etag()
        endpoint.update_time.CopyFrom(messages.now())
        self._endpoints.put(endpoint.name, endpoint)
        return endpoint


def _add(endpoint: Any, deployed: Any, traffic: Mapping[str, int]) -> None:
    if any(other.id == deployed.id for other in endpoint.deployed_models):
        raise AlreadyExistsError(f"The Endpoint {endpoint.name!r} has a deployed model {deployed.id!r} already.")
    endpoint.deployed_models.add().CopyFrom(deployed)
    if traffic:
        _set_traffic(endpoint, {deployed.id if key == _THE_NEW_ONE else key: share for key, share in traffic.items()})


def _set_traffic(endpoint: Any, traffic: Mapping[str, int]) -> None:
    known = {deployed.id for deployed in endpoint.deployed_models}
    unknown = sorted(set(traffic) - known)
    if unknown:
        raise InvalidArgumentError(
            f"trafficSplit names {', '.join(unknown)}, which {endpoint.name!r} has not deployed;"
            f" it has {', '.join(sorted(known)) or 'no model'}"
        )
    if sum(traffic.values()) != 100 or min(traffic.values()) < 0:
        raise InvalidArgumentError(f"trafficSplit {dict(traffic)} sums to {sum(traffic.values())}, not to 100")
    endpoint.traffic_split.clear()
    endpoint.traffic_split.update(traffic)


def _check_resources(deployed: Any) -> None:
    resources = deployed.dedicated_resources
    if not deployed.HasField("dedicated_resources") or not resources.machine_spec.machine_type:
        raise InvalidArgumentError(
            "deployedModel.dedicatedResources.machineSpec.machineType is required for a custom container"
        )
    if resources.min_replica_count < 1:
        raise InvalidArgumentError("deployedModel.dedicatedResources.minReplicaCount must be 1 or more")
