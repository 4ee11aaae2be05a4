"""Rollback: an endpoint's traffic back to the model that had it before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components import job
from components.deploy import run_of
from components.earthengine.errors import RollbackError
from components.releases import released, with_rollback
from components.retention import previous, trusted_at
from components.traffic import Split, change_endpoint, read_endpoint, shares_at, without
from components.versions import make_default, version_of
from components.vertex import Vertex


@dataclass(frozen=True)
class Rollback:
    """What a rollback did.

    Attributes:
        names: the version `M@V` of each deployed model, by its id.
        before: the traffic before.
        after: the traffic now.
        again: the traffic after rolling back again; None where there is no model to return to.
        interrupted: runs that work still and end with an error when they find the traffic of their model gone.
    """

    names: dict[str, str]
    before: Split
    after: Split
    again: Split | None
    interrupted: tuple[str, ...]


def roll_back(vertex: Vertex, endpoint: str, to: str | None = None) -> Rollback:
    """Give all traffic of an endpoint to the model that had it before; where a newcomer has a share, take that away.

    The model that served stays deployed, without traffic.

    Args:
        vertex: where.
        endpoint: resource name.
        to: id of the deployed model that gets all traffic; the previous one if not given.

    Raises:
        RollbackError: there is no model to return to, or not the one of that id, or it is not verified.
        VertexError: Vertex AI refuses.
    """
    before: Split = {}

    def change(found: Any) -> dict[str, Any]:
        nonlocal before
        before = shares_at(found)
        trusted = trusted_at(vertex, found)
        after = only(found, to, trusted) if to else restored(found, trusted)
        return {"traffic_split": after, "labels": with_rollback(found, max(after, key=lambda each: after[each]))}

    change_endpoint(vertex, endpoint, change)
    found = read_endpoint(vertex, endpoint)
    after = shares_at(found)
    for each in found.deployed_models:
        if after.get(each.id) == 100:
            make_default(vertex, f"{vertex.parent}/models/{version_of(each)}")
    refused = [each for each in found.deployed_models if each.id in before and each.id not in after]
    runs = (run_of(each) for each in refused)
    return Rollback(
        {each.id: version_of(each) for each in found.deployed_models},
        before,
        after,
        restored_or_none(found, trusted_at(vertex, found)),
        tuple(run for run in runs if run and not job.has_ended(vertex, run)),
    )


def restored(endpoint: Any, trusted: Callable[[Any], bool]) -> Split:
    """The split that an endpoint's traffic goes back to.

    Where several models have traffic the newcomer loses its share: the one that was deployed last, of those that are
    not the one released last. Where one has all of it, all goes to the model that was released before that one.

    Args:
        endpoint: as Vertex AI describes it.
        trusted: whether a deployed model's version has passed its verification.

    Raises:
        RollbackError: there is no model to return to.
    """
    split = shares_at(endpoint)
    if not split:
        raise RollbackError(
            f"no model has traffic of {_called(endpoint)}, so none served before it; {_others(endpoint)}"
        )
    if len(split) > 1:
        settled = next((each for each in released(endpoint) if each in split), None)
        newcomers = [each for each in endpoint.deployed_models if each.id in split and each.id != settled]
        return without(split, max(newcomers, key=lambda each: each.create_time).id)
    (serving,) = split
    if candidates := previous(endpoint, serving, trusted):
        return {candidates[0].id: 100}
    names = {each.id: version_of(each) for each in endpoint.deployed_models}
    raise RollbackError(
        f"{names[serving]} (deployed model {serving}) has all the traffic of {_called(endpoint)}, and no earlier model "
        "that has passed its verification is deployed there: submit the earlier model again, and from then on with "
        f"keep_previous at least 1; {_others(endpoint)}"
    )


def restored_or_none(endpoint: Any, trusted: Callable[[Any], bool]) -> Split | None:
    """The split that an endpoint's traffic goes back to; None where there is no model to return to."""
    try:
        return restored(endpoint, trusted)
    except RollbackError:
        return None


def only(endpoint: Any, model: str, trusted: Callable[[Any], bool]) -> Split:
    """The split that gives a deployed model all traffic.

    Raises:
        RollbackError: it is not deployed at the endpoint, or has not passed its verification.
    """
    deployed = {each.id: each for each in endpoint.deployed_models}
    if model not in deployed:
        raise RollbackError(f"deployed model {model} is not at {_called(endpoint)}; {_others(endpoint)}")
    if not trusted(deployed[model]):
        raise RollbackError(
            f"deployed model {model} ({version_of(deployed[model])}) at {_called(endpoint)} has not passed its "
            f"verification; submit it, which verifies it first; {_others(endpoint)}"
        )
    return {model: 100}


def _called(endpoint: Any) -> str:
    return f"endpoint {endpoint.name.rsplit('/', 1)[-1]}"


def _others(endpoint: Any) -> str:
    """What --to may name."""
    split = shares_at(endpoint)
    others = [f"{each.id} ({version_of(each)})" for each in endpoint.deployed_models if split.get(each.id) != 100]
    return f"any of these can be given with --to: {', '.join(others)}" if others else "no other model is deployed there"
