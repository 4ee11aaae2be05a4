"""Deadlines: until when a step may call Google Cloud, repeat a call, and wait.

A step's own work is not cut short: past its deadline it begins no call any more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

# Vertex AI gives up a deployment after two hours at most (container requirements page); taking a model off takes less.
DEPLOY_SECONDS = 7200
# Of any other operation: twice what the SDK gives an upload or a new endpoint (its default is 900 s).
OPERATION_SECONDS = 1800
# Copying a model or data: 36 GB at 10 MB/s, slower than any bucket in the step's region.
_COPY_SECONDS = 3600
# Golden tiles: 240 requests, four at a time, that each take the 60 s of a shared endpoint's limit.
_VERIFY_SECONDS = 3600

SECONDS = {
    "train": _COPY_SECONDS,
    "evaluate": _COPY_SECONDS + _VERIFY_SECONDS,
    "gate": 600,  # two small objects
    "export": _COPY_SECONDS,
    "upload": _COPY_SECONDS + OPERATION_SECONDS,
    "create_endpoint": OPERATION_SECONDS,
    # Leftovers of ended runs are removed, a trial endpoint is made, both deployments run at once; those that an attempt
    # before has begun are waited for first.
    "deploy": 2 * OPERATION_SECONDS + 2 * DEPLOY_SECONDS,
    "verify": _VERIFY_SECONDS,
    # Fewer requests than that after each share, sent again as long as other models answer them.
    "release": 2 * _VERIFY_SECONDS,
    # It gives up waiting for a deployment, at the endpoint and at the trial endpoint, and tidies up what else there is.
    "conclude": 2 * DEPLOY_SECONDS + 2 * OPERATION_SECONDS,
}
"""Seconds that each step has."""


# Traffic is given back, a verdict and a report are written: a dozen calls, few of which take their two minutes.
_RESERVED_SECONDS = 600


@dataclass(frozen=True)
class _Deadline:
    what: str
    seconds: float
    end: float


_deadline: ContextVar[_Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def within(step: str) -> Iterator[None]:
    """Hold the block to the deadline of a step; threads that it starts are, if they run in a copy of its context."""
    with _held(f"step {step}", SECONDS[step]):
        yield


@contextmanager
def reserved() -> Iterator[None]:
    """What has to be done though the step's seconds may be used up: the block has some of its own then."""
    if seconds_left() >= _RESERVED_SECONDS:
        yield
        return
    with _held("tidying up", _RESERVED_SECONDS):
        yield


@contextmanager
def _held(what: str, seconds: float) -> Iterator[None]:
    token = _deadline.set(_Deadline(what, seconds, time.monotonic() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left() -> float:
    """Until the step's deadline, 0 once it has passed; infinite outside of a step."""
    deadline = _deadline.get()
    return max(0.0, deadline.end - time.monotonic()) if deadline else math.inf


def told() -> str:
    """What is held to a deadline and what it has, as a sentence says it; empty outside of a step."""
    deadline = _deadline.get()
    return f"{deadline.what} has {deadline.seconds:g} s" if deadline else ""
