"""A stop finishes what is in flight, of both transports."""

from __future__ import annotations

import signal
import threading
import time

import grpc
import httpx
import numpy as np
import pytest

from components.earthengine.contract import ModelContract
from components.earthengine.payloads import codec
from tests.serving.conftest import PREDICT, Server, Start


@pytest.fixture
def server(start: Start) -> Server:
    server = start(module="tests.serving.sleeper")
    server.wait_for("ready")
    return server


def tiles(seconds: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.full((1, 2, 1, 1), seconds, np.float32)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_flight_is_answered(server: Server, one: ModelContract, number: signal.Signals) -> None:
    over_http, over_grpc = codec("SERIALIZED_TF_TENSORS"), codec("GRPC_TF_TENSORS")
    answers: list[httpx.Response] = []

    def post(seconds: float) -> None:
        answers.append(server.post(over_http.encode_request(one, tiles(seconds))))

    url = server.url
    with server.channel() as channel, httpx.Client() as idle:
        assert idle.get(url + "/health").status_code == 200
        posts = [threading.Thread(target=post, args=(seconds,)) for seconds in (1.2, 0.1, 0.1)]
        for each in posts:
            each.start()
            time.sleep(0.1)
        predict = channel.unary_unary(PREDICT, None, None)
        calls = [predict.future(over_grpc.encode_request(one, tiles(0.1)), timeout=30) for _ in range(3)]
        time.sleep(0.3)
        server.process.send_signal(number)
        # The signal is seen within a tenth of a second; then nobody new is let in.
        time.sleep(0.4)
        with pytest.raises(httpx.TransportError):
            httpx.get(url + "/health")
        with pytest.raises(grpc.RpcError):
            server.call(over_grpc.encode_request(one, tiles(0)))
        for each in posts:
            each.join(30)
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        for call in calls:
            total = over_grpc.decode_response(one, call.result())["total"]
            np.testing.assert_array_equal(total, np.full((1, 1, 1), 0.2, np.float32))
    status, log = server.end()
    assert status == 0, log
    assert "Traceback" not in log


def test_health_says_so_before_the_port_closes(server: Server, one: ModelContract) -> None:
    seen: list[int] = []
    with httpx.Client() as client:
        assert client.get(server.url + "/health").status_code == 200
        server.process.terminate()
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                seen.append(client.get(server.url + "/health").status_code)
            except httpx.TransportError:
                break
    assert seen[-1:] == [503], seen
    assert server.end()[0] == 0


def test_a_second_signal_ends_it(server: Server, one: ModelContract) -> None:
    body = codec("SERIALIZED_TF_TENSORS").encode_request(one, tiles(30))
    with httpx.Client() as client:

        def post() -> None:
            with pytest.raises(httpx.TransportError):
                client.post(server.url + "/predict", content=body, timeout=30)

        thread = threading.Thread(target=post)
        thread.start()
        time.sleep(0.3)
        server.process.terminate()
        time.sleep(0.5)
        assert server.process.poll() is None
        begin = time.monotonic()
        server.process.terminate()
        assert server.end()[0] == 128 + signal.SIGTERM
        assert time.monotonic() - begin < 2
        thread.join(10)


def test_what_takes_too_long_is_told(server: Server, one: ModelContract) -> None:
    answers: list[httpx.Response] = []
    body = codec("SERIALIZED_TF_TENSORS").encode_request(one, tiles(60))
    thread = threading.Thread(target=lambda: answers.append(server.post(body)))
    thread.start()
    time.sleep(0.3)
    begin = time.monotonic()
    server.process.terminate()
    status, log = server.end()
    assert status == 0, log
    # Before docker would kill it.
    assert time.monotonic() - begin < 10
    thread.join(10)
    assert answers[0].status_code == 503
    assert "the server stops" in answers[0].json()["error"]
