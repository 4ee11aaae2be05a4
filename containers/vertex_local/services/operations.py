"""Long-running operations: what a slow method answers first, and where its end is found."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2
from google.rpc import code_pb2

from .. import messages
from ..errors import FailedPreconditionError, ServiceError, unforeseen
from ..store import Collection, Store
from . import filters, listing

_log = logging.getLogger(__name__)

# On Vertex AI every operation takes seconds at least. A client that takes the first answer for the end is wrong
# there and has to be wrong here; one that waits should not wait long.
_SHORTEST_S = 0.1
_LONGEST_WAIT_S = 60.0
_FIELDS = {"done": filters.text(lambda operation: str(operation.done).lower(), "=")}

Change = Callable[[], Any]
"""What an operation changes: gives its response, None for an empty one, or raises a ServiceError."""
Work = AbstractAsyncContextManager[Change]
"""Gives a change; what prepares it comes before, what is due when it has been made after."""


@asynccontextmanager
async def alone(change: Change) -> AsyncIterator[Change]:
    """The work of an operation that is a change and nothing else."""
    yield change


class Operations:
    """Operations, kept as the resources are; one that was pending when the emulator ended has failed.

    A change and the operation's being done are kept as one: whatever ends the emulator, an operation that is done has
    its resource, and one that has failed has changed nothing.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._operations = Collection(store, "Operation", operations_pb2.Operation)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        for operation in self._operations.all():
            if not operation.done:
                self._fail(operation, code_pb2.ABORTED, "The emulator ended before the operation.")

    def start(self, resource: str, metadata: Any, work: Work) -> Any:
        """An operation on ``resource`` that is pending until the change that ``work`` gives is made, or has failed.

        Args:
            resource: its name.
            metadata: a message with ``generic_metadata``.
            work: entered when the operation begins; a ServiceError of it is the operation's.
        """
        operation = operations_pb2.Operation(name=f"{resource}/operations/{messages.new_id()}")
        metadata.generic_metadata.create_time.CopyFrom(messages.now())
        metadata.generic_metadata.update_time.CopyFrom(messages.now())
        operation.metadata.Pack(metadata)
        self._operations.put(operation.name, operation)
        self._tasks[operation.name] = task = asyncio.create_task(self._follow(operation, work))
        task.add_done_callback(lambda _: self._tasks.pop(operation.name, None))
        return messages.copy_of(operation)

    async def stop(self) -> None:
        """Gives up what is pending; the next start marks it as failed."""
        self._stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # The methods of google.longrunning.Operations.

    def get_operation(self, request: Any) -> Any:
        """The operation as it stands."""
        return self._operations.get(request.name)

    def list_operations(self, request: Any) -> Any:
        """The operations on a resource, or on all resources of a location; newest first."""
        operations = self._operations.all(f"{request.name}/")
        found, token = listing.page(operations, request, _FIELDS, ())
        return operations_pb2.ListOperationsResponse(operations=found, next_page_token=token)

    async def wait_operation(self, request: Any) -> Any:
        """The operation when it is done, or as it stands after ``timeout``, a minute at most."""
        self._operations.get(request.name)
        task = self._tasks.get(request.name)
        if task:
            seconds = request.timeout.ToTimedelta().total_seconds() if request.HasField("timeout") else _LONGEST_WAIT_S
            await asyncio.wait([task], timeout=min(seconds, _LONGEST_WAIT_S))
        return self._operations.get(request.name)

    def cancel_operation(self, request: Any) -> Any:
        """Gives a pending operation up; it ends with the error CANCELLED. One that is done stays as it is."""
        self._operations.get(request.name)
        task = self._tasks.get(request.name)
        if task and not task.cancelling():  # what the first one undoes must not be cancelled too
            task.cancel()
        return empty_pb2.Empty()

    def delete_operation(self, request: Any) -> Any:
        """Forgets an operation that is done.

        Raises:
            FailedPreconditionError: it is pending.
        """
        if not self._operations.get(request.name).done:
            raise FailedPreconditionError(f"The operation {request.name!r} is not done: cancel it first")
        self._operations.delete(request.name)
        return empty_pb2.Empty()

    async def _follow(self, operation: Any, work: Work) -> None:
        try:
            await asyncio.sleep(_SHORTEST_S)
            async with work as change:
                self._make(change, operation)
        except ServiceError as error:
            self._fail(operation, error.rpc_code, error.message)
        except asyncio.CancelledError:
            if not self._stopping:
                self._fail(operation, code_pb2.CANCELLED, f"The operation {operation.name!r} was cancelled.")
        except Exception as fault:
            _log.exception("operation %s", operation.name)
            refusal = unforeseen(fault)
            self._fail(operation, refusal.rpc_code, refusal.message)

    def _make(self, change: Change, operation: Any) -> None:
        with self._store.transaction():
            response = change()
            done = messages.copy_of(operation)
            done.response.Pack(empty_pb2.Empty() if response is None else response)
            done.done = True
            self._operations.put(done.name, done)

    def _fail(self, operation: Any, code: int, message: str) -> None:
        """Marks an operation as failed, unless it is done: what follows a change does not undo it."""
        if operation.name not in self._operations or self._operations.get(operation.name).done:
            return
        operation.error.code, operation.error.message = code, message
        operation.done = True
        self._operations.put_end(operation.name, operation)
