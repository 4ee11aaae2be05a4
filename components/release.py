"""Release: what was verified gets all the traffic; what was not is removed, and traffic is as it was."""

from __future__ import annotations

from typing import Any

from components.deploy import DEPLOY_SECONDS, Deployment, check_numbers, read_record
from components.traffic import among, set_traffic, undeploy
from components.vertex import READ_AGAIN, Vertex, explained, wait_until_ended


def release_deployment(vertex: Vertex, record: str, *, verified: bool, keep_previous: int) -> str:
    """Promote a run's deployment, or take it back.

    Args:
        vertex: where.
        record: gs:// address at which deploy wrote the deployment down.
        verified: whether every step up to verify succeeded.
        keep_previous: how many of the models that served before stay deployed without traffic.

    Returns:
        What was done, in a sentence.

    Raises:
        VertexError: Vertex AI refuses.
    """
    check_numbers(keep_previous=keep_previous)
    deployment = read_record(record)
    if deployment is None:
        return "nothing was deployed, nothing is released"
    if verified:
        return _promote(vertex, deployment, keep_previous)
    return _take_back(vertex, deployment)


def _promote(vertex: Vertex, deployment: Deployment, keep_previous: int) -> str:
    endpoint, promoted = deployment.endpoint, deployment.deployed_model
    set_traffic(vertex, endpoint, {promoted: 100})
    created = {model.id: model.create_time for model in _deployed(vertex, endpoint)}
    # A model deployed later is another run's, which has not verified it yet.
    earlier = [model for model in created if created[model] < created[promoted]]
    retired = sorted(earlier, key=lambda model: created[model], reverse=True)[keep_previous:]
    for model in retired:
        undeploy(vertex, endpoint, model, {promoted: 100})
    return f"deployed model {promoted} has all the traffic; retired: {', '.join(retired) or 'none'}"


def _take_back(vertex: Vertex, deployment: Deployment) -> str:
    endpoint, refused = deployment.endpoint, deployment.deployed_model
    if deployment.operation:
        wait_until_ended(vertex, deployment.operation, DEPLOY_SECONDS)
    there = {model.id for model in _deployed(vertex, endpoint)}
    if refused not in there:
        return f"deployed model {refused} was never deployed; traffic is as before"
    others = there - {refused} if deployment.created else there
    # What another run has retired since then cannot have its traffic back.
    traffic = among(deployment.traffic_before, others)
    if not deployment.created:
        set_traffic(vertex, endpoint, traffic)
        return f"deployed model {refused} was there before this run and stays; traffic is as before: {traffic}"
    undeploy(vertex, endpoint, refused, traffic)
    return f"deployed model {refused} is removed; traffic is as before: {traffic or 'none'}"


def _deployed(vertex: Vertex, endpoint: str) -> list[Any]:
    with explained(f"look up endpoint {endpoint}"):
        return list(vertex.endpoints.get_endpoint(name=endpoint, retry=READ_AGAIN).deployed_models)
