"""Headers without an end, sent to the local Vertex AI: they take none of its memory."""

import socket
from contextlib import suppress

from ..conftest import Figure
from .conftest import Emulator
from .test_load import resident_mb

_PIECE = b"a" * (1 << 20)


def test_headers_without_an_end_take_no_memory(emulator: Emulator, figure: Figure) -> None:
    before, sent = resident_mb(emulator), 0
    with socket.create_connection(("127.0.0.1", emulator.port), 20) as connection:
        connection.sendall(b"GET /v1/ HTTP/1.1\r\nx: ")
        with suppress(ConnectionError):
            for _ in range(100):
                connection.sendall(_PIECE)
                sent += len(_PIECE)
    taken = resident_mb(emulator) - before
    figure("100 MB of headers: the local Vertex AI's memory, MB", "at most 16", f"{taken:.1f}")
    assert sent < 100 * len(_PIECE)
    assert taken < 16
