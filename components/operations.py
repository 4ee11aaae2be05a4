"""Long-running operations of Vertex AI: begun once, waited for, given up at their deadline."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from google.api_core import exceptions

from components import calls
from components.calls import GivenUpError, LostAnswerError, described
from components.deadline import DEPLOY_SECONDS, seconds_left, told
from components.earthengine.errors import VertexError
from components.vertex import Vertex, explained

log = logging.getLogger(__name__)

# Of calls whose answers are lost.
_ATTEMPTS = 4
# Before each look for what a call whose answer was lost began, in seconds: a service that is overloaded answers 503 and
# may carry out what still stands in its queues; after half a minute the caller is gone (gateways' timeouts are 30 s).
_PAUSES = (0.5, 1, 2, 4, 8, 8)
# Between two lines in the log about what is waited for.
_TELL_SECONDS = 180
# Between two looks at an operation, in seconds: often at first and ever less so.
_SOONEST, _LATEST = 0.1, 10.0


def carry_out(
    vertex: Vertex, what: str, resource: str, begin: Callable[[], Any], took_place: Callable[[], bool], seconds: float
) -> Any:
    """Begin an operation as `begin_once` does, and wait for its end.

    Returns:
        Its result; None where its answer was lost and it took place.

    Raises:
        VertexError: it failed, was refused, or did not end in time.
    """
    operation = begin_once(vertex, what, resource, begin, took_place)
    return operation and wait(operation, what, seconds)


def begin_once(
    vertex: Vertex, what: str, resource: str, begin: Callable[[], Any], took_place: Callable[[], bool]
) -> Any:
    """Begin an operation; where the answer is lost it is begun again only if it has not taken place by and by.

    Args:
        vertex: where.
        what: what it does, as a verb phrase that names the resource.
        resource: name of the resource that the operation is listed under.
        begin: the call.
        took_place: whether what it does is done, when no operation on the resource goes on.

    Returns:
        The operation; None where its answer was lost and it took place.

    Raises:
        VertexError: it is refused, or no answer comes.
    """
    begun, attempts = time.monotonic(), 0
    with explained(what):
        for _ in range(_ATTEMPTS):
            try:
                return begin()
            except LostAnswerError as error:
                attempts, lost = attempts + error.attempts, error
            log.warning("%s: attempt %d: %s; looking whether it was done", what, attempts, described(lost.last))
            for pause in _PAUSES:
                time.sleep(min(pause * random.uniform(1, 1.25), seconds_left()))  # noqa: S311
                wait_for_pending(vertex, resource)
                if took_place():
                    return None
        raise GivenUpError(attempts, time.monotonic() - begun, lost.last) from lost


def wait(operation: Any, what: str, seconds: float) -> Any:
    """The result of an operation.

    Raises:
        VertexError: it failed, or did not end in time.
    """

    def look() -> Any:
        operation.done(retry=calls.again)
        return operation.operation

    with explained(what):
        _wait(look, f"could not {what}: ", seconds)
        return operation.result()


def wait_until_ended(vertex: Vertex, operations: Iterable[str], seconds: float) -> None:
    """Wait for operations that an earlier process began, however they end; one that is forgotten has ended.

    Raises:
        VertexError: they did not all end in time.
    """
    end = time.monotonic() + seconds
    for name in operations:
        with explained(f"look at {name}"), suppress(exceptions.NotFound):
            _wait(partial(_service(vertex, name).get_operation, {"name": name}), "", end - time.monotonic())


def wait_for_pending(vertex: Vertex, resource: str) -> None:
    """Wait for the operations on a resource that go on, whoever began them; it need not be there yet.

    Raises:
        VertexError: they did not all end in time.
    """
    pending: list[str] = []
    with explained(f"list the operations of {resource}"), suppress(exceptions.NotFound):
        request = {"name": resource}
        while True:
            page = _service(vertex, resource).list_operations(request)
            pending += [operation.name for operation in page.operations if not operation.done]
            if not page.next_page_token:
                break
            request["page_token"] = page.next_page_token
    wait_until_ended(vertex, pending, DEPLOY_SECONDS)


def _service(vertex: Vertex, resource: str) -> Any:
    """The client of a resource's service, which alone knows what the operations on it say of themselves."""
    return vertex.models if "/models/" in resource else vertex.endpoints


def _wait(look: Callable[[], Any], failed: str, seconds: float) -> None:
    """Look at an operation until it is done.

    Raises:
        VertexError: it is not done in time.
    """
    begin = time.monotonic()
    end = begin + min(seconds, seconds_left())
    told_at = begin
    for pause in _pauses():
        operation = look()
        if operation.done:
            return
        if time.monotonic() + pause > end:
            raise VertexError(
                f"{failed}{operation.name} has not ended after {time.monotonic() - begin:.3g} s"
                f"{'' if seconds_left() > pause else f' ({told()})'}: {_state(operation)}. It goes on: look at it with "
                f"GET v1/{operation.name}, give it up with POST v1/{operation.name}:cancel, and run again when it has "
                "ended"
            )
        if time.monotonic() - told_at > _TELL_SECONDS:
            told_at = time.monotonic()
            log.warning("waiting for %s for %.0f s now: %s", operation.name, told_at - begin, _state(operation))
        time.sleep(pause)


def _pauses() -> Iterator[float]:
    pause = _SOONEST
    while True:
        yield pause
        pause = min(pause * 1.2, _LATEST)


def _state(operation: Any) -> str:
    """What an operation that goes on says of itself."""
    from google.cloud.aiplatform_v1.types import DeleteOperationMetadata

    # Every kind of metadata has the generic one in its first field (google/cloud/aiplatform/v1, *OperationMetadata).
    generic = DeleteOperationMetadata.deserialize(operation.metadata.value).generic_metadata
    failures = "; ".join(failure.message for failure in generic.partial_failures)
    return (
        f"pending since {generic.create_time or 'a time that is not known'}, "
        f"last changed {generic.update_time or 'at a time that is not known'}"
        f"{f', with partial failures: {failures}' if failures else ''}"
    )
