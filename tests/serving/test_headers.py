from __future__ import annotations

import socket
import time
from contextlib import closing, suppress

import pytest

from containers import bounded_http
from containers.bounded_http import MAX_HEADER_BYTES
from tests.conftest import Figure
from tests.serving.conftest import Server
from tests.serving.test_log import new_entries

_PIECE = b"a" * (1 << 20)
_LARGEST_BYTES = 16 << 20


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.ports[0]), 20)


def answered(connection: socket.socket) -> bytes:
    """All that the server sends until it hangs up; nothing where it resets the connection."""
    pieces = []
    with suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


CHUNKED = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
_BEGINNINGS = {
    "line": b"GET /",
    "value": b"GET /health HTTP/1.1\r\nx: ",
    "names": b"GET /health HTTP/1.1\r\n",
    "trailer": CHUNKED + b"x: ",
    "trailers": CHUNKED,
}


@pytest.mark.parametrize("begin", _BEGINNINGS.values(), ids=_BEGINNINGS)
def test_headers_without_an_end_take_no_memory(sleeper: Server, begin: bytes, figure: Figure) -> None:
    before, sent = sleeper.resident_bytes, 0
    piece = b"x: y\r\n" * (len(_PIECE) // 6) if begin.endswith(b"\r\n") else _PIECE
    with closing(connected(sleeper)) as connection:
        connection.sendall(begin)
        with suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(piece)
                sent += len(piece)
    taken = sleeper.resident_bytes - before
    figure(
        f"100 MB of headers ({begin[:24]!r}...{begin[-3:]!r}): server's memory, MB",
        "at most 16",
        f"{taken / 2**20:.1f}",
    )
    assert sent < 100 * len(piece)
    assert taken < _LARGEST_BYTES


def frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 without flags (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3) + bytes([kind, 0]) + stream.to_bytes(4) + payload


# A field that is in no table, of 16 KB, which is a frame's largest: \x7f and what follows are its value's length (RFC
# 7541, sections 5.1 and 6.2.2).
_FIELD = b"\x00\x01x\x7f\x81\x7e" + b"a" * 16256
_SETTINGS, _HEADERS, _CONTINUATION = 4, 1, 9


def test_metadata_without_an_end_takes_little_memory(sleeper: Server, figure: Figure) -> None:
    """gRPC reads it all and keeps nothing: its buffers grow with the first, and no more."""
    before, sent = sleeper.resident_bytes, 0
    begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(_SETTINGS, 0) + frame(_HEADERS, 1, _FIELD)
    for _ in range(3):
        with closing(socket.create_connection(("127.0.0.1", sleeper.ports[1]), 20)) as connection:
            connection.sendall(begin)
            with suppress(ConnectionError):
                for _ in range(100 * 64):
                    connection.sendall(frame(_CONTINUATION, 1, _FIELD))
                    sent += len(_FIELD)
    taken = sleeper.resident_bytes - before
    figure(f"{sent >> 20} MB of metadata over gRPC: server's memory, MB", "at most 64", f"{taken / 2**20:.1f}")
    assert sent > 4 * _LARGEST_BYTES
    assert taken < 4 * _LARGEST_BYTES
    assert sleeper.call(b"", "/grpc.health.v1.Health/Check") == b"\x08\x01"


@pytest.mark.parametrize(
    ("size", "status"), [(MAX_HEADER_BYTES - 1000, b"200"), (MAX_HEADER_BYTES + 1000, b"431")], ids=["less", "more"]
)
def test_the_bound(sleeper: Server, size: int, status: bytes) -> None:
    with closing(connected(sleeper)) as connection:
        connection.sendall(
            b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: " + b"y" * size + b"\r\n\r\n"
        )
        assert answered(connection).startswith(b"HTTP/1.1 " + status)


def test_large_headers_before_a_body(sleeper: Server) -> None:
    with closing(connected(sleeper)) as connection:
        head = b"POST /predict HTTP/1.1\r\ncontent-length: 5\r\nx: " + b"y" * (MAX_HEADER_BYTES + 1)
        connection.sendall(head + b"\r\n\r\nabcde")
        assert answered(connection).startswith(b"HTTP/1.1 431")
    assert sleeper.post(b"{}").status_code == 400


def test_trailers_are_no_headers(sleeper: Server) -> None:
    before = len(sleeper.entries)
    with closing(connected(sleeper)) as connection:
        connection.sendall(CHUNKED + b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 400")
    (entry,) = new_entries(sleeper, before, 1)
    assert "logging.googleapis.com/trace" not in entry


def test_many_requests_in_one_piece_are_not_one(sleeper: Server) -> None:
    """Pipelined requests, together larger than the bound of one."""
    request = b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 1000 + b"\r\n\r\n"
    last = request.replace(b"\r\nx", b"\r\nconnection: close\r\nx")
    many = 2 * MAX_HEADER_BYTES // len(request)
    with closing(connected(sleeper)) as connection:
        connection.sendall(request * many + last)
        assert answered(connection).count(b"HTTP/1.1 200") == many + 1


def test_headers_that_do_not_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with less patience."""
    import asyncio

    import uvicorn

    monkeypatch.setattr(bounded_http, "HEADERS_S", 0.2)

    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError

    async def hung_up() -> float:
        config = uvicorn.Config(app, http=bounded_http.BoundedProtocol, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        config.load()
        listening = await asyncio.get_running_loop().create_server(
            lambda: bounded_http.BoundedProtocol(config, server.server_state, {}), "127.0.0.1", 0
        )
        begun = time.monotonic()
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        writer.write(b"GET /health HT")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        listening.close()
        return time.monotonic() - begun

    assert asyncio.run(hung_up()) >= 0.2
