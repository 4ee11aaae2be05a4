"""Verifications against an endpoint on a socket that answers, and says who answered, as it is told to."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from components import calls, verify
from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import VertexError
from components.earthengine.payloads import codec, messages_pb2
from components.golden import Golden
from components.verification import Verification
from components.verify import verify_endpoint
from components.vertex import EMULATOR, Vertex
from tests.conftest import answering, contract_of

VERTEX = Vertex("fields", "europe-west4")
ENDPOINT = f"{VERTEX.parent}/endpoints/crops"
OURS = "42"


@dataclass
class Site:
    """What the endpoint does, and what it was asked."""

    contract: ModelContract
    traffic: dict[str, int] = field(default_factory=lambda: {OURS: 100})
    traffic_later: dict[str, int] | None = None
    label: str = ""
    answered_by: str = OURS
    refusals: list[int] = field(default_factory=list)
    seconds: float = 0
    garbage: bool = False
    looks: int = 0
    predictions: int = 0

    def look(self) -> dict[str, object]:
        time.sleep(self.seconds)
        self.looks += 1
        split = self.traffic_later if self.traffic_later is not None and self.looks > 1 else self.traffic
        return {"name": ENDPOINT, "trafficSplit": split}

    def predict(self, body: bytes) -> bytes:
        if self.garbage:
            return json.dumps({"predictions": [1], "deployedModelId": self.answered_by}).encode()
        form = codec(self.contract.payload_format)
        answer = form.encode_response(self.contract, {"total": form.decode_request(self.contract, body).sum(1)})
        return b'{"deployedModelId":"%b",%b' % (self.answered_by.encode(), answer[1:])

    def direct(self, body: bytes) -> bytes:
        form = codec(self.contract.payload_format)
        given = base64.b64decode(json.loads(body)["input"])
        answer = messages_pb2.PredictResponse.FromString(
            form.encode_response(self.contract, {"total": form.decode_request(self.contract, given).sum(1)})
        )
        answer.model_spec.version_label = self.label
        output = b"\xff" if self.garbage else answer.SerializeToString()
        return json.dumps({"output": base64.b64encode(output).decode()}).encode()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    here = Site(contract_of())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(200, json.dumps(here.look()).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            here.predictions += 1
            if here.refusals:
                self.answer(here.refusals.pop(), b'{"error": {"message": "busy"}}')
                return
            self.answer(200, here.predict(body) if self.path.endswith(":predict") else here.direct(body))

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as port:
        monkeypatch.setenv(EMULATOR, f"127.0.0.1:{port}")
        yield here


def verified(site: Site, folder: Path) -> Verification:
    tiles = np.random.default_rng(0).random((3, 2, 16, 16), np.float32)
    Golden(tiles, {"total": tiles.sum(1)}, None).save(folder)
    (folder / FILE_NAME).write_text(site.contract.dump())
    return verify_endpoint(
        Vertex("fields", "europe-west4"), ENDPOINT, OURS, 100, ModelContract.read(folder), Golden.load(folder), 20
    )[0]


def test_good_answers(site: Site, tmp_path: Path) -> None:
    found = verified(site, tmp_path)
    assert (found.fault, found.conclusive, found.tiles) == ("", True, 3)
    assert found.requests == site.predictions
    assert found.metrics().keys() > {"passed", "requests", "largest_difference", "p50_milliseconds"}


def test_only_what_a_model_answered_is_held_against_it(site: Site, tmp_path: Path) -> None:
    site.garbage = True
    found = verified(site, tmp_path)
    assert found.fault
    assert found.conclusive
    site.garbage, site.refusals = False, [400]
    found = verified(site, tmp_path)
    assert "answers 400 to a golden tile" in found.fault
    assert not found.conclusive
    assert found.metrics() == {"passed": 0, "requests": 0}
    site.answered_by, site.traffic = "17", {"17": 100}
    found = verified(site, tmp_path)
    assert "has no traffic of" in found.fault
    assert not found.conclusive
    assert Verification.parse(found.dump()) == found


def test_nobody_answers(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "ATTEMPTS", 5)
    site.answered_by = "17"
    found = verified(site, tmp_path)
    assert f"deployed model {OURS} answered none of 5 requests" in found.fault
    assert not found.conclusive


def grpc(site: Site) -> Site:
    site.contract = contract_of(payload_format="GRPC_TF_TENSORS")
    return site


@pytest.mark.parametrize("label", ["", OURS])
def test_looking_at_the_endpoint_takes_no_prediction_s_time(site: Site, tmp_path: Path, label: str) -> None:
    grpc(site).label, site.seconds = label, 2
    found = verified(site, tmp_path)
    assert found.fault == ""
    assert found.p99_ms < 1000 * site.seconds
    assert site.looks == (1 if label else 2)


@pytest.mark.parametrize(
    ("traffic", "later", "said"),
    [
        ({OURS: 50, "17": 50}, None, "splits its traffic over 17, 42, and the server's gRPC answers do not say which"),
        ({}, None, r"no deployed model has traffic of projects/.*/crops; run again"),
        ({OURS: 100}, {"17": 100}, "went to 42 and goes to 17 now: another run or a person changed it meanwhile"),
        ({OURS: 100}, {}, "went to 42 and goes to none now"),
    ],
)
def test_unnamed_grpc_answers_where_not_one_model_has_all_traffic(
    site: Site, tmp_path: Path, traffic: dict[str, int], later: dict[str, int] | None, said: str
) -> None:
    grpc(site).traffic, site.traffic_later = traffic, later
    found = verified(site, tmp_path)
    assert re.search(said, found.fault)
    assert not found.conclusive


def test_what_is_no_grpc_answer(site: Site, tmp_path: Path) -> None:
    grpc(site).garbage = True
    found = verified(site, tmp_path)
    assert "the answer is no PredictResponse" in found.fault
    assert found.conclusive


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_busy_endpoint_is_asked_again(site: Site, tmp_path: Path, transport: str, status: int) -> None:
    if transport == "grpc":
        grpc(site).label = OURS
    site.refusals = [status]
    found = verified(site, tmp_path)
    assert found.fault == ""
    assert site.predictions == found.requests + 1


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "ATTEMPT_SECONDS", 0.3)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_model_that_does_not_answer_in_time_is_not_asked_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    silent = threading.Event()
    monkeypatch.setattr(site, "predict", lambda _: (silent.wait(5), b"")[1])
    monkeypatch.setattr(site, "direct", site.predict)
    begin = time.monotonic()
    vertex = Vertex("fields", "europe-west4")
    asked: Callable[[bytes], object] = partial(vertex.predict, ENDPOINT)
    if transport == "grpc":
        asked = partial(vertex.direct_raw_predict, ENDPOINT, "/a/b")
    with pytest.raises(VertexError, match=r"has not answered within 60 s, which is a shared .* or choose a faster ma"):
        asked(b"{}")
    assert time.monotonic() - begin < 3
    assert site.predictions == 1
    silent.set()
