"""Traffic splits: percent of an endpoint's requests by the id of the deployed model, summing to 100.

Several runs may change one endpoint at once: every change is worked out from the split as it stands and written with
the endpoint's etag, and worked out again where someone else was faster.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from google.api_core import exceptions

from components.deadline import DEPLOY_SECONDS, OPERATION_SECONDS
from components.earthengine.errors import VertexError
from components.operations import carry_out, wait_for_pending
from components.vertex import Vertex, explained

Split = dict[str, int]

# Of changes that someone else was faster with; each waits for a little longer than the one before, 10 s in all.
_ATTEMPTS = 40


def with_share(split: Mapping[str, int], model: str, percent: int) -> Split:
    """The split with a model's share, the others keeping theirs in proportion.

    On an endpoint where no other has traffic the model gets all of it.
    """
    others = {other: share for other, share in split.items() if share and other != model}
    if not others:
        return {model: 100}
    shares = _scaled(others, 100 - percent) | {model: percent}
    return {each: share for each, share in shares.items() if share}


def without(split: Mapping[str, int], model: str) -> Split:
    """The split over all but a model, in proportion; empty where no other has traffic."""
    return _scaled({other: share for other, share in split.items() if share and other != model}, 100)


def given(current: Mapping[str, int], before: Mapping[str, int], model: str, percent: int) -> Split:
    """The split that gives a model its share of what was `before` it came, or of what others made of that since."""
    return with_share(taken(current, before, model), model, percent)


def taken(current: Mapping[str, int], before: Mapping[str, int], model: str) -> Split:
    """The split as it was before a model got its share, or what others made of that since; the model gains nothing.

    Where the model alone has traffic now, what was before is all that there is to return to.
    """
    if _follows(current, before, model):
        return {each: share for each, share in before.items() if share}
    share = min(current.get(model, 0), before.get(model, 0))
    return with_share(current, model, share) if share else without(current, model)


def _follows(current: Mapping[str, int], before: Mapping[str, int], model: str) -> bool:
    """Whether nothing but the model's share has changed since `before`."""
    now = {each: share for each, share in current.items() if share}
    then = {each: share for each, share in before.items() if share}
    return now == then or (model in now and now == with_share(then, model, now[model]))


def _scaled(shares: Mapping[str, int], total: int) -> Split:
    """Shares in the same proportion that sum to `total`, or none."""
    whole = sum(shares.values())
    scaled = {model: share * total // whole for model, share in shares.items()}
    # What rounding down left goes to the largest remainders.
    by_remainder = sorted(shares, key=lambda model: (-(shares[model] * total % whole), model))
    for model in by_remainder[: total - sum(scaled.values())]:
        scaled[model] += 1
    return scaled


def change_traffic(vertex: Vertex, endpoint: str, change: Callable[[Split], Split]) -> Split:
    """Change how an endpoint's traffic is split.

    Args:
        vertex: where.
        endpoint: resource name.
        change: from the split as it stands to the one wanted, without shares of 0; of models that have been taken
            off it may know nothing.

    Returns:
        The split as it stands then.

    Raises:
        VertexError: Vertex AI refuses, or others change it all the time.
    """

    def split(found: Any) -> dict[str, Any]:
        there = {model.id for model in found.deployed_models}
        wanted = change(shares_at(found))
        return {"traffic_split": _scaled({model: share for model, share in wanted.items() if model in there}, 100)}

    return shares_at(change_endpoint(vertex, endpoint, split))


def change_endpoint(vertex: Vertex, endpoint: str, change: Callable[[Any], dict[str, Any]]) -> Any:
    """Change fields of an endpoint, worked out from it as it stands.

    Args:
        vertex: where.
        endpoint: resource name.
        change: from the endpoint as it stands to the fields wanted, `traffic_split` and `labels`.

    Returns:
        The endpoint as it stands then.

    Raises:
        VertexError: Vertex AI refuses, or others change it all the time.
    """
    sent: dict[str, Any] = {}
    for attempt in range(_ATTEMPTS):
        found = read_endpoint(vertex, endpoint)
        as_it_stands = {"traffic_split": shares_at(found), "labels": dict(found.labels)}
        if sent and all(as_it_stands[name] == value for name, value in sent.items()):
            return found  # the change was made and its answer lost: the call that was sent again met its own etag
        sent = wanted = {name: value for name, value in change(found).items() if value != as_it_stands[name]}
        if not wanted:
            return found
        with explained(f"give {endpoint} {', '.join(f'{name} {value}' for name, value in wanted.items())}"):
            try:
                return vertex.endpoints.update_endpoint(
                    endpoint={"name": endpoint, "etag": found.etag, **wanted}, update_mask={"paths": list(wanted)}
                )
            # ABORTED: changed since it was read (https://google.aip.dev/154). With an etag nothing is changed twice.
            except exceptions.Conflict:
                time.sleep(random.uniform(0, 0.025 * (attempt + 1)))  # noqa: S311
    raise VertexError(f"{endpoint} was changed by others {_ATTEMPTS} times while it was to be changed; run again")


def shares_at(endpoint: Any) -> Split:
    """The split of an endpoint, of those that have a share."""
    return {model: share for model, share in endpoint.traffic_split.items() if share}


def create_endpoint(vertex: Vertex, name: str, wanted: dict[str, Any]) -> bool:
    """Make the endpoint of a resource name; whether this call made it and not another one meanwhile.

    Raises:
        VertexError: Vertex AI refuses.
    """
    try:
        carry_out(
            vertex,
            f"create endpoint {name}",
            name,
            lambda: vertex.endpoints.create_endpoint(
                parent=vertex.parent, endpoint=wanted, endpoint_id=name.rsplit("/", 1)[-1]
            ),
            lambda: is_there(vertex, name),
            OPERATION_SECONDS,
        )
    except VertexError as error:
        if not isinstance(error.__cause__, exceptions.Conflict):  # ALREADY_EXISTS, over REST too
            raise
        wait_for_pending(vertex, name)
        return False
    return True


def undeploy(vertex: Vertex, endpoint: str, deployed_model: str) -> None:
    """Take a model without traffic off an endpoint; one that is gone already is no fault."""
    with gone_is_no_fault():
        carry_out(
            vertex,
            f"undeploy {deployed_model} from {endpoint}",
            endpoint,
            lambda: vertex.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id=deployed_model),
            lambda: deployed_model not in {each.id for each in read_endpoint(vertex, endpoint).deployed_models},
            DEPLOY_SECONDS,
        )


@contextmanager
def gone_is_no_fault() -> Iterator[None]:
    """Let the block end early where what it removes is gone: another run may remove it at the same time."""
    try:
        yield
    except VertexError as error:
        if not isinstance(error.__cause__, exceptions.NotFound):
            raise


def is_there(vertex: Vertex, endpoint: str) -> bool:
    """Whether there is an endpoint of a resource name."""
    with explained(f"look up endpoint {endpoint}"):
        try:
            vertex.endpoints.get_endpoint(name=endpoint)
        except exceptions.NotFound:
            return False
    return True


def read_endpoint(vertex: Vertex, endpoint: str) -> Any:
    """An endpoint as it stands: deployed models, traffic split, etag."""
    with explained(f"look up endpoint {endpoint}"):
        return vertex.endpoints.get_endpoint(name=endpoint)
