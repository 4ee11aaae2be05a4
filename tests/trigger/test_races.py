"""The function before a Cloud Storage in which an object is replaced between two of its requests."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.vertex_local.conftest import Emulator

from .conftest import of, pointed_at, upload
from .function import environment, running

pytestmark = pytest.mark.slow


class Proxy(ThreadingHTTPServer):
    """Passes requests on to Cloud Storage, and does something after its first answer."""

    def __init__(self, port: int, afterwards: Callable[[], Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = port
        self.afterwards: Callable[[], Any] | None = afterwards
        self.answers: list[int] = []


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)) as storage:
            storage.request("GET", self.path, headers={"Host": self.headers["Host"]})
            answer = storage.getresponse()
            body = answer.read()
        self.server.answers.append(answer.status)
        afterwards, self.server.afterwards = self.server.afterwards, None
        if afterwards:
            afterwards()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Nothing: pytest shows what is printed."""


@contextmanager
def passing_on(port: int, afterwards: Callable[[], Any]) -> Iterator[Proxy]:
    """A proxy for the block."""
    server = Proxy(port, afterwards)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_model_yaml_that_is_replaced_before_it_is_read_is_left_to_its_own_event(
    emulator: Emulator, tmp_path: Path
) -> None:
    generation = upload(emulator, "trained/raced")
    with passing_on(emulator.port + 1, lambda: upload(emulator, "trained/raced")) as proxy:
        storage = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{proxy.server_port}"}
        with running(tmp_path / "log", environment(**pointed_at(emulator) | storage)) as function:
            status, line = function.finalize("models", "trained/raced/model.yaml", generation)
    assert (status, line["severity"]) == (200, "INFO")
    assert line["message"] == f"generation {generation} of gs://models/trained/raced/model.yaml is superseded"
    assert proxy.answers == [200, 404]
    assert not of(emulator, "trained/raced")
