"""Status: what is deployed at an endpoint, which traffic it has, and what its last verification found."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from components.deploy import run_of
from components.retention import trusted_at
from components.rollback import restored_or_none
from components.traffic import read_endpoint, shares_at
from components.trial import Trial, list_trials
from components.versions import LastVerification, last_verification, version_of, versions_at
from components.vertex import Vertex


@dataclass(frozen=True)
class DeployedModel:
    """A model at an endpoint.

    Attributes:
        id: at the endpoint.
        version: `M@V`.
        share: percent of the traffic.
        since: when it was deployed.
        run: that deployed it; empty where it was none of ours.
        verification: of its version, the last; None where it had none.
        after_rollback: percent of the traffic that a rollback would give it.
    """

    id: str
    version: str
    share: int
    since: datetime
    run: str
    verification: LastVerification | None
    after_rollback: int


@dataclass(frozen=True)
class Status:
    """An endpoint, what is deployed there (most traffic first, then the newest), and trial endpoints for it."""

    endpoint: str
    models: tuple[DeployedModel, ...]
    trials: tuple[Trial, ...]


def endpoint_status(vertex: Vertex, endpoint: str) -> Status:
    """How an endpoint of a resource name stands.

    Raises:
        VertexError: Vertex AI does not answer.
    """
    found = read_endpoint(vertex, endpoint)
    versions = versions_at(vertex, found)
    split = shares_at(found)
    after_rollback = restored_or_none(found, trusted_at(vertex, found)) or {}
    models = [
        DeployedModel(
            each.id,
            version_of(each),
            split.get(each.id, 0),
            each.create_time,
            run_of(each),
            last_verification(versions[each.id]) if each.id in versions else None,
            after_rollback.get(each.id, 0),
        )
        for each in found.deployed_models
    ]
    models.sort(key=lambda each: (each.share, each.since), reverse=True)
    return Status(endpoint, tuple(models), tuple(list_trials(vertex, endpoint)))
