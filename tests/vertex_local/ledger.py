"""What a client has been told by the emulator, held against what it is told later."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import requests
from google.api_core import exceptions
from google.longrunning import operations_pb2
from google.rpc import code_pb2

from .conftest import Emulator

_BACK_S, _POLL_S = 180.0, 0.05
# What a client sees of an emulator that is killed, or is not there yet; and of a Cloud Storage behind its door.
CUT = (
    requests.exceptions.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    exceptions.ServiceUnavailable,
)

Read = Callable[[], Any]


def patiently(read: Read) -> Any:
    """What ``read`` gives, asked again for as long as the emulator is away; None where there is no such resource."""
    deadline = time.monotonic() + _BACK_S
    while True:
        try:
            return read()
        except exceptions.NotFound:
            return None
        except CUT:
            assert time.monotonic() < deadline, "the emulator did not come back"
            time.sleep(_POLL_S)


@dataclass
class Ledger:
    """The last acknowledged value of each thing, None for what is not there, and how to ask for it.

    A change that was not answered leaves the one or the other, and which is asked at once. A change that was
    acknowledged as an operation has happened if the operation says so, and has not if that has failed.
    """

    emulator: Emulator
    values: dict[str, Any] = field(default_factory=dict)
    reads: dict[str, Read] = field(default_factory=dict)
    operations: dict[str, operations_pb2.Operation] = field(default_factory=dict)
    acknowledged: int = 0
    unanswered: int = 0

    def change(self, key: str, read: Read, value: Any, call: Callable[[], Any]) -> Any:
        """Makes a change after which the thing is to be ``value``; gives what it is."""
        self.reads[key] = read
        before = self.values.setdefault(key, None)
        self.check(key)
        try:
            answer = call()
        except CUT:
            self.unanswered += 1
            self.values[key] = patiently(read)
            assert self.values[key] in (before, value), f"{key}: {before} or {value}, not {self.values[key]}"
            return self.values[key]
        operation = getattr(answer, "operation", None)
        if operation is None or self._succeeded(operation.name):
            self.values[key] = value
        self.acknowledged += 1
        self.check(key)
        return self.values[key]

    def check(self, key: str) -> None:
        """Makes sure that a thing is as it was acknowledged last."""
        found = patiently(self.reads[key])
        assert found == self.values[key], f"{key} was acknowledged as {self.values[key]} and is {found}"

    def audit(self) -> None:
        """Makes sure that everything is, and that every operation is found with the end that it was seen to have."""
        for key in self.values:
            self.check(key)
        for name, end in self.operations.items():
            assert self.emulator.endpoints.get_operation({"name": name}) == end

    def _succeeded(self, name: str) -> bool:
        """Waits for the end of an operation that was acknowledged, which a killed emulator has made a failure."""
        deadline = time.monotonic() + _BACK_S
        while True:
            end = patiently(lambda: self.emulator.endpoints.get_operation({"name": name}))
            assert end is not None, f"{name} was acknowledged and is lost"
            if end.done:
                break
            assert time.monotonic() < deadline, f"{name} has no end"
            time.sleep(_POLL_S)
        self.operations[name] = end
        if not end.HasField("error"):
            return True
        assert (end.error.code, end.error.message) == (code_pb2.ABORTED, "The emulator ended before the operation.")
        return False
