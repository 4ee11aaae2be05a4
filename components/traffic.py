"""Traffic splits: percent of an endpoint's requests by the id of the deployed model, summing to 100."""

from __future__ import annotations

from collections.abc import Mapping

from google.api_core import exceptions

from components.vertex import Vertex, explained, wait

# Vertex AI's own limit for a deployment; taking a model off takes less.
_SECONDS = 7200


def with_canary(split: Mapping[str, int], newcomer: str, percent: int) -> dict[str, int]:
    """The split with a newcomer's share, the others keeping theirs in proportion.

    On an endpoint without traffic the newcomer gets all of it.
    """
    others = {model: share for model, share in split.items() if share and model != newcomer}
    return {**_scaled(others, 100 - percent), newcomer: percent} if others else {newcomer: 100}


def among(split: Mapping[str, int], models: set[str]) -> dict[str, int]:
    """The split over those of its models that are among `models`, in proportion."""
    return _scaled({model: share for model, share in split.items() if share and model in models}, 100)


def _scaled(shares: Mapping[str, int], total: int) -> dict[str, int]:
    """Shares in the same proportion that sum to `total`, or none."""
    whole = sum(shares.values())
    scaled = {model: share * total // whole for model, share in shares.items()}
    # What rounding down left goes to the largest remainders.
    by_remainder = sorted(shares, key=lambda model: (-(shares[model] * total % whole), model))
    for model in by_remainder[: total - sum(scaled.values())]:
        scaled[model] += 1
    return scaled


def set_traffic(vertex: Vertex, endpoint: str, traffic: dict[str, int]) -> None:
    """Split an endpoint's traffic over its deployed models."""
    with explained(f"give {endpoint} the traffic {traffic}"):
        vertex.endpoints.update_endpoint(
            endpoint={"name": endpoint, "traffic_split": traffic}, update_mask={"paths": ["traffic_split"]}
        )


def undeploy(vertex: Vertex, endpoint: str, deployed_model: str, traffic: dict[str, int]) -> None:
    """Take a model off an endpoint, leaving the others this traffic; one that is gone already is no fault."""
    what = f"undeploy {deployed_model} from {endpoint}"
    with explained(what):
        try:
            operation = vertex.endpoints.undeploy_model(
                endpoint=endpoint, deployed_model_id=deployed_model, traffic_split=traffic
            )
        except exceptions.NotFound:
            return
    wait(operation, what, _SECONDS)
