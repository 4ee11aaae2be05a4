"""What is too large or too much is refused at once, and nothing else is hurt."""

from __future__ import annotations

import asyncio
import http.client
import socket
import time
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import pytest

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.payloads import codec
from containers.serving.admission import Admission
from containers.serving.limits import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, MAX_WAITING, MAX_WAITING_BYTES
from containers.serving.outcomes import BusyError
from tests.serving.conftest import PREDICT, Server

HUGE = 100 << 20


def body_of(contract: ModelContract, seconds: float, payload_format: PayloadFormat = "SERIALIZED_TF_TENSORS") -> bytes:
    """A request that the model works on for so long."""
    return codec(payload_format).encode_request(contract, np.full((1, 2, 1, 1), seconds, np.float32))


def pieces() -> Iterator[bytes]:
    piece = bytes(1 << 16)
    for _ in range(HUGE // len(piece)):
        yield piece


def test_a_huge_body_is_refused_and_never_held(sleeper: Server) -> None:
    before = sleeper.resident_bytes
    for content, said in ((bytes(HUGE), f"the body takes {HUGE} bytes"), (pieces(), "bytes or more")):
        answer = httpx.post(sleeper.url + "/predict", content=content, timeout=60)
        assert answer.status_code == 413
        assert said in answer.json()["error"]
        assert f"at most {MAX_REQUEST_BYTES}" in answer.json()["error"]
    assert sleeper.resident_bytes - before < HUGE / 2


@pytest.mark.parametrize("sent", [1000, 500])
def test_who_is_refused_keeps_the_connection_where_all_was_sent(sleeper: Server, sent: int) -> None:
    with socket.create_connection(("127.0.0.1", sleeper.ports[0]), 10) as connection:
        connection.sendall(b"POST /none HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n" + bytes(sent))
        refusal = http.client.HTTPResponse(connection)
        refusal.begin()
        assert (refusal.status, "/none" in refusal.read().decode()) == (404, True)
        assert refusal.getheader("Connection") == (None if sent == 1000 else "close")
        if sent == 1000:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            health = http.client.HTTPResponse(connection)
            health.begin()
            assert health.status == 200


@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}])
def test_who_is_still_sending_gets_the_answer(sleeper: Server, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", sleeper.ports[0], timeout=60)
    connection.request("POST", "/predict", bytes(HUGE), headers)
    answer = connection.getresponse()
    assert answer.status == 413
    assert b"at most" in answer.read()
    connection.close()


def test_who_asks_first_need_not_send(sleeper: Server) -> None:
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {HUGE}\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", sleeper.ports[0]), 10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_the_largest_body_is_read(sleeper: Server) -> None:
    answer = sleeper.post(b" " * MAX_REQUEST_BYTES)
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["error"]


def test_a_huge_message_is_refused(sleeper: Server) -> None:
    before = sleeper.resident_bytes
    with pytest.raises(grpc.RpcError) as caught:
        sleeper.call(bytes(HUGE))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MAX_REQUEST_BYTES) in (caught.value.details() or "")
    assert sleeper.resident_bytes - before < HUGE / 2


def test_a_huge_answer_is_not_sent(sleeper: Server, one: ModelContract) -> None:
    # TensorProto repeats one value: a few bytes that ask for 16 MiB and a header.
    from components.earthengine.payloads.messages_pb2 import DataType, PredictRequest

    request = PredictRequest()
    for name in ("red", "green"):
        request.inputs[name].dtype = DataType.DT_FLOAT
        request.inputs[name].float_val.append(1000.0)
        for size in (1, 2048, 2048, 1):
            request.inputs[name].tensor_shape.dim.add(size=size)
    with pytest.raises(grpc.RpcError) as caught:
        sleeper.call(request.SerializeToString())
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"at most {MAX_RESPONSE_BYTES}: ask for fewer" in (caught.value.details() or "")


