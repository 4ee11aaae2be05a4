"""Calls that fail for ever, hang, or are refused for good, and operations that never end: what is said, and when."""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path

import pytest

from components import calls, deadline, local, operations, storage, vertex
from components.calls import Again, is_passing_prediction
from components.deadline import within
from components.earthengine.errors import PipelineError, VertexError
from components.endpoint import find_or_create_endpoint
from components.traffic import create_endpoint, read_endpoint, undeploy
from components.upload import upload_model
from components.versions import label_version, list_versions
from components.vertex import EMULATOR, Vertex
from tests.conftest import answering
from tests.faults.proxy import Call, Cut, Fault, Hold, Reset, Status, no_fault
from tests.faults.walks import World, walk, world
from tests.road import conftest as road
from tests.road.runs import PYTORCH_IMAGE, Run, deployed, traffic, trials, variant

pytestmark = pytest.mark.slow
small = road.small
STAGING = f"gs://{local.BUCKET}/staging"
GIVEN_UP = r"could not .*: \d+ attempts in [\d.]+ s \(step {} has 1 s\), the last: (UNAVAILABLE|503): "


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("given-up")) as found:
        yield found


def matching(pattern: str, fault: Fault) -> Callable[[Call], Fault | None]:
    return lambda call: fault if re.search(pattern, f"{call.method} {call.path}") else None


def asked(here: World, pattern: str) -> int:
    """How many calls of a kind came."""
    return sum(bool(re.search(pattern, f"{call.method} {call.path}")) for each in here.proxies for call in each.calls)


