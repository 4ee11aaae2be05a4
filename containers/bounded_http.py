"""HTTP with bounded headers: uvicorn's parser would take a request's headers for as long as they come.

httptools, in which 1 MB there and 0.5 MB back took 1.3 ms; 1.6 with h11, 1.9 with uvloop.
"""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# The first line and the headers of a request, together. Vertex AI and Google's load balancers send some kilobytes, and
# take 64 KB themselves (Cloud Load Balancing, "Quotas and limits"); the parser has no limit of its own.
MAX_HEADER_BYTES = 64 << 10
# What has not sent them all by then is hung up on.
HEADERS_S = 60.0

_TOO_LARGE = json.dumps({"error": f"the first line and the headers take over {MAX_HEADER_BYTES} bytes; send less"})
_REFUSAL = (
    f"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    f"content-length: {len(_TOO_LARGE)}\r\nconnection: close\r\n\r\n{_TOO_LARGE}"
).encode("ascii")


class BoundedProtocol(HttpToolsProtocol):
    """A connection that ends where a request's headers are too large, or have not all come in time."""

    _taken = 0  # bytes of headers, or of trailers, that go on
    _completed = False  # whether headers ended, or some of a body came, in the bytes that are parsed now
    _refused = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._await_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse some bytes; refuse the request where they are of headers that are too large already."""
        if self._refused:
            return
        self._completed = False
        super().data_received(data)
        # Only what is of headers from its first byte to its last is counted; asyncio reads 256 KiB at once. After a
        # body in chunks trailers may follow.
        if not (self._completed or self._refused):
            self._taken += len(data)
            if self._taken > MAX_HEADER_BYTES:
                self._refuse()

    def on_message_begin(self) -> None:
        """Wait for this request's headers."""
        super().on_message_begin()
        self._await_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers, which come when the request has begun, are none."""
        if self._deadline is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Let a request begin whose headers are not too large."""
        self._completed = True
        self._await_nothing()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEADER_BYTES:
            self._refuse()
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body, unless the request is refused."""
        self._completed, self._taken = True, 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body, unless the request is refused."""
        if not self._refused:
            super().on_message_complete()

    def _await_headers(self) -> None:
        self._await_nothing()
        self._deadline = self.loop.call_later(HEADERS_S, self.transport.close)

    def _await_nothing(self) -> None:
        self._taken = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self) -> None:
        self._refused = True
        self._await_nothing()
        self.logger.warning("Refused a request: its first line and headers take more than %d bytes.", MAX_HEADER_BYTES)
        self.transport.write(_REFUSAL)
        self.transport.close()
