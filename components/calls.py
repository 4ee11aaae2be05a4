"""Calls to Google Cloud, repeated where that is safe: the one policy for Vertex AI and for Cloud Storage.

Whether a call that found no answer was carried out cannot be told. What reads, what sets the same values again and
what asks a model is repeated after every fault that passes. What begins an operation or creates something is repeated
only where it was refused for certain before anything was done; else `components.operations` looks what became of it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any

import requests
from google.api_core import exceptions
from google.api_core.retry import retry_target
from google.api_core.retry.retry_base import RetryFailureReason, exponential_sleep_generator
from google.auth.exceptions import GoogleAuthError, TransportError
from google.resumable_media import InvalidResponse
from urllib3.exceptions import NewConnectionError, PoolError, ProtocolError
from urllib3.exceptions import TimeoutError as UrllibTimeoutError

from components.deadline import seconds_left, told

log = logging.getLogger(__name__)

# Of one attempt: Vertex AI's own limit for a request to a shared endpoint, which no other call comes near.
ATTEMPT_SECONDS = 60.0
_SHORTEST_ATTEMPT = 0.1  # where the step's deadline is at hand; 0 is no timeout that requests take
# Of all attempts of one call, as long as google.api_core's own default: quotas are counted by the minute.
CALL_SECONDS = 120.0
# The same outside of a step, where a person waits: what is not back by then is rarely back two minutes later.
COMMAND_SECONDS = 15.0
# The pause before an attempt is drawn evenly from 0 to a bound that doubles (full jitter).
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 16.0

# How the names of methods begin that may be called twice; pauses and resumptions are of schedules.
_REPEATABLE = ("get_", "list_", "update_", "merge_", "pause_", "resume_", "direct_raw_predict")
PASSING = {408, 429, 500, 502, 503, 504}
"""Statuses of faults that pass; 408 is Cloud Storage's."""


class AnswerError(Exception):
    """An answer that is an error, of a service whose errors have no form that is known.

    Attributes:
        status: of HTTP.
        text: the answer's body.
    """

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(f"{status}: {text[:2000]}")


class GivenUpError(Exception):
    """A call found no answer that counts.

    Attributes:
        attempts: how many times it was sent.
        tried: the same, and for how long, as a sentence says it.
        last: what came of the last one.
    """

    def __init__(self, attempts: int, seconds: float, last: Exception, limit: str = "") -> None:
        self.attempts = attempts
        self.last = last
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        self.tried = f"{times} in {seconds:.3g} s{limit}"
        super().__init__(f"{self.tried}, the last: {described(last)}")


class LostAnswerError(GivenUpError):
    """A call that is not repeated may have been carried out or not."""


class NoTimeLeftError(Exception):
    """A call was not sent, as the step's deadline had passed."""


def is_passing(error: Exception) -> bool:
    """Whether the same call may succeed later: a quota, a fault of the service, a connection that broke."""
    if status := status_of(error):
        return status in PASSING
    match error:
        case requests.exceptions.SSLError():  # a certificate, or a proxy that speaks no TLS
            return False
        case requests.exceptions.RequestException():
            broken = requests.exceptions
            kinds = broken.ConnectionError, broken.Timeout, broken.ChunkedEncodingError, broken.ContentDecodingError
            return isinstance(error, kinds)
        case GoogleAuthError():
            return _found_no_token(error)
        case _:
            return isinstance(error, (ConnectionError, PoolError, ProtocolError, UrllibTimeoutError))


def status_of(error: Exception) -> int | None:
    """The HTTP status that an answer had; None of what is no answer."""
    match error:
        case exceptions.GoogleAPICallError():
            return int(error.code) if error.code else None
        case InvalidResponse():
            return int(error.response.status_code)
        case AnswerError():
            return error.status
        case _:
            return None


def was_refused(error: Exception) -> bool:
    """Whether a call that failed has for certain not been carried out."""
    match error:
        case exceptions.TooManyRequests():
            return True
        case requests.exceptions.ConnectionError():  # no connection came about
            reason = getattr(error.args[0], "reason", None) if error.args else None
            return isinstance(error, requests.exceptions.ConnectTimeout) or isinstance(reason, NewConnectionError)
        case _:
            return isinstance(error, GoogleAuthError) and _found_no_token(error)