def test_a_step_whose_call_fails_for_ever_ends_at_its_deadline_and_changes_no_traffic(
    here: World, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.breaking(no_fault)
    walk(here, small, "ends", 1, tmp_path)
    archive, cloud = variant(small, tmp_path / "second", name="ends"), Vertex(local.PROJECT, local.LOCATION)
    endpoint = f"{cloud.parent}/endpoints/ends"
    before, there = traffic(here.vertex, endpoint), deployed(here.vertex, endpoint)
    made = [each.version_id for each in list_versions(here.vertex, "ends")]
    run = Run("ends-2", endpoint, f"{cloud.parent}/models/ends@2", str(archive), keep_previous=0, keep_versions=0)
    walked: list[tuple[str, Callable[[], object], list[str]]] = [
        (
            "upload",
            lambda: upload_model(cloud, archive, PYTORCH_IMAGE, STAGING),
            ["GET .*:listVersions", "GET .*/o\\?", "POST /upload"],
        ),
        ("create_endpoint", lambda: find_or_create_endpoint(cloud, "ends"), ["GET .*/endpoints/ends"]),
        ("deploy", run.deploy, ["GET .*deployment.json", "GET .*/endpoints/ends", "GET .*/operations/"]),
        ("verify", run.verify, ["GET .*deployment.json", "PATCH .*/models/"]),
        ("release", run.release, ["PATCH .*/endpoints/ends", "POST /upload.*"]),
    ]
    for step, walk_it, patterns in walked:
        monkeypatch.setitem(deadline.SECONDS, step, 1)
        for pattern in patterns:
            here.breaking(matching(pattern, Status(503)))
            with pytest.raises(PipelineError, match=GIVEN_UP.format(step)) as caught, within(step):
                walk_it()
            assert asked(here, pattern) > 3, (step, pattern)
            assert re.search("could not [a-z ]* (gs://|projects/|model )?[^:]*(ends|trial-)", str(caught.value))
            assert "; see whether the service can be reached, and run again" in str(caught.value)
            assert traffic(here.vertex, endpoint) == before, (step, pattern)
            assert deployed(here.vertex, endpoint) >= there, (step, pattern)
            if step == "upload":
                assert [each.version_id for each in list_versions(here.vertex, "ends")] == made
        here.breaking(no_fault)
        walk_it()
    monkeypatch.setitem(deadline.SECONDS, "conclude", 1)
    monkeypatch.setattr(deadline, "_RESERVED_SECONDS", 0)
    here.breaking(matching("GET .*/endpoints/ends", Status(503)))
    with pytest.raises(VertexError, match=GIVEN_UP.format("conclude")), within("conclude"):
        run.conclude()
    here.breaking(no_fault)
    assert run.conclude().released
    assert trials(here.vertex, endpoint) == []


@pytest.mark.parametrize("fault", [Status(500), Status(503), Reset()])
def test_what_may_have_been_done_is_looked_for_before_it_is_sent_again(
    here: World, small: Path, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"looked-{type(fault).__name__.lower()}-{getattr(fault, 'code', 0)}"
    archive = variant(small, tmp_path / "model", name=name)
    monkeypatch.setattr(operations, "_ATTEMPTS", 3)
    here.breaking(matching("POST .*models:upload", fault))
    with pytest.raises(VertexError, match=f"could not upload model {name}: 3 attempts in .*(broken|reset)"):
        upload_model(Vertex(local.PROJECT, local.LOCATION), archive, PYTORCH_IMAGE, STAGING)
    sent = [f"{call.method} {call.path.partition('?')[0].rpartition('/')[2]}" for call in here.proxies[0].calls]
    looked = ["GET operations", f"GET {name}:listVersions"]
    each = ["POST models:upload", *looked * len(operations._PAUSES)]
    assert sent == [*looked, *each * 3]
    assert list_versions(here.vertex, name) == []


@pytest.mark.parametrize("fault", [Status(500, "after"), Status(503, "after"), Reset("after"), Cut()])
def test_what_was_done_though_its_answer_was_lost_is_not_sent_again(
    here: World, small: Path, tmp_path: Path, fault: Fault
) -> None:
    name = f"lost-{type(fault).__name__.lower()}-{getattr(fault, 'code', 0)}"
    archive = variant(small, tmp_path / "model", name=name)
    here.breaking(matching("POST .*models:upload", fault))
    made = upload_model(Vertex(local.PROJECT, local.LOCATION), archive, PYTORCH_IMAGE, STAGING)
    assert (made.created, made.name.split("@")[-1]) == (True, "1")
    assert asked(here, "POST .*models:upload") == 1
    assert [each.version_id for each in list_versions(here.vertex, name)] == ["1"]


def test_what_is_refused_for_a_quota_was_not_done_and_is_sent_again_at_once(
    here: World, small: Path, tmp_path: Path
) -> None:
    archive = variant(small, tmp_path / "model", name="quota")
    left = [Status(429)] * 3
    here.breaking(lambda call: left.pop() if "models:upload" in call.path and left else None)
    assert upload_model(Vertex(local.PROJECT, local.LOCATION), archive, PYTORCH_IMAGE, STAGING).created
    assert asked(here, "POST .*models:upload") == 4
    assert asked(here, "GET .*/operations$") == 1, "what a killed step began"
    assert len(list_versions(here.vertex, "quota")) == 1


def test_what_is_not_connected_is_not_done(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EMULATOR, "127.0.0.1:9")
    monkeypatch.setitem(deadline.SECONDS, "upload", 0.5)
    cloud = Vertex("there", "europe-west4")
    wanted = r"could not create endpoint .*: ([2-9]|\d\d+) attempts in"
    with pytest.raises(VertexError, match=wanted), within("upload"):
        create_endpoint(cloud, f"{cloud.parent}/endpoints/far", {"display_name": "far"})


@pytest.mark.parametrize("code", [400, 403, 404, 409, 412])
def test_what_is_refused_for_good_is_not_repeated(here: World, code: int) -> None:
    here.breaking(lambda _: Status(code))
    cloud = Vertex(local.PROJECT, local.LOCATION)
    model = f"{cloud.parent}/models/refused@1"
    refused: list[Callable[[], object]] = [
        lambda: read_endpoint(cloud, f"{cloud.parent}/endpoints/refused"),
        lambda: label_version(cloud, model, {"verified": "no"}),
        lambda: storage.count_files(f"{STAGING}/refused"),
        lambda: cloud.predict(f"{cloud.parent}/endpoints/refused", b"{}"),
    ]
    for each in refused:
        here.breaking(lambda _: Status(code))
        with pytest.raises(PipelineError, match=r"broken on purpose|the bucket .* does not exist"):
            each()
        assert sum(len(proxy.calls) for proxy in here.proxies) == 1, each


def test_a_call_that_hangs_is_sent_again(
    here: World, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "ATTEMPT_SECONDS", 1)
    archive = variant(small, tmp_path / "model", name="hangs")
    waits = {"GET .*:listVersions": Hold(), "POST .*models:upload": Hold("after"), "GET .*/operations/": Hold()}

    def policy(call: Call) -> Fault | None:
        met = next((each for each in waits if re.search(each, f"{call.method} {call.path}")), None)
        return waits.pop(met) if met else None

    here.breaking(policy)
    assert upload_model(Vertex(local.PROJECT, local.LOCATION), archive, PYTORCH_IMAGE, STAGING).created
    here.breaking(no_fault)
    assert [each.version_id for each in list_versions(here.vertex, "hangs")] == ["1"]


def test_pauses_grow_and_are_drawn_by_chance(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(calls, "LONGEST_PAUSE", 0.32)
    monkeypatch.setitem(deadline.SECONDS, "gate", 4)
    cloud = Vertex(local.PROJECT, local.LOCATION)
    gaps: list[list[float]] = []
    for _ in range(12):
        moments: list[float] = []

        def policy(_: Call, moments: list[float] = moments) -> Fault | None:
            moments.append(time.monotonic())
            return Status(503) if len(moments) < 6 else Status(404)

        here.breaking(policy)
        with pytest.raises(VertexError, match="broken on purpose"), within("gate"):
            read_endpoint(cloud, f"{cloud.parent}/endpoints/paused")
        gaps.append([after - before for before, after in pairwise(moments)])
    columns = list(zip(*gaps, strict=True))
    assert len(columns) == 5
    assert statistics.mean(columns[4]) > statistics.mean(columns[0])
    assert max(columns[4]) - min(columns[4]) > 0.1, "jitter"


def test_a_prediction_that_fails_for_ever_is_what_a_verification_tells(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vertex, "_PREDICT_AGAIN", Again(is_passing_prediction, 0.3))
    here.breaking(lambda _: Status(500))
    cloud = Vertex(local.PROJECT, local.LOCATION)
    wanted = (
        r"http://.*/endpoints/mute:predict answers 500 to a golden tile after \d+ attempts in .* s: .*broken on purpose"
    )
    with pytest.raises(VertexError, match=wanted):
        cloud.predict(f"{cloud.parent}/endpoints/mute", b"{}")


@dataclass
class Endless:
    """A Vertex AI whose operations never end."""

    address: str = ""
    calls: list[str] = field(default_factory=list)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endless]:
    there = Endless()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            there.calls.append(f"{self.command} {self.path.partition('?')[0]}")
            kind = "type.googleapis.com/google.cloud.aiplatform.v1.UndeployModelOperationMetadata"
            times = {"createTime": "2026-01-02T03:04:05Z", "updateTime": "2026-01-02T03:05:00Z"}
            body = json.dumps(
                {
                    "name": "projects/p/locations/r/endpoints/e/operations/77",
                    "metadata": {"@type": kind, "genericMetadata": times},
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as port:
        monkeypatch.setenv(EMULATOR, f"127.0.0.1:{port}")
        yield there


def test_an_operation_that_never_ends_is_given_up_at_the_deadline(
    endless: Endless, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(deadline.SECONDS, "conclude", 1)
    cloud, name = Vertex("p", "r"), "projects/p/locations/r/endpoints/e/operations/77"
    said = (
        rf"{name} has not ended after [\d.]+ s \(step conclude has 1 s\): pending since 2026-01-02 03:04:05.*, last "
        rf"changed 2026-01-02 03:05:00.*\. It goes on: look at it with GET v1/{name}, give it up with POST "
        rf"v1/{name}:cancel, and run again when it has ended"
    )
    with pytest.raises(VertexError, match=f"could not undeploy 5 from .*/endpoints/e: {said}"), within("conclude"):
        undeploy(cloud, "projects/p/locations/r/endpoints/e", "5")
    looks = len(endless.calls)
    assert 3 < looks < 12, "ever less often"
    with pytest.raises(VertexError, match=said), within("conclude"):
        operations.wait_until_ended(cloud, [name], 60)
    with pytest.raises(VertexError, match=r"operations/77 has not ended after [\d.]+ s: pending"):
        operations.wait_until_ended(cloud, [name], 0.3)


def test_past_its_deadline_a_step_begins_no_call(endless: Endless, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(deadline.SECONDS, "release", 0)
    wanted = r"could not look up endpoint .*: step release has 0 s, which are used up; "
    with pytest.raises(VertexError, match=wanted), within("release"):
        read_endpoint(Vertex("p", "r"), "projects/p/locations/r/endpoints/e")
    assert endless.calls == []
