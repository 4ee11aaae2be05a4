"""The model's process: what ends it, what that costs, and what follows."""

from __future__ import annotations

import os
import re
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from components.earthengine.contract import FILE_NAME, ModelContract, PayloadFormat
from components.earthengine.errors import ModelError
from components.earthengine.payloads import codec
from components.earthengine.payloads.messages_pb2 import DataType, PredictRequest
from containers.serving import worker_process
from containers.serving.channel import LARGEST_MESSAGE
from containers.serving.kept_model import KeptModel
from containers.serving.worker_process import WorkerProcess
from tests.serving.conftest import PREDICT, Server, Start
from tests.serving.contracts import contract_text
from tests.serving.sleeping_worker import CRASH

RESTARTS = "serving_worker_restarts_total"


@pytest.fixture
def server(start: Start) -> Server:
    server = start(module="tests.serving.sleeper")
    server.wait_for("ready")
    return server


def body_of(contract: ModelContract, first: float, payload_format: PayloadFormat = "SERIALIZED_TF_TENSORS") -> bytes:
    return codec(payload_format).encode_request(contract, np.full((1, 2, 1, 1), first, np.float32))


def until(condition: object, seconds: float = 30) -> None:
    """Wait until a function says yes."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def runs(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(process: int) -> None:
    """Kill it, and wait for its end: as long as it runs it may still take a request."""
    os.kill(process, signal.SIGKILL)
    until(lambda: not runs(process))


def test_a_killed_worker_takes_its_own_request_with_it(server: Server, one: ModelContract) -> None:
    answers: dict[int, httpx.Response] = {}

    def post(number: int, seconds: float) -> None:
        answers[number] = server.post(body_of(one, seconds))

    threads = [threading.Thread(target=post, args=(number, 20 if number == 0 else 0.01)) for number in range(6)]
    with server.channel() as channel, httpx.Client() as connected:
        assert connected.get(server.url + "/health").status_code == 200
        threads[0].start()
        until(lambda: server.metrics["serving_waiting_requests"] == 1)
        for thread in threads[1:]:
            thread.start()
        until(lambda: server.metrics["serving_waiting_requests"] == len(threads))
        call = channel.unary_unary(PREDICT, None, None).future(body_of(one, 0.01, "GRPC_TF_TENSORS"), timeout=30)
        first = server.worker
        os.kill(first, signal.SIGKILL)
        # The port and its connections know nothing of it, and others are let in.
        assert connected.get(server.url + "/health").status_code == 200
        assert server.call(b"", "/grpc.health.v1.Health/Check") == b"\x08\x01"
        assert server.post(body_of(one, 0.01)).status_code == 200
        assert call.result()
        for thread in threads:
            thread.join(30)
    assert [answers[number].status_code for number in range(6)] == [500, 200, 200, 200, 200, 200]
    told = answers[0].json()["error"]
    assert told.startswith("the model's process was ended by SIGKILL, as the kernel does where memory runs out, while")
    assert "tiles of shape (1, 2, 1, 1); another one is started" in told
    assert server.worker not in (0, first)
    assert server.metrics[RESTARTS] == 1
    severities = [entry["severity"] for entry in server.entries if f"process {first} was ended by" in entry["message"]]
    assert severities == ["ERROR"]


def test_a_crash_is_told_by_its_signal(server: Server, one: ModelContract) -> None:
    answer = server.post(body_of(one, CRASH))
    assert answer.status_code == 500
    assert answer.json()["error"].startswith("the model's process was ended by SIGSEGV while it worked on tiles of")
    assert server.post(body_of(one, 0)).status_code == 200
    with pytest.raises(grpc.RpcError) as caught:
        server.call(body_of(one, CRASH, "GRPC_TF_TENSORS"))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "was ended by SIGSEGV" in (caught.value.details() or "")
    assert server.call(body_of(one, 0, "GRPC_TF_TENSORS"))
    assert server.metrics[RESTARTS] == 2


def test_a_worker_that_is_killed_while_it_has_no_request_costs_none(server: Server, one: ModelContract) -> None:
    for count in range(1, 4):
        kill(server.worker)
        assert server.post(body_of(one, 0)).status_code == 200
        assert server.metrics[RESTARTS] == count


def test_a_request_that_a_dead_worker_had_not_taken_goes_to_the_next() -> None:
    replaced: list[int] = []
    model = KeptModel("tests.serving.sleeping_worker", lambda: replaced.append(model.pid), lambda _: None)
    model.load(Path("sleeper"))
    tiles = np.full((1, 2, 1, 1), 1000, np.float32)
    try:
        for count in range(1, 4):
            stopped = model.pid
            os.kill(stopped, signal.SIGSTOP)
            until(lambda: ") T " in Path(f"/proc/{stopped}/stat").read_text())  # noqa: B023
            killing = threading.Timer(0.2, os.kill, (stopped, signal.SIGKILL))
            killing.start()
            answer = model.predict(tiles)["total"]
            assert len(replaced) == count
            # The next answer lies elsewhere.
            model.predict(tiles + 1)
            np.testing.assert_array_equal(answer, tiles.sum(1))
    finally:
        model.end()
    assert not runs(replaced[-1])


@pytest.fixture
def kept() -> Iterator[KeptModel]:
    """A sleeper without a server around it."""
    model = KeptModel("tests.serving.sleeping_worker", lambda: None, lambda _: None)
    yield model
    model.end()


@contextmanager
def files_of_at_most(size: int, process: int) -> Iterator[None]:
    """As where memory is used up: a process cannot make a file larger."""
    soft, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (size, hard))
    yield
    with suppress(ProcessLookupError):
        resource.prlimit(process, resource.RLIMIT_FSIZE, (soft, hard))


LARGE = np.full((1, 2, 1000, 1000), 1000, np.float32)
SMALL = LARGE[:, :, :1, :1]


def test_a_request_that_finds_no_memory_fails_alone(kept: KeptModel) -> None:
    first = kept.load(Path("sleeper")).pid
    with files_of_at_most(4 << 20, os.getpid()), pytest.raises(ModelError, match=r"File too large.* is started"):
        kept.predict(LARGE)
    assert kept.predict(SMALL)["total"] == 2000
    assert kept.pid != first
    assert kept.predict(LARGE)["total"].shape == (1, 1000, 1000)


def test_an_answer_that_finds_no_memory_is_no_orderly_end(kept: KeptModel) -> None:
    worker = kept.load(Path("sleeper")).pid
    with files_of_at_most(1 << 20, worker), pytest.raises(ModelError, match=r"ended with exit status 1 while"):
        kept.predict(LARGE)
    assert kept.predict(SMALL)["total"] == 2000


def test_a_worker_that_hangs_is_replaced(kept: KeptModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept.load(Path("sleeper")).pid
    monkeypatch.setattr(worker_process, "ANSWER_S", 0.3)
    with pytest.raises(ModelError, match=r"gave no answer in 0.3 s for tiles of shape \(1, 2, 1, 1\), and is ended"):
        kept.predict(np.full((1, 2, 1, 1), 600, np.float32))
    assert not runs(first)
    monkeypatch.undo()
    assert kept.predict(SMALL)["total"] == 2000


def test_a_contract_longer_than_a_message(kept: KeptModel, tmp_path: Path) -> None:
    bands = ", ".join(f"{{name: {'a' * 90}{number}}}" for number in range(1500))
    text = re.sub(r"bands: .*", f"bands: [{bands}]", contract_text("pytorch"))
    (tmp_path / FILE_NAME).write_text(text)
    assert len(kept.load(tmp_path).contract.dump()) > LARGEST_MESSAGE
    assert kept.contract == ModelContract.parse(text)


def test_what_nobody_foresaw_ends_the_load(kept: KeptModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: WorkerProcess) -> None:
        raise ValueError("a cut message")

    monkeypatch.setattr(WorkerProcess, "wait_until_ready", fail)
    with pytest.raises(ModelError, match=r"process cannot be used \(ValueError: a cut message\)"):
        kept.load(Path("sleeper"))


def test_a_model_that_only_crashes_ends_the_server(server: Server, one: ModelContract) -> None:
    assert server.post(body_of(one, 0)).status_code == 200
    # The first one had answered.
    for _ in range(5):
        answer = server.post(body_of(one, CRASH))
        assert answer.status_code == 500, answer.text
    status, log = server.end()
    assert status == 1
    said = "serving: error: 4 processes of the model in a row answered nothing; the last: the model's process"
    assert re.search(rf"(?m)^{said} \d+ was ended by SIGSEGV$", log), log
    assert "Traceback" not in log


def served(start: Start, folder: Path) -> Server:
    """The sleeper with the contract of a folder."""
    (folder / FILE_NAME).write_text(contract_text("pytorch"))
    server = start("--model", str(folder), module="tests.serving.sleeper")
    server.wait_for("ready")
    return server


def test_who_waits_when_no_worker_can_be_had_is_told(start: Start, tmp_path: Path, one: ModelContract) -> None:
    server = served(start, tmp_path)
    (tmp_path / FILE_NAME).unlink()
    kill(server.worker)
    answer = server.post(body_of(one, 0))
    why = f"4 processes of the model in a row answered nothing; the last: {tmp_path / FILE_NAME} does not exist"
    assert answer.status_code == 503
    assert answer.json()["error"].startswith(f"the server ends: {why}")
    status, log = server.end()
    assert status == 1
    assert f"serving: error: {why}" in log


def test_another_model_does_not_take_its_place(start: Start, tmp_path: Path) -> None:
    server = served(start, tmp_path)
    (tmp_path / FILE_NAME).write_text(contract_text("pytorch").replace("green", "blue"))
    os.kill(server.worker, signal.SIGKILL)
    status, log = server.end()
    assert status == 1
    assert f"{tmp_path} was changed after the server had loaded it; start the server again" in log


def test_a_crash_while_it_loads_is_told(start: Start, tmp_path: Path) -> None:
    server = start(module="tests.serving.sleeper", SLEEPER_LOADS_S="30")
    until(lambda: server.worker)
    os.kill(server.worker, signal.SIGFPE)
    status, log = server.end()
    assert status == 1
    assert log.splitlines()[-1] == ("serving: error: the model's process was ended by SIGFPE while it loaded the model")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0, 30])
def test_it_does_not_outlive_the_server(
    start: Start, one: ModelContract, number: signal.Signals, seconds: float
) -> None:
    server = start(module="tests.serving.sleeper")
    server.wait_for("ready")
    worker = server.worker

    def post() -> None:
        with pytest.raises(httpx.TransportError):
            server.post(body_of(one, seconds))

    thread = threading.Thread(target=post)
    if seconds:
        thread.start()
        time.sleep(0.3)
        # The second one does not wait for what is in flight.
        server.process.send_signal(number)
        time.sleep(0.3)
    server.process.send_signal(number)
    server.end()
    until(lambda: not runs(worker), 5)
    if seconds:
        thread.join(10)


def test_it_does_not_heed_a_signal_that_is_for_the_server(server: Server, one: ModelContract) -> None:
    first = server.worker
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(first, number)
    assert server.post(body_of(one, 0.1)).status_code == 200
    assert server.worker == first


def test_the_kernel_would_choose_it(server: Server) -> None:
    assert Path(f"/proc/{server.worker}/oom_score_adj").read_text() == "1000\n"
    assert Path(f"/proc/{server.process.pid}/oom_score_adj").read_text() != "1000\n"


def test_no_descriptor_is_left_of_a_worker(server: Server, one: ModelContract) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))

    assert server.post(body_of(one, 0)).status_code == 200
    before = descriptors()
    for _ in range(3):
        kill(server.worker)
        assert server.post(body_of(one, 0)).status_code == 200
    until(lambda: descriptors() <= before, 10)


def test_what_one_large_request_takes_is_given_back(server: Server, one: ModelContract) -> None:
    side = 2500
    # A few bytes that ask for 50 MB: TensorProto repeats one value.
    large = PredictRequest()
    for name in ("red", "green"):
        large.inputs[name].dtype = DataType.DT_FLOAT
        large.inputs[name].float_val.append(1000.0)
        for size in (1, side, side, 1):
            large.inputs[name].tensor_shape.dim.add(size=size)

    def shared() -> int:
        found = re.search(r"RssShmem:\s+(\d+) kB", Path(f"/proc/{server.worker}/status").read_text())
        assert found
        return int(found[1]) << 10

    # The answer is larger than what is sent.
    with pytest.raises(grpc.RpcError, match="ask for fewer"):
        server.call(large.SerializeToString())
    assert shared() > 2 * side * side * 4
    assert server.post(body_of(one, 0)).status_code == 200
    assert shared() < 32 << 20
