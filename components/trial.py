"""Trial: an endpoint of its own for a model that is not verified yet, so that no request of a user meets it.

Vertex AI leads requests to a deployed model by its share of the traffic alone, so a model without traffic cannot be
asked where it is to serve.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from components import job
from components.deadline import OPERATION_SECONDS
from components.operations import carry_out, wait_for_pending
from components.traffic import (
    change_traffic,
    create_endpoint,
    gone_is_no_fault,
    is_there,
    read_endpoint,
    undeploy,
)
from components.vertex import Vertex, explained

_LABEL = "trial_of"  # of an endpoint: the id of the one that its model is to serve at


@dataclass(frozen=True)
class Trial:
    """A trial endpoint: its resource name, the run that made it, and whether that run works still."""

    name: str
    run: str
    at_work: bool


def is_trial(endpoint: Any) -> bool:
    """Whether an endpoint is a trial endpoint."""
    return _LABEL in endpoint.labels


def trial_name(vertex: Vertex, run: str) -> str:
    """The resource name of a run's trial endpoint."""
    return f"{vertex.parent}/endpoints/trial-{hashlib.sha256(run.encode()).hexdigest()[:20]}"


def make_trial(vertex: Vertex, endpoint: str, run: str) -> None:
    """Make a run's trial endpoint, unless it is there.

    Raises:
        VertexError: Vertex AI refuses.
    """
    wanted = {
        "display_name": run,
        "description": "Where a model is verified before it gets traffic; the run that made it removes it.",
        "labels": {_LABEL: endpoint.rsplit("/", 1)[-1]},
    }
    create_endpoint(vertex, trial_name(vertex, run), wanted)


def remove_trial(vertex: Vertex, trial: str) -> None:
    """Remove a trial endpoint and what is deployed there; one that is gone already is no fault.

    Raises:
        VertexError: Vertex AI refuses.
    """
    wait_for_pending(vertex, trial)  # what a killed run began goes on
    with gone_is_no_fault():
        change_traffic(vertex, trial, lambda _: {})
        for model in read_endpoint(vertex, trial).deployed_models:
            undeploy(vertex, trial, model.id)
        carry_out(
            vertex,
            f"delete trial endpoint {trial}",
            trial,
            lambda: vertex.endpoints.delete_endpoint(name=trial),
            lambda: not is_there(vertex, trial),
            OPERATION_SECONDS,
        )


def leftover_trials(vertex: Vertex, endpoint: str) -> list[str]:
    """The trial endpoints of runs that have ended without removing theirs."""
    return [trial.name for trial in list_trials(vertex, endpoint) if not trial.at_work]


def list_trials(vertex: Vertex, endpoint: str) -> list[Trial]:
    """The trial endpoints of models that are to serve at an endpoint.

    Raises:
        VertexError: Vertex AI does not answer.
    """
    wanted = f'labels.{_LABEL}="{endpoint.rsplit("/", 1)[-1]}"'
    with explained("list trial endpoints"):
        found = list(vertex.endpoints.list_endpoints({"parent": vertex.parent, "filter": wanted}))
    return [
        Trial(
            f"{vertex.parent}/endpoints/{each.name.rsplit('/', 1)[-1]}",
            each.display_name,
            not job.has_ended(vertex, each.display_name),
        )
        for each in found
    ]
