"""EndpointService: endpoints, the models deployed at them, and the traffic between those."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from .. import messages
from ..errors import AbortedError, AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from ..servers.fleet import Fleet
from ..store import Collection
from . import filters, listing
from .models import Models
from .operations import Change, Operations, alone

_ENDPOINT_ID = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,8}")
_DEPLOYED_ID = re.compile(r"[0-9]{1,10}")
_MACHINE_TYPE = re.compile(r"[a-z][a-z0-9]*-[a-z]+(-[0-9]+g?)?(-[a-z0-9]+)*")
# In a deploy request's traffic split, the model that is being deployed.
_THE_NEW_ONE = "0"
_CHANGEABLE = ("description", "display_name", "labels", "traffic_split")
_FIELDS = {
    "endpoint": filters.text(lambda endpoint: messages.last_segment(endpoint.name)),
    "display_name": filters.text(lambda endpoint: endpoint.display_name),
}
_ORDER_FIELDS = ("display_name", "create_time", "update_time")
# Of MutateDeployedModelRequest, as far as a container of one's own has them.
_MUTABLE = (
    "dedicated_resources.min_replica_count",
    "dedicated_resources.max_replica_count",
    "dedicated_resources.required_replica_count",
    "dedicated_resources.autoscaling_metric_specs",
    "disable_container_logging",
)


class Endpoints:
    """Endpoints as they are stored; a change has no await within, so that none sees half of another."""

    def __init__(self, endpoints: Collection, operations: Operations, fleet: Fleet, models: Models) -> None:
        self._endpoints = endpoints
        self._operations = operations
        self._fleet = fleet
        self._models = models

    def all(self) -> list[Any]:
        """Every endpoint, newest first."""
        return self._endpoints.all()

    def get(self, name: str) -> Any:
        """The endpoint of that name.

        Raises:
            NotFoundError: there is none.
        """
        return self._endpoints.get(name)

    def start_again(self) -> None:
        """Starts the servers of all that was deployed when the emulator ended."""
        for endpoint in self._endpoints.all():
            for deployed in endpoint.deployed_models:
                model = self._models.version(f"{deployed.model}@{deployed.model_version_id}")
                self._fleet.relaunch(endpoint.name, deployed, model)

    # The methods of EndpointService.

    def create_endpoint(self, request: Any) -> Any:
        """Makes an endpoint, under an id that may be given."""
        endpoint, given = request.endpoint, request.endpoint_id
        if not endpoint.display_name:
            raise InvalidArgumentError("endpoint.displayName is required")
        if given and not _ENDPOINT_ID.fullmatch(given):
            raise InvalidArgumentError(
                f"endpointId {given!r}: up to 63 of a-z, 0-9 and - from a letter on,"
                " or up to 9 digits not beginning with 0"
            )
        endpoint.name = f"{request.parent}/endpoints/{given or messages.new_id()}"

        def create() -> Any:
            self._check_new(endpoint.name)
            endpoint.create_time.CopyFrom(messages.now())
            return self._save(endpoint)

        self._check_new(endpoint.name)
        endpoint.ClearField("deployed_models")
        endpoint.ClearField("traffic_split")
        return self._operations.start(endpoint.name, messages.CreateEndpointOperationMetadata(), alone(create))

    def get_endpoint(self, request: Any) -> Any:
        return self._endpoints.get(request.name)

    def list_endpoints(self, request: Any) -> Any:
        endpoints = self._endpoints.all(f"{request.parent}/endpoints/")
        found, token = listing.page(endpoints, request, _FIELDS, _ORDER_FIELDS)
        return messages.ListEndpointsResponse(endpoints=found, next_page_token=token)

    def update_endpoint(self, request: Any) -> Any:
        """Changes the fields that the mask names.

        Raises:
            AbortedError: the request's etag is not the endpoint's: somebody changed it since it was read.
            InvalidArgumentError: a field that cannot be changed, or a traffic split that is none.
        """
        wanted = request.endpoint
        endpoint = self._endpoints.get(wanted.name)
        if wanted.etag and wanted.etag != endpoint.etag:
            raise AbortedError(
                f"The Endpoint {wanted.name!r} has changed since etag {wanted.etag}; read it again and retry"
            )
        messages.update(endpoint, wanted, request.update_mask, _CHANGEABLE)
        if not endpoint.display_name:
            raise InvalidArgumentError("endpoint.displayName is required")
        if "traffic_split" in request.update_mask.paths:
            _set_traffic(endpoint, dict(wanted.traffic_split))
        return self._save(endpoint)

    def deploy_model(self, request: Any) -> Any:
        """Starts a server for a model; the endpoint changes when that is ready, and not if it fails."""
        endpoint = self._endpoints.get(request.endpoint)
        deployed = request.deployed_model
        _check_resources(deployed)
        model = self._models.version(deployed.model)
        if not model.name.startswith(f"{request.endpoint.rpartition('/endpoints/')[0]}/"):
            raise InvalidArgumentError(f"The Model {model.name!r} is not in the location of {request.endpoint!r}")
        if deployed.id and not _DEPLOYED_ID.fullmatch(deployed.id):
            raise InvalidArgumentError(f"deployedModel.id {deployed.id!r}: 1 to 10 digits")
        deployed.id = deployed.id or messages.new_id()
        deployed.model, deployed.model_version_id = model.name, model.version_id
        deployed.display_name = deployed.display_name or model.display_name
        _add(endpoint, deployed, request.traffic_split)  # refuses at once what would be refused at the end
        return self._operations.start(
            request.endpoint, messages.DeployModelOperationMetadata(), self._deploying(request, model)
        )

    def undeploy_model(self, request: Any) -> Any:
        """Takes a model off, if it has no traffic, is the last one, or ``traffic_split`` says who takes over."""
        name = request.endpoint

        def undeploy() -> Any:
            self._save(_without(self._endpoints.get(name), request))
            return messages.UndeployModelResponse()

        @asynccontextmanager
        async def undeploying() -> AsyncIterator[Change]:
            yield undeploy
            self._fleet.retire(name, request.deployed_model_id)

        _without(self._endpoints.get(name), request)
        return self._operations.start(name, messages.UndeployModelOperationMetadata(), undeploying())

    def mutate_deployed_model(self, request: Any) -> Any:
        """Changes how many replicas there may be, and the like; one process serves in any case."""

        def mutate() -> Any:
            endpoint = self._endpoints.get(request.endpoint)
            deployed = _deployed(endpoint, request.deployed_model.id)
            messages.update(deployed, request.deployed_model, request.update_mask, _MUTABLE)
            _check_resources(deployed)
            self._save(endpoint)
            return messages.MutateDeployedModelResponse(deployed_model=deployed)

        deployed = _deployed(self._endpoints.get(request.endpoint), request.deployed_model.id)
        messages.update(deployed, request.deployed_model, request.update_mask, _MUTABLE)
        _check_resources(deployed)
        return self._operations.start(request.endpoint, messages.MutateDeployedModelOperationMetadata(), alone(mutate))

    def delete_endpoint(self, request: Any) -> Any:
        """Forgets an endpoint.

        Raises:
            FailedPreconditionError: models are deployed at it.
        """

        def check() -> None:
            endpoint = self._endpoints.get(request.name)
            if endpoint.deployed_models:
                ids = ", ".join(deployed.id for deployed in endpoint.deployed_models)
                raise FailedPreconditionError(
                    f"The Endpoint {request.name!r} has deployed models: undeploy {ids} first"
                )

        def delete() -> None:
            check()
            self._endpoints.delete(request.name)

        check()
        return self._operations.start(request.name, messages.DeleteOperationMetadata(), alone(delete))

    @asynccontextmanager
    async def _deploying(self, request: Any, model: Any) -> AsyncIterator[Change]:
        name, deployed = request.endpoint, request.deployed_model

        def deploy() -> Any:
            endpoint = self._endpoints.get(name)
            self._models.version(f"{model.name}@{model.version_id}")
            deployed.create_time.CopyFrom(messages.now())
            _add(endpoint, deployed, request.traffic_split)
            self._save(endpoint)
            return messages.DeployModelResponse(deployed_model=deployed)

        server = await self._fleet.launch(name, deployed, model)
        try:
            yield deploy
        except BaseException:
            await server.stop()
            raise
        self._fleet.add(name, server)

    def _check_new(self, name: str) -> None:
        if name in self._endpoints:
            raise AlreadyExistsError(f"The Endpoint {name!r} already exists.")

    def _save(self, endpoint: Any) -> Any:
        endpoint.etag = messages.new_etag()
        endpoint.update_time.CopyFrom(messages.now())
        self._endpoints.put(endpoint.name, endpoint)
        return endpoint


def _deployed(endpoint: Any, deployed_id: str) -> Any:
    for deployed in endpoint.deployed_models:
        if deployed.id == deployed_id:
            return deployed
    raise NotFoundError(f"The Endpoint {endpoint.name!r} has no deployed model {deployed_id!r}.")


def _add(endpoint: Any, deployed: Any, traffic: Mapping[str, int]) -> None:
    if any(other.id == deployed.id for other in endpoint.deployed_models):
        raise AlreadyExistsError(f"The Endpoint {endpoint.name!r} has a deployed model {deployed.id!r} already.")
    endpoint.deployed_models.add().CopyFrom(deployed)
    if traffic:
        _set_traffic(endpoint, {deployed.id if key == _THE_NEW_ONE else key: share for key, share in traffic.items()})


def _without(endpoint: Any, request: Any) -> Any:
    """The endpoint without the model that an undeploy request names.

    Raises:
        NotFoundError: it is not deployed there.
        FailedPreconditionError: it has traffic, and no split without it is given.
    """
    leaving = _deployed(endpoint, request.deployed_model_id)
    others = [deployed for deployed in endpoint.deployed_models if deployed.id != leaving.id]
    traffic = dict(request.traffic_split or endpoint.traffic_split)
    if others and traffic.get(leaving.id):
        raise FailedPreconditionError(
            f"The deployed model {leaving.id!r} of {endpoint.name!r} has {traffic[leaving.id]} % of the traffic:"
            " give a trafficSplit without it, or move its traffic first"
        )
    del endpoint.deployed_models[:]
    endpoint.deployed_models.extend(others)
    endpoint.traffic_split.pop(request.deployed_model_id, None)
    if request.traffic_split and others:
        _set_traffic(endpoint, {key: share for key, share in traffic.items() if key != request.deployed_model_id})
    return endpoint


def _set_traffic(endpoint: Any, traffic: Mapping[str, int]) -> None:
    known = {deployed.id for deployed in endpoint.deployed_models}
    unknown = sorted(set(traffic) - known)
    if unknown:
        raise InvalidArgumentError(
            f"trafficSplit names {', '.join(unknown)}, which {endpoint.name!r} has not deployed;"
            f" it has {', '.join(sorted(known)) or 'no model'}"
        )
    negative = [key for key, share in traffic.items() if share < 0]
    if negative:
        raise InvalidArgumentError(
            f"trafficSplit {dict(traffic)} of {endpoint.name!r} has {traffic[negative[0]]} for {negative[0]!r}:"
            " a share is 0 to 100"
        )
    # An endpoint that is to take no requests has no split.
    if traffic and sum(traffic.values()) != 100:
        raise InvalidArgumentError(
            f"trafficSplit {dict(traffic)} of {endpoint.name!r} sums to {sum(traffic.values())}, not to 100"
        )
    endpoint.traffic_split.clear()
    endpoint.traffic_split.update(traffic)


def _check_resources(deployed: Any) -> None:
    resources = deployed.dedicated_resources
    machine_type = resources.machine_spec.machine_type
    if not _MACHINE_TYPE.fullmatch(machine_type):
        raise InvalidArgumentError(
            f"deployedModel.dedicatedResources.machineSpec.machineType {machine_type!r}: a custom container needs one,"
            " such as n1-standard-2"
        )
    if resources.min_replica_count < 1:
        raise InvalidArgumentError(
            f"deployedModel.dedicatedResources.minReplicaCount {resources.min_replica_count} must be 1 or more"
        )
    resources.max_replica_count = resources.max_replica_count or resources.min_replica_count
    if resources.max_replica_count < resources.min_replica_count:
        raise InvalidArgumentError(
            f"deployedModel.dedicatedResources.maxReplicaCount {resources.max_replica_count} is less than"
            f" minReplicaCount {resources.min_replica_count}"
        )
