"""The numbers that a release is made with, and what is allowed for each."""

from __future__ import annotations

from collections.abc import Sequence

from components.earthengine.errors import ParameterError

CANARY_PERCENT = 10
PROMOTION_STEPS = (50, 100)
# Of what Vertex AI gives up after 60 s (endpoint types page); Earth Engine's own limit is not published.
MAX_LATENCY_SECONDS = 20.0


def check_numbers(
    *,
    canary_percent: int = CANARY_PERCENT,
    promotion_steps: Sequence[int] = PROMOTION_STEPS,
    max_latency_seconds: float = MAX_LATENCY_SECONDS,
    min_replicas: int = 1,
    max_replicas: int = 1,
    keep_previous: int = 0,
    keep_versions: int = 0,
) -> None:
    """Check the numbers that a model is deployed and released with.

    Raises:
        ParameterError: one is out of its range.
    """
    if not 1 <= canary_percent <= 100:
        raise ParameterError(f"canary_percent is {canary_percent}; allowed: 1 to 100; correct it")
    steps = list(promotion_steps)
    if steps != sorted({*steps}) or steps[-1:] != [100] or steps[0] < 1:
        raise ParameterError(
            f"promotion_steps is {steps}; allowed: percentages that rise to 100, such as [50, 100]; correct them"
        )
    if not 0 < max_latency_seconds <= 60:
        raise ParameterError(
            f"max_latency_seconds is {max_latency_seconds:g}; allowed: more than 0, at most 60, after which Vertex AI "
            "gives a request up; correct it"
        )
    if not 1 <= min_replicas <= max_replicas:
        raise ParameterError(
            f"min_replicas is {min_replicas}, max_replicas {max_replicas}; allowed: at least 1, and the smaller first; "
            "correct them"
        )
    for name, number in (("keep_previous", keep_previous), ("keep_versions", keep_versions)):
        if number < 0:
            raise ParameterError(f"{name} is {number}; allowed: 0 or more; correct it")


def next_share(share: int, canary_percent: int, promotion_steps: Sequence[int]) -> int | None:
    """The percentage of the traffic that a model with a share gets next; None where it has all that it is to get."""
    return next((percent for percent in (canary_percent, *promotion_steps) if percent > share), None)
