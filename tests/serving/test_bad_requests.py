"""Bad input of every kind: refused with a text that helps, and good requests beside it are answered as ever."""

from __future__ import annotations

import base64
import json
import random
import socket
import threading
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from components.earthengine.contract import ModelContract
from components.earthengine.payloads import codec
from components.earthengine.payloads.messages_pb2 import DataType, PredictRequest, TensorProto
from tests.serving.conftest import PREDICT, Server


def proto(content: bytes = bytes(16), shape: tuple[int, ...] = (2, 2, 1), dtype: int = 1, **more: Any) -> TensorProto:
    made = TensorProto(dtype=dtype, tensor_content=content, **more)  # type: ignore[arg-type]
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


def text(made: TensorProto) -> str:
    return base64.urlsafe_b64encode(made.SerializeToString()).decode()


GOOD = text(proto())


def instances(*found: Any) -> bytes:
    return json.dumps({"instances": found}).encode()


def bands(**found: Any) -> dict[str, Any]:
    return {"red": GOOD, "green": GOOD} | found


# A body, and what its refusal says.
BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "binary": (bytes(range(256)), "not JSON"),
    "cut off": (instances(bands())[:-20], "not JSON"),
    "not UTF-8": (b'{"instances": ["\xff"]}', "not JSON"),
    "NaN": (b'{"instances": [NaN]}', "not JSON"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "not JSON"),
    "another key": (b'{"inputs": []}', 'no key "instances"'),
    "a list": (b"[1]", 'no key "instances"'),
    "no instance": (instances(), "expected a list"),
    "an object for a list": (b'{"instances": {"red": 1}}', "expected a list"),
    "a null": (instances(None), "instance 0"),
    "a missing band": (instances(bands(), {"red": GOOD}), "instance 1: green is missing"),
    "an unknown band": (instances(bands(blue=GOOD)), "instance 0: 'blue' is unknown"),
    "no base64": (instances(bands(green="CA!!")), "instance 0, band green"),
    "no TensorProto": (instances(bands(), bands(red="CAHC")), "instance 1, band red"),
    "strings": (instances(bands(red=text(proto(b"", dtype=7)))), "instance 0, band red"),
    "an unknown type": (instances(bands(red=text(proto(dtype=99)))), "instance 0, band red"),
    "too few values": (instances(bands(red=text(proto(bytes(12))))), "instance 0, band red"),
    "another size": (instances(bands(green=text(proto(bytes(36), (3, 3, 1))))), "instance 0, band green"),
    "two sizes": (instances(bands(), *[bands(red=text(proto(bytes(36), (3, 3, 1))))]), "instance 1, band red"),
    "a negative size": (instances(bands(red=text(proto(shape=(-1, 2, 1))))), "instance 0, band red"),
    "a huge size": (instances(bands(red=text(proto(b"", (1 << 20, 1 << 20, 1))))), "instance 0, band red"),
    "a rank": (instances(bands(red=text(proto(bytes(4), (1,) * 30)))), "instance 0, band red"),
    "infinity": (instances(bands(red=text(proto(np.full(4, np.inf, "<f4").tobytes())))), "instance 0, band red"),
    "a ragged tile": (instances([[[1, 2], [3]], [[1, 2], [3, 4]]]), "instance 0"),
    "a tile of words": (instances([[["a"]], [["b"]]]), "instance 0"),
    "too many bands": (instances([[[1]], [[2]], [[3]]]), "instance 0 has shape [3, 1, 1]; expected [2, height, width]"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_body(sleeper: Server, name: str) -> None:
    body, said = BODIES[name]
    answer = sleeper.post(body)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]
    assert len(answer.json()["error"]) < 1000


def message(**found: TensorProto) -> bytes:
    request = PredictRequest()
    for name, made in found.items():
        request.inputs[name].CopyFrom(made)
    return request.SerializeToString()


