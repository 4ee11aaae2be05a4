"""Deploy: a registered model onto its endpoint, without traffic, and onto a trial endpoint where it is verified first.

Both at the same time, so that the trial costs no wait. Before anything is changed the endpoint's traffic is written
down in Cloud Storage, so that the run's last step knows of it even where this step was killed.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from google.api_core import exceptions

from components import job
from components.deadline import DEPLOY_SECONDS
from components.earthengine.errors import VertexError
from components.operations import begin_once, wait, wait_for_pending, wait_until_ended
from components.parameters import check_numbers
from components.record import Deployment, Record
from components.traffic import read_endpoint, shares_at
from components.trial import leftover_trials, make_trial, remove_trial, trial_name
from components.vertex import Vertex, model_id

log = logging.getLogger(__name__)

_LONGEST_NAME = 128  # characters of a display name (aiplatform_v1, DeployedModel)
_BY = " by run "  # in the display name, before the run that deployed the model
_BY_RUN = re.compile(rf".*{_BY}([a-z0-9][-a-z0-9]*)")


def deploy_model(
    vertex: Vertex,
    endpoint: str,
    model: str,
    record: Record,
    *,
    run: str,
    machine_type: str,
    min_replicas: int,
    max_replicas: int,
    made: Sequence[str] = (),
) -> Deployment:
    """Deploy a model version to an endpoint, or find it deployed; it has the traffic that it had before.

    A version that has traffic already is verified where it serves; any other gets a trial endpoint.

    Args:
        vertex: where.
        endpoint: resource name.
        model: resource name with version, `.../models/M@V`.
        record: where the deployment is written down.
        run: id of the pipeline job; the deployed model's id derives from it.
        machine_type: of each replica, such as n1-standard-2.
        min_replicas: at least 1.
        max_replicas: quota is charged for these.
        made: resource names of the version and the endpoint, as far as the run made them; they are written down.

    Raises:
        ParameterError: a number is out of its range.
        StorageError: the record cannot be written.
        VertexError: Vertex AI refuses, or the model's server does not become ready.
    """
    check_numbers(min_replicas=min_replicas, max_replicas=max_replicas)
    deployment = record.deployment()
    if deployment:  # this step is tried again
        _wait_for_what_was_begun(vertex, deployment)
        deployment = replace(deployment, operations=())  # what is begun from here on is not written down yet
    else:
        deployment = planned_deployment(vertex, read_endpoint(vertex, endpoint), endpoint, model, run)
        leftovers = leftover_trials(vertex, endpoint)
        deployment = replace(deployment, made=tuple(made), leftovers=tuple(leftovers))
    record.write(deployment)
    if deployment.leftovers:
        deployment = replace(deployment, leftovers=_removed(vertex, deployment.leftovers))
        record.write(deployment)
    if not deployment.trial:
        return deployment
    make_trial(vertex, endpoint, run)
    newcomer = {
        "id": deployment.deployed_model,
        "model": model,
        "display_name": f"{model.rsplit('/', 1)[-1][: _LONGEST_NAME - len(_BY + run)]}{_BY}{run}",
        "dedicated_resources": {
            "machine_spec": {"machine_type": machine_type},
            "min_replica_count": min_replicas,
            "max_replica_count": max_replicas,
        },
    }
    begun = [
        (where, operation)
        for where, share in ((deployment.trial, {"0": 100}), (endpoint, {}))
        if deployment.deployed_model not in _ids(vertex, where)
        and (operation := _begin(vertex, where, newcomer, share))
    ]
    deployment = replace(deployment, operations=tuple(operation.operation.name for _, operation in begun))
    record.write(deployment)
    for where, operation in begun:
        wait(operation, f"deploy {model} to {where}", DEPLOY_SECONDS)
    return deployment


def run_of(deployed: Any) -> str:
    """The run that deployed a model; empty where it was not one of ours."""
    found = _BY_RUN.fullmatch(deployed.display_name)
    return found[1] if found else ""


def deployed_of(endpoint: Any, model: str) -> list[Any]:
    """What an endpoint has deployed of a version `.../models/M@V`, what has most traffic first.

    The project's id in one name may be its number in the other, so only model and version are compared.
    """
    wanted = model_id(model), model.rsplit("@", 1)[-1]
    found = [each for each in endpoint.deployed_models if (model_id(each.model), each.model_version_id) == wanted]
    return sorted(found, key=lambda each: endpoint.traffic_split.get(each.id, 0), reverse=True)


def planned_deployment(vertex: Vertex, found: Any, endpoint: str, model: str, run: str) -> Deployment:
    """What a run is to deploy to an endpoint as it is `found`, before anything is changed.

    What a run has deployed that works still is that run's to release or to remove.
    """
    same = (each for each in deployed_of(found, model) if not job.is_at_work(vertex, run_of(each), run))
    there = next((each.id for each in same), None)
    before = shares_at(found)
    return Deployment(
        run=run,
        model=model,
        endpoint=endpoint,
        deployed_model=there or _id(run),
        traffic_before=before,
        created=there is None,
        trial="" if there and before.get(there) else trial_name(vertex, run),
    )


def _wait_for_what_was_begun(vertex: Vertex, deployment: Deployment) -> None:
    """Wait until what an earlier attempt of this step has begun to deploy is deployed, or has failed."""
    wait_until_ended(vertex, deployment.operations, DEPLOY_SECONDS)
    if not deployment.operations:  # killed before it could write them down
        for where in filter(None, (deployment.trial, deployment.endpoint)):
            wait_for_pending(vertex, where)


def _removed(vertex: Vertex, leftovers: Sequence[str]) -> tuple[str, ...]:
    """Remove the trial endpoints of ended runs; one that cannot be removed now is no reason to stop."""
    removed = []
    for leftover in leftovers:
        try:
            remove_trial(vertex, leftover)
            removed.append(leftover)
        except VertexError as error:
            log.warning("%s stays for now: %s", leftover, error)
    return tuple(removed)


def _begin(vertex: Vertex, endpoint: str, newcomer: dict[str, Any], share: dict[str, int]) -> Any:
    """Begin to deploy; without a share the endpoint's traffic stays as it is (aiplatform_v1, DeployModelRequest)."""

    def deployed() -> bool:
        return newcomer["id"] in _ids(vertex, endpoint)

    try:
        return begin_once(
            vertex,
            f"deploy {newcomer['model']} to {endpoint}",
            endpoint,
            lambda: vertex.endpoints.deploy_model(endpoint=endpoint, deployed_model=newcomer, traffic_split=share),
            deployed,
        )
    except VertexError as error:
        if not isinstance(error.__cause__, exceptions.Conflict):  # ALREADY_EXISTS, over REST too
            raise
        wait_for_pending(vertex, endpoint)
        if not deployed():  # the id is this run's own, so a call that was carried out late has deployed it
            raise
        return None


def _ids(vertex: Vertex, endpoint: str) -> set[str]:
    return {model.id for model in read_endpoint(vertex, endpoint).deployed_models}


def _id(run: str) -> str:
    """A deployed model's id, 1 to 10 digits (aiplatform_v1, DeployedModel.id), that follows from the run.

    That endpoints may each have one of the same id is INFERRED: no page says that it is unique beyond its endpoint.
    """
    return str(int(hashlib.sha256(run.encode()).hexdigest(), 16) % 10**10)
