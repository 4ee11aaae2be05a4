"""Releases: the models that an endpoint's traffic was given to, in their order, remembered in a label of the endpoint.

The times of their deployment do not tell: a model that was deployed long ago may be released again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.traffic import change_endpoint
from components.vertex import Vertex

_LABEL = "releases"
_LONGEST = (
    63  # characters of a label's value (Google Cloud's rules for labels): five ids of ours, the oldest are left out
)


def released(endpoint: Any) -> list[str]:
    """The ids of the models that were released at an endpoint and are deployed still, the last first."""
    there = {each.id for each in endpoint.deployed_models}
    return [each for each in str(endpoint.labels.get(_LABEL, "")).split("-") if each in there]


def since(order: Sequence[str], serving: str) -> list[str]:
    """The model that serves and those that were released before it, the last first."""
    return [*order[order.index(serving) :]] if serving in order else [serving, *order]


def with_release(endpoint: Any, model: str, before: Mapping[str, int]) -> dict[str, str]:
    """An endpoint's labels, once a model is released after those that had the traffic `before`.

    Of those the one with most traffic comes first, of several the one deployed first. What was released and taken back
    in between is forgotten.
    """
    arrived = {each.id: each.create_time for each in endpoint.deployed_models}
    there = [each for each, share in before.items() if share and each in arrived]
    served = sorted(there, key=lambda each: (-before[each], arrived[each]))
    order = released(endpoint)
    return _labels(endpoint, [model, *served, *(since(order, served[0]) if served else order)])


def with_rollback(endpoint: Any, model: str) -> dict[str, str]:
    """An endpoint's labels, once its traffic is given back to a model; later releases are forgotten."""
    return _labels(endpoint, since(released(endpoint), model))


def remember_release(vertex: Vertex, endpoint: str, model: str, before: Mapping[str, int]) -> None:
    """Remember that a model was released after those that had the traffic `before`.

    Raises:
        VertexError: Vertex AI refuses.
    """
    change_endpoint(vertex, endpoint, lambda found: {"labels": with_release(found, model, before)})


def _labels(endpoint: Any, order: Iterable[str]) -> dict[str, str]:
    value = "-".join(dict.fromkeys(order))
    while len(value) > _LONGEST:
        value = value.rpartition("-")[0]
    return {**endpoint.labels, _LABEL: value}
