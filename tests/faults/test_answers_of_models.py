"""What an endpoint answers to a golden tile: whatever it is, its reason is told, and the time of one attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from itertools import repeat

import pytest
import requests
from google.auth.exceptions import RefreshError, TransportError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components import calls, vertex
from components.calls import Again, is_passing, is_passing_prediction, was_refused
from components.earthengine.errors import PayloadError, VertexError
from components.traffic import read_endpoint
from components.vertex import EMULATOR, Prediction, Vertex
from tests.conftest import answering

CLOUD = Vertex("p", "r")
ENDPOINT = f"{CLOUD.parent}/endpoints/e"
GOOD = b'{"deployedModelId": "7", "predictions": []}'


@dataclass
class Site:
    """What the endpoint answers: the first answers in turn, the last one for ever."""

    port: int
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    content_type: str = "application/json"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = here.answers.pop(0) if here.answers[1:] else here.answers[0]
            self.send_response(status)
            self.send_header("Content-Type", here.content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as port:
        here = Site(port)
        monkeypatch.setenv(EMULATOR, f"127.0.0.1:{port}")
        yield here


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vertex, "_PREDICT_AGAIN", Again(is_passing_prediction, 0.2, "predict"))
    monkeypatch.setattr(calls, "exponential_sleep_generator", lambda *_: repeat(0.05))


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("status", [500, 503])
def test_the_reason_of_a_model_is_told_though_it_is_asked_again(
    site: Site, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    site.answers = [(status, b'{"error": "cuda oom"}')]
    wanted = rf'http://.*:predict answers {status} to a golden tile after \d+ attempts in [\d.]+ s: .*"cuda oom"'
    with pytest.raises(VertexError, match=wanted):
        CLOUD.predict(ENDPOINT, b"{}")
    assert f'predict: attempt 1: {status}: {{"error": "cuda oom"}}; again in 0.05 s' in caplog.messages


@pytest.mark.usefixtures("_impatient")
def test_a_quota_is_told_as_such(site: Site) -> None:
    site.answers = [(429, b"slow down")]
    with pytest.raises(VertexError, match=r"answers 429 .*: slow down; ask for more quota, or wait and run again"):
        CLOUD.predict(ENDPOINT, b"{}")


BODIES = st.binary(max_size=60) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "message", "details", "deployedModelId", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([200, 400, 404, 408, 429, 500, 502, 503, 504]),
    BODIES,
    st.sampled_from(["application/json", "text/html; charset=nonsense", "text/plain; charset=utf-16", ""]),
)
def test_nothing_but_our_errors_whatever_the_body_is(site: Site, status: int, body: bytes, content_type: str) -> None:
    site.answers, site.content_type = [(status, body)], content_type
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vertex, "_PREDICT_AGAIN", Again(is_passing_prediction, 0.001))
        if status == 200:
            with suppress(PayloadError):
                assert CLOUD.predict(ENDPOINT, b"{}").body == body
        else:
            with pytest.raises(VertexError, match=f"answers {status} to a golden tile"):
                CLOUD.predict(ENDPOINT, b"{}")


def test_the_time_is_that_of_the_attempt_that_was_answered(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "exponential_sleep_generator", lambda *_: repeat(0.2))
    asked: dict[str, tuple[bytes, Callable[[], Prediction]]] = {
        "http": (GOOD, lambda: CLOUD.predict(ENDPOINT, b"{}")),
        "grpc": (b'{"output": ""}', lambda: CLOUD.direct_raw_predict(ENDPOINT, "/a/b", b"")),
    }
    for good, ask in asked.values():
        site.answers = [(503, b"{}"), (503, b"{}"), (200, good)]
        begin = time.perf_counter()
        answer = ask()
        assert 0 < answer.seconds <= time.perf_counter() - begin - 2 * 0.2


def test_outside_of_a_step_a_call_is_given_up_soon_and_says_meanwhile_what_it_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert calls.COMMAND_SECONDS <= 15
    monkeypatch.setattr(calls, "COMMAND_SECONDS", 0.3)
    monkeypatch.setattr(calls, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv(EMULATOR, "127.0.0.1:9")
    with pytest.raises(VertexError, match=r"could not look up endpoint .*: \d+ attempts in 0\.\d+ s, the last: "):
        read_endpoint(Vertex("p", "far"), ENDPOINT)
    assert "get_endpoint: attempt 1: ConnectionError: " in caplog.messages[0]
    assert "; again in 0.0" in caplog.messages[0]


def test_a_certificate_that_is_not_trusted_stays_so(site: Site) -> None:
    with pytest.raises(requests.exceptions.SSLError) as caught:
        requests.get(f"https://127.0.0.1:{site.port}", timeout=5)
    assert not is_passing(caught.value)


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (RefreshError("later", retryable=True), True),
        (RefreshError("the account is gone"), False),
        (TransportError("not reached"), True),
    ],
)
def test_a_token_that_may_come_later_is_waited_for(error: Exception, passing: bool) -> None:
    assert (is_passing(error), was_refused(error)) == (passing, passing)
