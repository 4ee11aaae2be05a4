"""A proxy on loopback that breaks calls to what is behind it: a server's errors, connections reset, answers lost."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

# Of one connection alone, and not to be passed on.
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}
_UPSTREAM_S = 120

When = Literal["before", "after"]


@dataclass(frozen=True)
class Call:
    """A request as it came.

    Attributes:
        number: from 1, in the order in which they came.
        method: GET, POST and so on.
        path: with its query.
        body: all of it.
    """

    number: int
    method: str
    path: str
    body: bytes


@dataclass(frozen=True)
class Status:
    """Answered with an error, before the service has seen the call, or after it has done what was asked."""

    code: int
    when: When = "before"


@dataclass(frozen=True)
class Reset:
    """The connection is reset, before the service has seen the call, or after it has done what was asked."""

    when: When = "before"


@dataclass(frozen=True)
class Cut:
    """The answer ends after half of its body."""


@dataclass(frozen=True)
class Break:
    """The request ends for the service after half of its body, and the connection is reset."""


@dataclass(frozen=True)
class Flip:
    """A bit in the middle of the request's body arrives flipped; of a request without one, in the answer's."""


@dataclass(frozen=True)
class Hold:
    """The call waits until `Proxy.release`, before the service has seen it, or after it has done what was asked.

    The service never sees one that was held before and whose caller is gone by then.
    """

    when: When = "before"


@dataclass(frozen=True)
class Late:
    """Answered with 503 at once, and carried out by the service some seconds later all the same."""

    seconds: float


Fault = Status | Reset | Cut | Break | Flip | Hold | Late
Policy = Callable[[Call], Fault | None]

_NAMES = {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}


@dataclass
class Proxy:
    """A running proxy.

    Attributes:
        port: on 127.0.0.1.
        policy: which fault a call meets; None for none. May be replaced at any time.
        calls: every call that came, in order.
        held: set as soon as a call waits.
        released: lets calls go that wait.
    """

    port: int
    policy: Policy
    calls: list[Call] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        """As `VERTEX_EMULATOR_HOST` has it."""
        return f"127.0.0.1:{self.port}"

    def release(self) -> None:
        """Let go whatever waits, and hold nothing any more."""
        self.released.set()


def no_fault(_: Call) -> Fault | None:
    """Every call goes through."""
    return None


@contextmanager
def proxied(upstream: int, policy: Policy = no_fault) -> Iterator[Proxy]:
    """A proxy before a port of this machine, for the block."""

    class Handler(_Handler):
        pass

    server = _Server(("127.0.0.1", 0), Handler)
    proxy = Proxy(server.server_address[1], policy)
    Handler.proxy, Handler.upstream, Handler.lock = proxy, upstream, threading.Lock()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.release()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: callers that go away are what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: Proxy
    upstream: int
    lock: threading.Lock

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _handle(self) -> None:
        body = self._body()
        with self.lock:
            call = Call(len(self.proxy.calls) + 1, self.command, self.path, body)
            self.proxy.calls.append(call)
        fault = self.proxy.policy(call)
        if isinstance(fault, (Status, Reset, Hold)) and fault.when == "before" and self._broken(fault):
            return
        if isinstance(fault, Late):
            self._refuse(503)
            time.sleep(fault.seconds)
            self._forward(body)
            return
        if isinstance(fault, Break):
            self._forward_half(body)
            self._reset()
            return
        status, headers, answer = self._forward(_flipped(body) if isinstance(fault, Flip) and body else body)
        if isinstance(fault, Flip) and not body:
            answer = _flipped(answer)
        if isinstance(fault, (Status, Reset, Hold)) and fault.when == "after" and self._broken(fault):
            return
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, self._rewritten(value.encode()).decode())
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer[: len(answer) // 2] if isinstance(fault, Cut) else answer)
        if isinstance(fault, Cut):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815  http.server's names

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        with closing(http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=_UPSTREAM_S)) as connection:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        # Addresses that the service gives of itself lead past the proxy.
        is_json = "json" in answer.headers.get("Content-Type", "")
        return answer.status, answer.getheaders(), self._rewritten(content) if is_json else content

    def _forward_half(self, body: bytes) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        with closing(http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=_UPSTREAM_S)) as connection:
            connection.putrequest(self.command, self.path)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                connection.putheader(name, value)
            connection.endheaders(body[: len(body) // 2])

    def _rewritten(self, text: bytes) -> bytes:
        return text.replace(f"127.0.0.1:{self.upstream}".encode(), self.proxy.address.encode())

    def _caller_is_gone(self) -> bool:
        """Whether the caller has closed its end, as the kernel does for one that is killed."""
        with suppress(BlockingIOError):
            try:
                return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except ConnectionError:
                return True
        return False

    def _broken(self, fault: Status | Reset | Hold) -> bool:
        """Let the call meet its fault; whether that was the end of it."""
        if isinstance(fault, Hold):
            self.proxy.held.set()
            self.proxy.released.wait()
            return self._caller_is_gone()
        if isinstance(fault, Reset):
            self._reset()
            return True
        self._refuse(fault.code)
        return True

    def _refuse(self, code: int) -> None:
        name = _NAMES.get(code, "UNKNOWN")
        text = f'{{"error": {{"code": {code}, "message": "broken on purpose", "status": "{name}"}}}}'.encode()
        self.send_response_only(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Connection", "close")  # the next call comes by another one, also while this one is late
        self.end_headers()
        self.wfile.write(text)

    def _reset(self) -> None:
        # With no time to linger, closing sends a reset (socket(7), SO_LINGER).
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
