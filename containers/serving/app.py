"""The HTTP side: predictions, health and metrics, as an ASGI application.

Errors are `{"error": text}`. A body over the limit is answered 413, HTTP's own status for it, before it is read; what
the caller still sends is read and dropped, because a caller in the middle of sending would otherwise see the
connection reset instead of the answer. Where it ends soon the connection is kept, so that a caller who is refused for
now need not open another for its next request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from components.earthengine.payloads import http_codec
from containers.serving import log, metrics, outcomes
from containers.serving.exchange import Exchange
from containers.serving.limits import BODY_S, GRACE_S, MAX_REQUEST_BYTES, MAX_WAITING
from containers.serving.outcomes import AbandonedError, MethodError, RouteError, TooLargeError, UnavailableError
from containers.serving.service import Service

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[str, str]

METRICS_ROUTE = "/metrics"

# Of a body that was refused, what is read all the same so that the caller sees why.
_DROPPED_BYTES = 256 << 20
# How long a refusal may wait for the body's end so that the connection can be kept; most bodies are there by then.
_END_S = 0.02

_log = logging.getLogger("serving")


class App:
    """The application that answers on these routes."""

    def __init__(self, service: Service, health_routes: Iterable[str], predict_routes: Iterable[str]) -> None:
        self._service = service
        self._routes: dict[str, tuple[str, ...]] = dict.fromkeys((*health_routes, METRICS_ROUTE), ("GET", "HEAD"))
        self._routes |= dict.fromkeys(predict_routes, ("POST",))
        self._threads = ThreadPoolExecutor(MAX_WAITING, "http")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI's interface."""
        path, method = scope["path"], scope["method"]
        if method not in self._routes.get(path, ()) or method == "POST":
            await self._predict(scope, receive, send)
        elif path == METRICS_ROUTE:
            await _send(send, 200, self._service.metrics.page(), {"content-type": metrics.CONTENT_TYPE})
        else:
            await self._health(send)

    async def _health(self, send: Send) -> None:
        try:
            self._service.check_ready()
        except UnavailableError as error:
            await _send(send, 503, _json(error=str(error)))
        else:
            await _send(send, 200, _json(status="ready"))

    async def _predict(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a prediction, or a request that is nothing that is served."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        client = scope.get("client") or ("",)
        url = scope["raw_path"].decode("latin-1")
        exchange = Exchange("http", scope["method"], url, client[0], log.trace_of(headers))
        body = _Body(headers, receive)
        try:
            self._check_route(scope["path"], scope["method"])
            answer = await self._answer(exchange, body, receive)
        # A stop cancels what has not ended in time; anything unforeseen must not take the server with it.
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                error = UnavailableError(f"the server stops, and the answer was not ready within {GRACE_S} s")
            exchange.request_bytes = body.size
            await self._refuse(send, body, exchange, error, self._routes.get(scope["path"], ()))
        else:
            await _send(send, 200, answer)
            self._service.end(exchange)

    def _check_route(self, path: str, method: str) -> None:
        if path not in self._routes:
            raise RouteError(f"{method} {path[:200]}: there is no such route; there are {', '.join(self._routes)}")
        if method not in self._routes[path]:
            raise MethodError(f"{method} {path}: the route takes {self._routes[path][0]}")

    async def _answer(self, exchange: Exchange, body: _Body, receive: Receive) -> bytes:
        service = self._service
        # First, so that nothing is read for a model that is not there.
        assert service.contract  # noqa: S101
        with service.admission.place(body.expected):
            content = await body.read()
            exchange.request_bytes = len(content)
            # After the body, all that can be received is that the caller has gone.
            gone = asyncio.ensure_future(receive())
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, service.answer, exchange, http_codec, content, lambda: not gone.done()
                )
            finally:
                gone.cancel()

    async def _refuse(
        self, send: Send, body: _Body, exchange: Exchange, error: BaseException, allowed: tuple[str, ...]
    ) -> None:
        outcome = self._service.end(exchange, error)
        headers: Headers = {}
        if outcome.status in (429, 503):
            headers["retry-after"] = "1"
        if outcome.status == 405:
            headers["allow"] = ", ".join(allowed)
        if not body.held_back:
            await body.drop(_END_S)
        if body.ended:
            await _send(send, outcome.status, _json(error=outcomes.text(error)), headers)
            return
        headers["connection"] = "close"
        await _send(send, outcome.status, _json(error=outcomes.text(error)), headers, before_the_end=body.drop)


class _Body:
    """A request's body, as far as it has come.

    Attributes:
        size: how many bytes were read.
        ended: whether that is all of it.
        held_back: whether the caller sends it only when it is read (Expect: 100-continue).
    """

    def __init__(self, headers: Headers, receive: Receive) -> None:
        chunked = "transfer-encoding" in headers
        self._declared = None if chunked else int(headers.get("content-length", 0))
        self._receive = receive
        self.size = 0
        self.ended = self._declared == 0
        self.held_back = "expect" in headers

    @property
    def expected(self) -> int:
        """How many bytes it may take; a chunked one does not say, and may take all that is allowed."""
        return MAX_REQUEST_BYTES if self._declared is None else min(self._declared, MAX_REQUEST_BYTES)

    async def read(self) -> bytes:
        """All of it.

        Raises:
            TooLargeError: it is over the limit; then it has not been read to its end.
            AbandonedError: the caller went, or did not send all of it in time.
        """
        if (self._declared or 0) > MAX_REQUEST_BYTES:
            raise _too_large(f"{self._declared} bytes")
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_S):
                # Of an empty body comes one empty chunk.
                while not (chunks and self.ended):
                    chunks.append(await self._chunk())
                    if self.size > MAX_REQUEST_BYTES:
                        raise _too_large(f"{self.size} bytes or more")
        except TimeoutError:
            raise AbandonedError(f"{self.size} bytes of the body came within {BODY_S:.0f} s; send all of it") from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def drop(self, within_s: float = BODY_S) -> None:
        """Read what is left, up to a bound, and keep nothing of it."""
        with contextlib.suppress(TimeoutError, AbandonedError):
            async with asyncio.timeout(within_s):
                while not self.ended and self.size < _DROPPED_BYTES:
                    await self._chunk()

    async def _chunk(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.ended = True
            raise AbandonedError(f"the caller went after {self.size} bytes of the body")
        chunk: bytes = message.get("body", b"")
        self.size += len(chunk)
        self.ended = not message.get("more_body", False)
        return chunk


def _too_large(said: str) -> TooLargeError:
    return TooLargeError(f"the body takes {said}; at most {MAX_REQUEST_BYTES}: send fewer or smaller tiles")


def _json(**fields: str) -> bytes:
    return json.dumps(fields).encode()


async def _send(
    send: Send,
    status: int,
    body: bytes,
    headers: Headers | None = None,
    before_the_end: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Send an answer; what is to be done before its end is done when the caller has all of it already."""
    every = {"content-type": "application/json", "content-length": str(len(body))} | (headers or {})
    raw = [(name.encode(), value.encode()) for name, value in every.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    if before_the_end is None:
        await send({"type": "http.response.body", "body": body})
        return
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await before_the_end()
    await send({"type": "http.response.body"})
