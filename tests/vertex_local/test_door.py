"""Cloud Storage's door: pages of other sites are refused, clients are not hindered."""

import asyncio
import contextlib
import gzip
import http.client
import json
import os
import re
import socket
import threading
from ipaddress import ip_address
from typing import Any

import aiohttp
import pytest
import requests
from google.api_core.exceptions import NotFound
from hypothesis import given
from hypothesis import strategies as st

from containers.vertex_local.door import RefusedError, before, check, hidden_address

from .conftest import Emulator

pytestmark = pytest.mark.slow


def ask(emulator: Emulator, method: str = "GET", path: str = "/storage/v1/b", **headers: str) -> tuple[int, Any]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", emulator.port + 1, timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        assert "Access-Control-Allow-Origin" not in answer.headers
        body = answer.read()
        return answer.status, json.loads(body) if body else None


def raw(emulator: Emulator, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", emulator.port + 1), timeout=20) as connection:
        connection.sendall(text)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                answer += piece
        return answer


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:8902", "127.0.0.1.example", "localhost.example"])
def test_a_foreign_host_name_is_refused(emulator: Emulator, host: str) -> None:
    status, answer = ask(emulator, Host=host)
    assert status == 421
    assert answer["error"]["message"] == f"this is not {host!r}; ask for localhost or an address"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]:80", "172.17.0.1:4443"])
def test_names_of_this_machine_are_answered(emulator: Emulator, host: str) -> None:
    assert ask(emulator, Host=host)[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_can_do_nothing(emulator: Emulator, origin: str) -> None:
    blob = emulator.storage.bucket("models").blob("door/kept")
    blob.upload_from_string(b"kept")
    for method in ("GET", "DELETE", "OPTIONS", "POST"):
        status, answer = ask(emulator, method, "/storage/v1/b/models/o/door%2Fkept", Origin=origin)
        assert (status, answer["error"]["message"]) == (403, f"requests of pages of {origin!r} are not answered")
    assert blob.download_as_bytes() == b"kept"


def test_the_second_request_of_a_connection_is_looked_at_as_the_first(emulator: Emulator) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", emulator.port + 1, timeout=20)) as connection:
        for headers, expected in (({}, 200), ({}, 200), ({"Origin": "https://evil.example"}, 403)):
            connection.request("GET", "/storage/v1/b", headers=headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == expected


@pytest.mark.parametrize(
    "text",
    [
        b"GET /storage/v1/b HTTP/1.1\nHost: localhost\n\nGET /storage/v1/b HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /storage/v1/b HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET /storage/v1/b HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n",
        b"POST /storage/v1/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0",
        b"POST /storage/v1/b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /storage/v1/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\n0",
        b"POST /storage/v1/b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /storage/v1/b HTTP/1.1\r\n\r\n",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(emulator: Emulator, text: bytes) -> None:
    answer = raw(emulator, text)
    assert re.match(rb"HTTP/1\.[01] (400|421) ", answer)
    assert len(re.findall(rb"HTTP/1\.[01] \d", answer)) == 1


def test_clients_put_and_get_what_they_like(emulator: Emulator) -> None:
    bucket = emulator.storage.bucket("models")
    content = os.urandom(3 << 20)
    whole, pieces = bucket.blob("door/whole"), bucket.blob("door/pieces", chunk_size=1 << 18)
    whole.upload_from_string(content)
    pieces.upload_from_string(content)  # resumable
    assert whole.download_as_bytes() == pieces.download_as_bytes() == content
    assert whole.download_as_bytes(start=5, end=1 << 19) == content[5 : (1 << 19) + 1]
    pieces.delete()
    assert not pieces.exists()
    with bucket.blob("door/written").open("wb", chunk_size=1 << 18) as file:
        file.write(content)
    assert bucket.blob("door/written").download_as_bytes() == content
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (b"{", b'"name": "door', b'-chunked"}'))
    head = b"POST /storage/v1/b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert raw(emulator, head + chunks + b"0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert emulator.storage.bucket("door-chunked").exists()
    with pytest.raises(NotFound):
        bucket.blob("door/none").download_as_bytes()
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(whole.download_as_bytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [content] * 8


def test_what_is_compressed_passes_as_it_is(emulator: Emulator) -> None:
    content = gzip.compress(b"bands " * 1000)
    blob = emulator.storage.bucket("models").blob("door/compressed")
    blob.content_encoding = "gzip"
    blob.upload_from_string(content)
    assert blob.download_as_bytes(raw_download=True) == content
    # A body that is compressed on its way alone is for the server to unpack.
    place = f"http://127.0.0.1:{emulator.port + 1}/upload/storage/v1/b/models/o?uploadType=media&name=door%2Funpacked"
    headers = {"Content-Encoding": "gzip", "Content-Type": "text/plain"}
    assert requests.post(place, content, headers=headers, timeout=20).json()["size"] == "6000"


def test_the_head_of_an_object_tells_its_size(emulator: Emulator) -> None:
    emulator.storage.bucket("models").blob("door/head").upload_from_string(b"x" * 1234)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", emulator.port + 1, timeout=20)) as connection:
        for _ in range(2):
            connection.request("HEAD", "/download/storage/v1/b/models/o/door%2Fhead?alt=media")
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Content-Length"], answer.read()) == (200, "1234", b"")


async def asked_before(answer: bytes | None) -> tuple[int, bytes]:
    """What is answered before a server that breaks off after these bytes; None for one that is down."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer or b"")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        target = server.sockets[0].getsockname()
        if answer is None:
            server.close()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/storage/v1/b"
            async with before(listener, target), aiohttp.ClientSession() as client, client.get(url) as told:
                return told.status, await told.read()


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 200 OK\r\nContent-Le"], ids=["down", "silent", "cut"])
def test_a_storage_that_does_not_answer_is_told(answer: bytes | None) -> None:
    status, body = asyncio.run(asked_before(answer))
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (503, 503)
    assert error["message"].startswith("Cloud Storage does not answer (")


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_an_answer_that_breaks_off_is_not_taken_for_whole(framing: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"
    with pytest.raises(aiohttp.ClientPayloadError):
        asyncio.run(asked_before(head + b"3\r\nabc\r\n"[: 5 if b"Length" in framing else None]))


def test_the_server_s_own_address_is_not_guessed() -> None:
    addresses = {hidden_address() for _ in range(20)}
    assert len(addresses) == 20
    assert all(each.startswith("127.") and each != "127.0.0.1" for each in addresses)


_HOSTS = st.one_of(
    st.text(max_size=12),
    st.lists(st.sampled_from(["localhost", "127.0.0.1", "[::1]", ":80", ".", "evil.example", ", ", "@"])).map("".join),
)


@given(st.lists(_HOSTS, max_size=2), st.lists(st.text(max_size=5), max_size=1))
def test_any_host_is_of_this_machine_or_refused(hosts: list[str], origins: list[str]) -> None:
    with contextlib.suppress(RefusedError):
        check(hosts, origins)
        assert (len(hosts), origins) == (1, [])
        name = hosts[0].lower()
        assert name.startswith("localhost") or ip_address(re.sub(r"^\[|(\])?:\d+$|\]$", "", name))
        assert "evil" not in name
