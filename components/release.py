"""Release: what was verified gets all the traffic; what was not is removed, and traffic is as it was."""

from __future__ import annotations

from components.deploy import Deployment, read_record, set_traffic, undeploy
from components.vertex import Vertex, explained


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
    deployment = read_record(record)
    if deployment is None:
        return "nothing was deployed, nothing is released"
    if verified:
        return _promote(vertex, deployment, keep_previous)
    return _take_back(vertex, deployment)


def _promote(vertex: Vertex, deployment: Deployment, keep_previous: int) -> str:
    endpoint, promoted = deployment.endpoint, deployment.deployed_model
    set_traffic(vertex, endpoint, {promoted: 100})
    with explained(f"look up endpoint {endpoint}"):
        others = [
            model for model in vertex.endpoints.get_endpoint(name=endpoint).deployed_models if model.id != promoted
        ]
    newest_first = sorted(others, key=lambda model: model.create_time, reverse=True)
    for retired in newest_first[keep_previous:]:
        undeploy(vertex, endpoint, retired.id, {promoted: 100})
    return f"deployed model {promoted} has all the traffic; {len(newest_first[keep_previous:])} older ones retired"


def _take_back(vertex: Vertex, deployment: Deployment) -> str:
    endpoint, refused, before = deployment.endpoint, deployment.deployed_model, deployment.traffic_before
    if deployment.created:
        undeploy(vertex, endpoint, refused, before)
        return f"deployed model {refused} is removed; traffic is as before: {before or 'none'}"
    set_traffic(vertex, endpoint, before)
    return f"deployed model {refused} was there before this run and stays; traffic is as before: {before}"
