"""The door of Cloud Storage: what pages of other sites ask of it is refused, all else passes as it is.

fake-gcs-server answers whoever asks, and tells browsers that every page may read its answers and delete its objects. So
it listens at an address of the loopback interface that nobody guesses, and on the port that is told stands this door. A
page of another site shows itself by its Origin, or, where it has given a name of its own this machine's address, by the
Host that the browser asks for.
"""

import contextlib
import re
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from ipaddress import ip_address

import aiohttp
from aiohttp import web
from yarl import URL

_PIECE = 1 << 18
# Of one connection, not of the message (RFC 9110, 7.6.1). What Expect asks for is answered on this side.
_OF_A_CONNECTION = {
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    "expect",
}
# A client's request must not meet the end of a connection that was idle.
_KEEP_ALIVE_S = 600


class RefusedError(Exception):
    """A request does not pass; `status` is the HTTP code it is answered with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def hidden_address() -> str:
    """An IPv4 address of the loopback interface, one of 16 million; which answer on Linux."""
    return ".".join(["127", *(str(1 + secrets.randbelow(254)) for _ in range(3))])


@contextlib.asynccontextmanager
async def before(listener: socket.socket, target: tuple[str, int]) -> AsyncIterator[None]:
    """Passes what comes to a listening socket on to an address, as far as it may pass, for the block."""
    async with _client(target) as client:

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            try:
                check(request.headers.getall("Host", []), request.headers.getall("Origin", []))
                return await _pass(request, client)
            except RefusedError as refusal:
                error = {"code": refusal.status, "message": str(refusal)}
                return web.json_response({"error": error}, status=refusal.status, headers={"Connection": "close"})

        server = web.Server(answer, auto_decompress=False, access_log=None, keepalive_timeout=_KEEP_ALIVE_S)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield
        finally:
            await runner.cleanup()


def _client(target: tuple[str, int]) -> aiohttp.ClientSession:
    """Sends requests to an address as they are, each over a connection of its own: one kept would not outlive it."""
    return aiohttp.ClientSession(
        f"http://{target[0]}:{target[1]}",
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )


async def _pass(request: web.BaseRequest, client: aiohttp.ClientSession) -> web.StreamResponse:
    """Has a request answered; an answer that breaks off on the other side breaks off on this one.

    Raises:
        RefusedError: nobody answers.
    """
    passed: web.StreamResponse | None = None
    try:
        async with client.request(
            request.method,
            URL(request.raw_path, encoded=True),
            headers=_of_the_message(request.headers.items()),
            data=request.content if request.body_exists else None,
            allow_redirects=False,
        ) as answer:
            headers = _of_the_message(answer.headers.items())
            passed = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
            await passed.prepare(request)
            async for piece in answer.content.iter_chunked(_PIECE):
                await passed.write(piece)
            await passed.write_eof()
            return passed
    except aiohttp.ClientConnectionError as fault:
        if passed is not None:
            raise
        raise RefusedError(503, f"Cloud Storage does not answer ({fault}); try again") from fault


def _of_the_message(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in _OF_A_CONNECTION]


def check(hosts: Sequence[str], origins: Sequence[str]) -> None:
    """Make sure that no page of another site asks.

    Args:
        hosts: every Host of a request.
        origins: every Origin.

    Raises:
        RefusedError: one may.
    """
    host = ", ".join(hosts)
    if not _is_of_this_machine(host):
        raise RefusedError(421, f"this is not {host[:200]!r}; ask for localhost or an address")
    if origins:
        raise RefusedError(403, f"requests of pages of {', '.join(origins)[:200]!r} are not answered")


def _is_of_this_machine(host: str) -> bool:
    """Whether a Host is localhost or an address: of these no other site can have made its name."""
    found = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|([^\[\]:]+)(?::\d+)?", host)
    name = (found[1] or found[2]) if found else ""
    with contextlib.suppress(ValueError):
        return bool(ip_address(name))
    return name.lower() == "localhost"
