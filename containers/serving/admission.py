"""The bounded line before the model: how many requests, and how many bytes of them, are taken in at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from containers.serving.limits import MAX_WAITING, MAX_WAITING_BYTES
from containers.serving.outcomes import BusyError


class Admission:
    """Counts the requests that wait or are worked on, of every transport."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests = 0
        self.bytes = 0

    @contextmanager
    def place(self, size: int) -> Iterator[None]:
        """A place for a request of this size, until its answer is ready.

        Raises:
            BusyError: none is free; nothing is waited for.
        """
        with self._lock:
            if self.requests >= MAX_WAITING or self.bytes + size > MAX_WAITING_BYTES:
                raise BusyError(
                    f"{self.requests} requests of {self.bytes} bytes are waiting; the server takes {MAX_WAITING} of "
                    f"{MAX_WAITING_BYTES} bytes: send it again in a moment, or deploy more replicas"
                )
            self.requests += 1
            self.bytes += size
        try:
            yield
        finally:
            with self._lock:
                self.requests -= 1
                self.bytes -= size