FOUR = bytes(16)
WHOLE = proto(FOUR, (1, 2, 2, 1))
MESSAGES: dict[str, tuple[bytes, str]] = {
    "binary": (bytes(range(256)), "no PredictRequest"),
    "cut off": (message(red=WHOLE)[:-3], "no PredictRequest"),
    "empty": (b"", "red is missing"),
    "a missing band": (message(red=WHOLE), "green is missing"),
    "an unknown band": (
        message(**dict.fromkeys(("red", "green", "blue"), WHOLE)),
        "'blue' is unknown",
    ),
    "a scalar": (message(red=proto(bytes(4), ()), green=proto(bytes(4), ())), "band red"),
    "no entry": (message(red=proto(b"", (0, 2, 2, 1)), green=proto(b"", (0, 2, 2, 1))), "band red"),
    "a type": (message(red=proto(FOUR, (1, 2, 2, 1), 99), green=WHOLE), "band red"),
    "values": (message(red=proto(bytes(12), (1, 2, 2, 1)), green=WHOLE), "band red"),
    "two lengths": (message(red=WHOLE, green=proto(bytes(32), (2, 2, 2, 1))), "band green"),
    "a huge size": (message(**dict.fromkeys(("red", "green"), proto(b"", (1 << 30, 1, 1, 1)))), "band red"),
    "bad base64": (
        message(
            red=TensorProto(dtype=DataType.DT_STRING, string_val=[b"CA!!"]),
            green=TensorProto(dtype=DataType.DT_STRING, string_val=[b"CA!!"]),
        ),
        "band red",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_bad_message(sleeper: Server, name: str) -> None:
    body, said = MESSAGES[name]
    with pytest.raises(grpc.RpcError) as caught:
        sleeper.call(body)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert said in (caught.value.details() or "")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"PUT /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", 405),
        (b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", 405),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404),
        (b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 400),
    ],
)
def test_broken_http(sleeper: Server, sent: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", sleeper.ports[0]), 10) as connection:
        connection.sendall(sent)
        assert connection.recv(1000).startswith(b"HTTP/1.1 %d " % status)
    assert httpx.get(sleeper.url + "/health").status_code == 200


def test_noise(sleeper: Server) -> None:
    """Good requests with bytes changed, cut out or doubled are answered or refused, never failed on."""
    noise = random.Random(7)  # noqa: S311
    good = instances(bands(), bands())
    sent = message(red=WHOLE, green=WHOLE)
    with httpx.Client() as client, sleeper.channel() as channel:
        predict = channel.unary_unary(PREDICT, None, None)
        for _ in range(300):
            for source in (good, sent):
                body = bytearray(source)
                for _ in range(noise.randint(1, 4)):
                    place = noise.randrange(len(body))
                    body[place : place + noise.randint(0, 3)] = noise.randbytes(noise.randint(0, 3))
                if source is good:
                    answer = client.post(sleeper.url + "/predict", content=bytes(body))
                    assert answer.status_code in (200, 400), (bytes(body), answer.text)
                else:
                    call = predict.future(bytes(body), timeout=30)
                    assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT), (body, call.details())


def test_good_requests_beside_a_flood_of_bad_ones(sleeper: Server, one: ModelContract) -> None:
    over = threading.Event()
    faults: list[str] = []

    def flood(seed: int) -> None:
        # From one more than the model takes seconds for, to what no server likes.
        noise = random.Random(seed)  # noqa: S311
        bodies = [body for body, _ in BODIES.values()]
        messages = [body for body, _ in MESSAGES.values()]
        huge = bytes(20 << 20)
        with httpx.Client() as client, sleeper.channel() as channel:
            predict = channel.unary_unary(PREDICT, None, None)
            while not over.is_set():
                answer = client.post(sleeper.url + "/predict", content=noise.choice(bodies))
                if answer.status_code != 400:
                    faults.append(answer.text)
                try:
                    predict(noise.choice([*messages, huge]), timeout=30)
                    faults.append("a bad message was answered")
                except grpc.RpcError:
                    pass
                if noise.random() < 0.1:
                    client.post(sleeper.url + "/predict", content=huge)
                with socket.create_connection(("127.0.0.1", sleeper.ports[0]), 10) as connection:
                    connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n{")

    def ask(seed: int) -> None:
        random_tiles = np.random.default_rng(seed)
        with httpx.Client() as client, sleeper.channel() as channel:
            predict = channel.unary_unary(PREDICT, None, None)
            for number in range(40):
                tiles = random_tiles.random((2, 2, 16, 16), np.float32) + 1000
                chosen = codec(("SERIALIZED_TF_TENSORS", "ND_ARRAYS", "GRPC_TF_TENSORS")[number % 3])
                body = chosen.encode_request(one, tiles)
                if chosen.transport == "http":
                    answer = client.post(sleeper.url + "/predict", content=body, timeout=30)
                    content = answer.content
                    if answer.status_code != 200:
                        faults.append(answer.text)
                        continue
                else:
                    content = predict(body, timeout=30)
                total = np.asarray(chosen.decode_response(one, content)["total"], np.float32)
                if not np.array_equal(total, tiles.sum(1)):
                    faults.append(f"another answer to {chosen.format}")

    floods = [threading.Thread(target=flood, args=(seed,)) for seed in range(3)]
    good = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in floods + good:
        thread.start()
    for thread in good:
        thread.join()
    over.set()
    for thread in floods:
        thread.join()
    assert faults == []
    assert httpx.get(sleeper.url + "/health").status_code == 200
    assert sleeper.metrics["serving_waiting_requests"] == 0