def _found_no_token(error: GoogleAuthError) -> bool:
    """Whether whoever gives tokens cannot be reached, or says that it may give one later."""
    return isinstance(error, TransportError) or error.retryable


def is_passing_prediction(error: Exception) -> bool:
    """As `is_passing`, save that a model that is too slow is not waited for again."""
    return is_passing(error) and not isinstance(error, requests.exceptions.ReadTimeout)


@dataclass(frozen=True)
class Again:
    """Repeats a function's calls; what Google Cloud's clients take as `retry`.

    Attributes:
        repeatable: whether a call that failed so is sent again.
        seconds: that all attempts may take; less where the step's deadline is nearer, or outside of a step.
        name: of the call, in the log; what tells it there if not given.
    """

    repeatable: Callable[[Exception], bool] = is_passing
    seconds: float = CALL_SECONDS
    name: str = ""

    def __call__(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def repeated(*arguments: Any, **keywords: Any) -> Any:
            begin, left = time.monotonic(), seconds_left()
            seconds = min(self.seconds, COMMAND_SECONDS if left == math.inf else left)
            met: list[Exception] = []
            limit = f" ({told()})" if left < self.seconds else ""

            def failed(errors: list[Exception], reason: RetryFailureReason, _: object) -> tuple[Exception, Any]:
                last = errors[-1]
                if reason is RetryFailureReason.TIMEOUT:
                    return GivenUpError(len(errors), time.monotonic() - begin, last, limit), last
                if is_passing(last):
                    return LostAnswerError(len(errors), time.monotonic() - begin, last), last
                return last, last.__cause__

            def pauses() -> Iterator[float]:
                for attempt, pause in enumerate(exponential_sleep_generator(FIRST_PAUSE, LONGEST_PAUSE), 1):
                    if time.monotonic() + pause < begin + seconds:  # else it is given up
                        name, why = self.name or _named(call), described(met[-1])
                        log.warning("%s: attempt %d: %s; again in %.2g s", name, attempt, why, pause)
                    yield pause

            if not left:
                raise NoTimeLeftError(f"{told()}, which are used up")
            return retry_target(
                partial(_whole(call), *arguments, **keywords),
                self.repeatable,
                pauses(),
                seconds,
                on_error=met.append,
                exception_factory=failed,
            )

        return repeated


again = Again()
"""For calls that may be carried out twice."""
again_if_refused = Again(was_refused)
"""For all others."""


class Calls:
    """A client of Vertex AI, each of whose methods is called again as far as that is safe."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not hasattr(self._client.transport, name):  # it calls nobody
            return found
        policy = again if name.startswith(_REPEATABLE) else again_if_refused
        return partial(found, retry=replace(policy, name=name), timeout=_timed)


def attempt_seconds() -> float:
    """What the next attempt of a call may take."""
    return min(ATTEMPT_SECONDS, max(seconds_left(), _SHORTEST_ATTEMPT))


def described(error: Exception) -> str:
    """What went wrong, with the status that Google Cloud names."""
    match error:
        case exceptions.GoogleAPICallError():
            return f"{error.grpc_status_code.name if error.grpc_status_code else error.code}: {error.message}"
        case InvalidResponse():
            return f"{error.response.status_code}: {error.response.reason}"
        case AnswerError():
            return str(error)
        case _:
            return f"{type(error).__name__}: {error}"


def _named(call: Callable[..., Any]) -> str:
    """What tells a call that Cloud Storage's client makes from others."""
    request = getattr(call, "keywords", {})
    return f"{request['method']} {request['path']}" if "path" in request else getattr(call, "__name__", "a call")


def _whole(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call that has read what it is refused with, which Cloud Storage's client does only once it has given up."""

    def whole(*arguments: Any, **keywords: Any) -> Any:
        try:
            return call(*arguments, **keywords)
        except InvalidResponse as error:
            _ = error.response.content  # raises what is_passing knows where the answer is cut
            raise

    return whole


def _timed(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call each of whose attempts ends in time; the clients take it as `timeout`."""

    @wraps(call)
    def timed(*arguments: Any, **keywords: Any) -> Any:
        return call(*arguments, **{**keywords, "timeout": attempt_seconds()})

    return timed
