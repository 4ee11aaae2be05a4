"""Traffic splits: percent of an endpoint's requests by the id of the deployed model, summing to 100."""

from __future__ import annotations

from collections.abc import Mapping


def with_canary(split: Mapping[str, int], newcomer: str, percent: int) -> dict[str, int]:
    """The split with a newcomer's share, the others keeping theirs in proportion.

    On an endpoint without traffic the newcomer gets all of it.
    """
    serving = {model: share for model, share in split.items() if share and model != newcomer}
    if not serving:
        return {newcomer: 100}
    rest = 100 - percent
    total = sum(serving.values())
    shares = {model: share * rest // total for model, share in serving.items()}
    # What rounding down left goes to the largest remainders, so that the sum is 100.
    by_remainder = sorted(serving, key=lambda model: (-(serving[model] * rest % total), model))
    for model in by_remainder[: rest - sum(shares.values())]:
        shares[model] += 1
    return {**shares, newcomer: percent}
