"""One request and its answer: what the log and the metrics tell of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

Transport = Literal["http", "grpc"]
Phase = Literal["decode", "model", "encode"]


@dataclass
class Exchange:
    """One request, filled while it is worked on.

    Attributes:
        transport: how it came.
        method: of HTTP; gRPC's is always POST.
        url: the path, as it was sent.
        remote: the caller's address.
        trace: of the caller's trace headers, empty without.
        request_bytes: its size, as far as it was read.
        response_bytes: the answer's size.
        format: the payload format that it was told to be, empty before that.
        tiles: how many instances it holds, 0 before they were read.
        seconds: that each phase took.
        started: when it came, on time.perf_counter's clock.
    """

    transport: Transport
    method: str
    url: str
    remote: str
    trace: str
    request_bytes: int = 0
    response_bytes: int = 0
    format: str = ""
    tiles: int = 0
    seconds: dict[Phase, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
