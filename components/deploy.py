"""Deploy: a registered model onto an endpoint, with its canary share of the traffic.

Before anything is changed the endpoint's traffic is written down in Cloud Storage, so that release
can restore it even where this step was killed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from components import storage
from components.earthengine.errors import VertexError
from components.traffic import set_traffic, with_canary
from components.vertex import READ_AGAIN, Vertex, explained, model_id, wait

# Vertex AI gives up a deployment after two hours at most (container requirements page).
DEPLOY_SECONDS = 7200


@dataclass(frozen=True)
class Deployment:
    """One run's deployment, as written down before it begins.

    Attributes:
        endpoint: resource name.
        deployed_model: the id on the endpoint, chosen before the deployment.
        traffic_before: the endpoint's split before the deployment.
        created: False where the version was deployed already.
        operation: of Vertex AI that deploys it; it goes on if the step is killed.
    """

    endpoint: str
    deployed_model: str
    traffic_before: dict[str, int]
    created: bool
    operation: str = ""


def deploy_model(
    vertex: Vertex,
    endpoint: str,
    model: str,
    record: str,
    *,
    run: str,
    machine_type: str,
    min_replicas: int,
    max_replicas: int,
    canary_percent: int,
) -> Deployment:
    """Deploy a model version to an endpoint, or find it deployed.

    Args:
        vertex: where.
        endpoint: resource name.
        model: resource name with version, `.../models/M@V`.
        record: gs:// address that the deployment is written down at.
        run: what tells this run from others; the deployed model's id derives from it.
        machine_type: of each replica, such as n1-standard-2.
        min_replicas: at least 1.
        max_replicas: quota is charged for these.
        canary_percent: 1 to 100, the new model's share until it is verified; all on an empty endpoint.

    Raises:
        StorageError: the record cannot be written.
        VertexError: Vertex AI refuses, or the model's server does not become ready; traffic is as before.
    """
    check_numbers(canary_percent=canary_percent, min_replicas=min_replicas, max_replicas=max_replicas)
    with explained(f"look up endpoint {endpoint}"):
        found = vertex.endpoints.get_endpoint(name=endpoint, retry=READ_AGAIN)
    before = dict(found.traffic_split)
    there = next((each.id for each in found.deployed_models if serves(each, model)), None)
    if (earlier := read_record(record)) and earlier.deployed_model == there:
        return earlier  # this run's own, deployed before the step was tried again
    deployment = Deployment(endpoint, there or _id(run), before, created=there is None)
    _write(record, deployment)
    if there:
        if not before.get(there):
            set_traffic(vertex, endpoint, with_canary(before, there, canary_percent))
        return deployment
    newcomer = {
        "id": deployment.deployed_model,
        "model": model,
        "display_name": model.rsplit("/", 1)[-1],
        "dedicated_resources": {
            "machine_spec": {"machine_type": machine_type},
            "min_replica_count": min_replicas,
            "max_replica_count": max_replicas,
        },
    }
    what = f"deploy {model} to {endpoint}"
    with explained(what):
        # "0" stands for the model being deployed (aiplatform_v1, DeployModelRequest).
        operation = vertex.endpoints.deploy_model(
            endpoint=endpoint, deployed_model=newcomer, traffic_split=with_canary(before, "0", canary_percent)
        )
    deployment = replace(deployment, operation=operation.operation.name)
    _write(record, deployment)
    wait(operation, what, DEPLOY_SECONDS)
    return deployment


def check_numbers(
    *, canary_percent: int = 1, min_replicas: int = 1, max_replicas: int = 1, keep_previous: int = 0
) -> None:
    """Check the numbers that a deployment is made with.

    Raises:
        VertexError: one is out of its range.
    """
    if not 1 <= canary_percent <= 100:
        raise VertexError(f"canary_percent is {canary_percent}; allowed: 1 to 100; correct it")
    if not 1 <= min_replicas <= max_replicas:
        raise VertexError(
            f"min_replicas is {min_replicas}, max_replicas {max_replicas}; allowed: at least 1, and the smaller first; "
            "correct them"
        )
    if keep_previous < 0:
        raise VertexError(f"keep_previous is {keep_previous}; allowed: 0 or more; correct it")


def serves(deployed: Any, model: str) -> bool:
    """Whether a deployed model is a version `.../models/M@V`.

    The project's id in one name may be its number in the other, so only model and version are compared.
    """
    version = model.rsplit("@", 1)[-1]
    return (model_id(deployed.model), deployed.model_version_id) == (model_id(model), version)


def record_address(staging: str, run: str) -> str:
    """Where a run writes its deployment down, under the staging folder."""
    return f"{staging.rstrip('/')}/runs/{run}.json"


def _write(record: str, deployment: Deployment) -> None:
    storage.write_text(record, json.dumps(asdict(deployment)))


def read_record(record: str) -> Deployment | None:
    """The deployment that a run wrote down; None if it came to none."""
    text = storage.read_text(record)
    return Deployment(**json.loads(text)) if text else None


def _id(run: str) -> str:
    """A deployed model's id, 1 to 10 digits (aiplatform_v1, DeployedModel.id), that follows from the run."""
    return str(int(hashlib.sha256(run.encode()).hexdigest(), 16) % 10**10)
