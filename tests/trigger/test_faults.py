"""The function before services that fail: a server on this machine answers what they would."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from containers.trigger.cloud import asked
from containers.trigger.errors import UnavailableError
from tests.vertex_local.conftest import Emulator

from .conftest import pointed_at, upload
from .function import LATE, SOON, Function, custom_entry, environment, running

pytestmark = pytest.mark.slow


class Failing(ThreadingHTTPServer):
    """Answers every request with one error, as Google's services write it."""

    code, status = 503, "UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests = 0


class _Handler(BaseHTTPRequestHandler):
    server: Failing

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests += 1
        error = {"code": self.server.code, "message": "as the test wants it", "status": self.server.status}
        body = json.dumps({"error": error}).encode()
        self.send_response(self.server.code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Nothing: pytest shows what is printed."""


@pytest.fixture(scope="module")
def failing() -> Iterator[Failing]:
    """A service that fails as its test says."""
    server = Failing()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def before(
    emulator: Emulator, failing: Failing, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Function]]:
    """Functions before a failing Vertex AI, before a failing Cloud Storage, and before none."""
    address = f"127.0.0.1:{failing.server_port}"
    good, log = pointed_at(emulator), tmp_path_factory.mktemp("faults")
    wrong = {
        "vertex": {"VERTEX_EMULATOR_HOST": address},
        "storage": {"STORAGE_EMULATOR_HOST": f"http://{address}"},
        # Port 1 of this machine answers nobody.
        "no vertex": {"VERTEX_EMULATOR_HOST": "127.0.0.1:1"},
        "no storage": {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:1"},
    }
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(running(log / name.replace(" ", "-"), environment(**good | changes)))
            for name, changes in wrong.items()
        }


@pytest.fixture(scope="module")
def generation(emulator: Emulator) -> int:
    """Of the model that the tests announce."""
    return upload(emulator, "trained/faults")


def announce(function: Function, generation: int, age: timedelta) -> tuple[int, str, str]:
    status, line = function.finalize("models", "trained/faults/model.yaml", generation, age=age)
    return status, line["severity"], line["message"]


@pytest.mark.parametrize("name", ["no vertex", "no storage"])
def test_a_service_that_cannot_be_reached_is_tried_again_however_late(
    before: dict[str, Function], generation: int, name: str
) -> None:
    status, severity, message = announce(before[name], generation, LATE)
    assert (status, severity) == (503, "WARNING")
    assert message.startswith("could not ")


@pytest.mark.parametrize("name", ["vertex", "storage"])
@pytest.mark.parametrize(("code", "status"), [(429, "RESOURCE_EXHAUSTED"), (503, "UNAVAILABLE"), (502, "")])
def test_a_service_that_fails_for_now_is_tried_again_however_late(
    before: dict[str, Function], failing: Failing, generation: int, name: str, code: int, status: str
) -> None:
    failing.code, failing.status = code, status
    answered, severity, message = announce(before[name], generation, LATE)
    assert (answered, severity) == (503, "WARNING")
    assert "as the test wants it" in message


def test_an_answer_that_does_not_come_in_time_is_asked_for_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=r"^could not ask: .*timed out"), asked("ask"):
            requests.get(url, timeout=0.1)


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [
        ("vertex", 403, "PERMISSION_DENIED"),
        ("vertex", 404, "NOT_FOUND"),
        # INVALID_ARGUMENT to the clients: the status alone tells one from the other.
        ("vertex", 400, "FAILED_PRECONDITION"),
        ("storage", 403, "PERMISSION_DENIED"),
    ],
)
def test_what_people_can_mend_is_tried_again_for_an_hour(
    before: dict[str, Function], failing: Failing, generation: int, name: str, code: int, status: str
) -> None:
    failing.code, failing.status = code, status
    for age, answered in ((SOON, (503, "WARNING")), (LATE, (200, "ERROR"))):
        *found, message = announce(before[name], generation, age)
        assert tuple(found) == answered
        assert f": {status}: " in message


@pytest.mark.parametrize("age", [timedelta(0), LATE])
def test_an_invalid_job_is_given_up(
    before: dict[str, Function], failing: Failing, generation: int, age: timedelta
) -> None:
    failing.code, failing.status = 400, "INVALID_ARGUMENT"
    sent = failing.requests
    status, severity, message = announce(before["vertex"], generation, age)
    assert (status, severity) == (200, "ERROR")
    assert ": INVALID_ARGUMENT: " in message
    assert "as the test wants it; correct the template or the settings" in message
    assert failing.requests == sent + 1


def test_the_real_refusal_of_a_wrong_parameter_is_given_up(emulator: Emulator, generation: int, tmp_path: Any) -> None:
    settings = environment(PARAMETERS='{"colour": "red"}', **pointed_at(emulator))
    with running(tmp_path / "log", settings) as function:
        status, severity, message = announce(function, generation, timedelta(0))
    assert (status, severity) == (200, "ERROR")
    assert "has no parameter 'colour'" in message


def test_of_two_conflicts_one_is_tried_again(before: dict[str, Function], failing: Failing, generation: int) -> None:
    failing.code, failing.status = 409, "ALREADY_EXISTS"
    status, severity, message = announce(before["vertex"], generation, LATE)
    assert (status, severity) == (200, "INFO")
    assert message.startswith("already started")
    failing.status = "ABORTED"
    assert announce(before["vertex"], generation, LATE)[:2] == (503, "WARNING")


def test_a_job_that_cannot_be_looked_up_is_tried_again(before: dict[str, Function], failing: Failing) -> None:
    failing.code, failing.status = 503, "UNAVAILABLE"
    assert before["vertex"].publish(custom_entry("1"), age=LATE)[0] == 503
    failing.code, failing.status = 403, "PERMISSION_DENIED"
    assert before["vertex"].publish(custom_entry("1"), age=SOON)[0] == 503
    assert before["vertex"].publish(custom_entry("1"), age=LATE)[0] == 200
