"""Long-running operations: what a slow method answers first, and where its end is found."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf import empty_pb2

from . import messages
from .errors import NotFoundError, ServiceError

_log = logging.getLogger(__name__)

Operation = operations_pb2.Operation


class Operations:
    """Operations since the start of the emulator."""

    def __init__(self) -> None:
        self._operations: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, name: str) -> Any:
        """The operation as it stands.

        Raises:
            NotFoundError: there is none of that name since the emulator was started.
        """
        try:
            return self._operations[name]
        except KeyError:
            raise NotFoundError(f"The operation {name!r} does not exist; they are forgotten at a restart.") from None

    def finished(self, resource: str, metadata: Any, response: Any = None) -> Any:
        """An operation on ``resource`` that has ended well: answered at once, it saves the client a poll."""
        operation = self._new(resource, metadata)
        self._succeed(operation, response)
        return operation

    def start(self, resource: str, metadata: Any, work: Awaitable[Any]) -> Any:
        """An operation that is pending until ``work`` has returned its response or raised a ServiceError."""
        operation = self._new(resource, metadata)
        task = asyncio.create_task(self._follow(operation, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return operation

    async def stop(self) -> None:
        """Gives up what is pending."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _new(self, resource: str, metadata: Any) -> Any:
        operation = Operation(name=f"{resource}/operations/{messages.new_id()}")
        metadata.generic_metadata.create_time.CopyFrom(messages.now())
        metadata.generic_metadata.update_time.CopyFrom(messages.now())
        operation.metadata.Pack(metadata)
        self._operations[operation.name] = operation
        return operation

    async def _follow(self, operation: Any, work: Awaitable[Any]) -> None:
        try:
            self._succeed(operation, await work)
        except ServiceError as error:
            self._fail(operation, error.rpc_code, error.message)
        except Exception as fault:
            _log.exception("operation %s", operation.name)
            self._fail(operation, 13, f"{type(fault).__name__}: {fault}")

    @staticmethod
    def _succeed(operation: Any, response: Any) -> None:
        operation.response.Pack(empty_pb2.Empty() if response is None else response)
        operation.done = True

    @staticmethod
    def _fail(operation: Any, code: int, message: str) -> None:
        operation.error.code, operation.error.message = code, message
        operation.done = True