def test_a_full_server_says_so_at_once(sleeper: Server, one: ModelContract) -> None:
    slow, quick = body_of(one, 2), body_of(one, 0)

    async def send(count: int) -> tuple[list[httpx.Response], list[float], grpc.StatusCode, float]:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60) as client:
            ends: list[float] = []

            async def post(body: bytes) -> httpx.Response:
                answer = await client.post(sleeper.url + "/predict", content=body)
                if answer.status_code == 429:
                    ends.append(time.monotonic())
                return answer

            first = asyncio.create_task(post(slow))
            await asyncio.sleep(0.3)
            begin = time.monotonic()
            others = [asyncio.create_task(post(quick)) for _ in range(count)]
            await asyncio.sleep(0.7)
            # Full for gRPC too; health is not part of it.
            code, health = await asyncio.to_thread(call), await client.get(sleeper.url + "/health")
            assert health.status_code == 200
            assert await asyncio.to_thread(sleeper.call, b"", "/grpc.health.v1.Health/Check") == b"\x08\x01"
            called = time.monotonic() - begin
            return await asyncio.gather(first, *others), [end - begin for end in ends], code, called

    def call() -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as caught:
            sleeper.call(body_of(one, 0, "GRPC_TF_TENSORS"))
        assert isinstance(caught.value, grpc.Call)
        assert "requests of" in (caught.value.details() or "")
        return caught.value.code()

    answers, refusals, code, called = asyncio.run(send(MAX_WAITING + 9))
    statuses = [answer.status_code for answer in answers]
    assert (statuses.count(200), statuses.count(429)) == (MAX_WAITING, 10)
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert "deploy more replicas" in refused.json()["error"]
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    # All before the one that holds up the others was answered.
    assert max(refusals) < 1.5
    assert called < 1.7
    assert sleeper.metrics["serving_waiting_requests"] == 0


def test_admission_counts_bytes_too() -> None:
    admission = Admission()
    with admission.place(MAX_WAITING_BYTES - 10), admission.place(10):
        with pytest.raises(BusyError, match="2 requests of"):
            admission.place(1).__enter__()
        assert (admission.requests, admission.bytes) == (2, MAX_WAITING_BYTES)
    assert (admission.requests, admission.bytes) == (0, 0)


def test_who_has_gone_costs_no_run_of_the_model(sleeper: Server, one: ModelContract) -> None:
    def runs() -> float:
        return sleeper.metrics['serving_phase_seconds_count{phase="model"}']

    before = runs()
    slow = body_of(one, 1)
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(slow)}\r\n\r\n".encode()
    with sleeper.channel() as channel, socket.create_connection(("127.0.0.1", sleeper.ports[0]), 10) as first:
        first.sendall(head + slow)
        time.sleep(0.2)
        gone = [socket.create_connection(("127.0.0.1", sleeper.ports[0]), 10) for _ in range(5)]
        for connection in gone:
            connection.sendall(head + slow)
        calls = [channel.unary_unary(PREDICT, None, None).future(body_of(one, 1, "GRPC_TF_TENSORS")) for _ in range(5)]
        time.sleep(0.3)
        for connection in gone:
            connection.close()
        for call in calls:
            call.cancel()  # type: ignore[no-untyped-call]
        assert first.recv(1000).startswith(b"HTTP/1.1 200 ")
    # A request after them is answered without their seconds.
    begin = time.monotonic()
    assert sleeper.post(body_of(one, 0)).status_code == 200
    assert time.monotonic() - begin < 1
    assert runs() - before == 2


def test_a_body_that_ends_early_holds_nothing(sleeper: Server) -> None:
    with socket.create_connection(("127.0.0.1", sleeper.ports[0]), 10) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        time.sleep(0.2)
        assert sleeper.metrics["serving_waiting_requests"] == 1
    time.sleep(0.2)
    assert sleeper.metrics["serving_waiting_requests"] == 0
