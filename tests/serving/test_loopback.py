"""Who may ask a server that listens on this machine alone, and one that listens to all."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.serving.__main__ import _parser
from containers.serving.loopback import _refusal, is_loopback
from tests.serving.conftest import Server

FOREIGN = {
    "a name": ({"Host": "rebound.example"}, 421),
    "a name with a port": ({"Host": "rebound.example:8080"}, 421),
    "a name like an address": ({"Host": "127.0.0.1.example"}, 421),
    "nothing": ({"Host": ""}, 421),
    "another origin": ({"Origin": "https://evil.example"}, 403),
    "an origin of a sandbox": ({"Origin": "null"}, 403),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("path", ["/health", "/metrics", "/predict"])
def test_a_page_of_another_site_is_refused(torch_server: Server, what: str, path: str) -> None:
    headers, expected = FOREIGN[what]
    method = "POST" if path == "/predict" else "GET"
    answer = httpx.request(method, torch_server.url + path, headers=headers)
    assert answer.status_code == expected
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:5", "[::1]", "[::1]:80", "172.17.0.1"])
def test_names_of_this_machine_are_answered(torch_server: Server, host: str) -> None:
    assert httpx.get(torch_server.url + "/health", headers={"Host": host}).status_code == 200


@pytest.fixture
def open_to_all(archive: Path) -> Iterator[Server]:
    """As it is in a container, where Vertex AI is what keeps others away."""
    command = [sys.executable, "-m", "containers.serving", "--http-port", "0", "--grpc-port", "0", "--host", "0.0.0.0"]  # noqa: S104
    process = subprocess.Popen([*command, "--model", str(archive)], stderr=subprocess.PIPE, text=True)
    server = Server(process)
    yield server
    process.terminate()
    server.end()


def test_in_a_container_any_name_is_answered(open_to_all: Server) -> None:
    open_to_all.wait_for("ready")
    for headers, _ in FOREIGN.values():
        assert httpx.get(open_to_all.url + "/health", headers=headers).status_code == 200


def test_which_addresses_are_of_this_machine_alone() -> None:
    for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "10.0.0.1", "host.example", ""):  # noqa: S104
        assert not is_loopback(host)


def test_it_listens_to_others_in_a_container_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIP_HTTP_PORT", raising=False)
    assert _parser().parse_args([]).host == "127.0.0.1"
    monkeypatch.setenv("AIP_HTTP_PORT", "8080")
    assert _parser().parse_args([]).host == "0.0.0.0"  # noqa: S104
    assert _parser().parse_args(["--host", "::1"]).host == "::1"


@pytest.mark.parametrize(
    "host", ["[::1]evil.example", "[::1", "localhost:80:evil", "localhost:evil", "::1", "[localhost]"]
)
def test_what_only_begins_like_a_name_of_this_machine(host: str) -> None:
    assert _refusal(host, None)


@given(st.text(), st.none() | st.text())
def test_any_host_is_answered_or_refused(host: str, origin: str | None) -> None:
    refused = _refusal(host, origin)
    if refused is None:
        assert origin is None
        assert re.fullmatch(r"(?i)(localhost|[0-9.]+|\[[0-9a-f:.]+\])(:[0-9]*)?", host)
