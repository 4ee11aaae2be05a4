"""How a request can end: one table for both transports, the log and the metrics.

PipelineError
├── PayloadError        the request is not what its format says
│   └── TooLargeError   it is larger than the server reads
├── ModelError          the model failed on it
├── RouteError          there is no such route
│   └── MethodError     there is, but not for this method
├── BusyError           as many requests as the server takes are waiting
├── UnavailableError    the model is not loaded yet, or the server stops
└── AbandonedError      the caller has gone, or sends no further
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from components.earthengine.errors import ModelError, PayloadError, PipelineError


class TooLargeError(PayloadError):
    """The request is larger than the server reads."""


class RouteError(PipelineError):
    """There is no such route."""


class MethodError(RouteError):
    """The route does not take this method."""


class BusyError(PipelineError):
    """As many requests as the server takes are waiting."""


class UnavailableError(PipelineError):
    """The model is not loaded yet, or the server is about to stop."""


class AbandonedError(PipelineError):
    """The caller has gone, or does not send what it announced."""


@dataclass(frozen=True)
class Outcome:
    """What a request's end is called.

    Attributes:
        status: over HTTP.
        code: over gRPC, by its name in grpc.StatusCode.
        level: of its line in the log.
    """

    status: int
    code: str
    level: int


_OK = Outcome(200, "OK", logging.INFO)
_FAILED = Outcome(500, "INTERNAL", logging.ERROR)
# The first that fits. HTTP has a code of its own for a body that is too large, and gRPC answers one itself with this.
_OUTCOMES: tuple[tuple[type[PipelineError], Outcome], ...] = (
    (TooLargeError, Outcome(413, "RESOURCE_EXHAUSTED", logging.WARNING)),
    (PayloadError, Outcome(400, "INVALID_ARGUMENT", logging.WARNING)),
    (MethodError, Outcome(405, "UNIMPLEMENTED", logging.WARNING)),
    (RouteError, Outcome(404, "UNIMPLEMENTED", logging.WARNING)),
    (BusyError, Outcome(429, "RESOURCE_EXHAUSTED", logging.WARNING)),
    (UnavailableError, Outcome(503, "UNAVAILABLE", logging.WARNING)),
    # No standard has a status for it; nginx's is 499, which Cloud Logging knows too.
    (AbandonedError, Outcome(499, "CANCELLED", logging.WARNING)),
    (ModelError, _FAILED),
)


def outcome(error: BaseException | None) -> Outcome:
    """How a request ended that raised this, or nothing."""
    if error is None:
        return _OK
    return next((found for kind, found in _OUTCOMES if isinstance(error, kind)), _FAILED)


def text(error: BaseException) -> str:
    """What the caller is told."""
    if isinstance(error, PipelineError):
        return str(error)
    # What an unforeseen error says may be anything; the log has it.
    return f"the server failed on this request ({type(error).__name__}); its log has the reason"
