"""The log: one line a request, with Cloud Logging's fields, or plain on a terminal."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
import time
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from components.earthengine.contract import ModelContract
from components.earthengine.payloads import codec
from containers.serving.log import _Cloud, trace_of
from tests.serving.conftest import PREDICT, Server, Start

TRACE = "0af7651916cd43dd8448eb211c80319c"


def new_entries(server: Server, before: int, count: int) -> list[dict[str, Any]]:
    """The entries since there were so many, once there are so many more; and no more than these."""
    end = time.monotonic() + 5
    while len(server.entries) < before + count and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.1)
    found = server.entries[before:]
    assert len(found) == count, found
    return found


def test_a_request_is_one_line(sleeper: Server, one: ModelContract) -> None:
    before = len(sleeper.entries)
    tiles = np.full((3, 2, 1, 1), 1000, np.float32)
    body = codec("SERIALIZED_TF_TENSORS").encode_request(one, tiles)
    headers = {"X-Cloud-Trace-Context": f"{TRACE}/123;o=1"}
    answer = httpx.post(sleeper.url + "/predict", content=body, headers=headers)
    (entry,) = new_entries(sleeper, before, 1)
    assert entry["severity"] == "INFO"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", entry["time"])
    assert re.fullmatch(r"POST /predict 200 in \d+\.\d ms, SERIALIZED_TF_TENSORS, 3 instances", entry["message"])
    told = entry["httpRequest"]
    assert re.fullmatch(r"0\.\d{6}s", told.pop("latency"))
    assert told == {
        "requestMethod": "POST",
        "requestUrl": "/predict",
        "status": 200,
        "requestSize": str(len(body)),
        "responseSize": str(len(answer.content)),
        "remoteIp": "127.0.0.1",
        "protocol": "HTTP/1.1",
    }
    assert entry["logging.googleapis.com/trace"] == TRACE


def test_a_call_is_one_line(sleeper: Server, one: ModelContract) -> None:
    before = len(sleeper.entries)
    body = codec("GRPC_TF_TENSORS").encode_request(one, np.full((1, 2, 1, 1), 1000, np.float32))
    with sleeper.channel() as channel:
        metadata = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"), ("binary-bin", b"\x00"))
        channel.unary_unary(PREDICT, None, None)(body, metadata=metadata)
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(PREDICT, None, None)(b"\xff")
    good, bad = new_entries(sleeper, before, 2)
    assert re.fullmatch(
        r"POST /tensorflow.serving.PredictionService/Predict OK in \S+ ms, GRPC_TF_TENSORS, 1 instances",
        good["message"],
    )
    assert good["httpRequest"]["remoteIp"] == "127.0.0.1"
    assert good["httpRequest"]["status"] == 200
    assert good["logging.googleapis.com/trace"] == TRACE
    assert bad["severity"] == "WARNING"
    assert bad["httpRequest"]["status"] == 400
    assert "no PredictRequest" in bad["message"]


def test_a_failure_has_its_stack_in_the_same_line(sleeper: Server, one: ModelContract) -> None:
    before = len(sleeper.entries)
    body = codec("SERIALIZED_TF_TENSORS").encode_request(one, np.full((1, 2, 1, 1), 666, np.float32))
    assert sleeper.post(body).status_code == 500
    (entry,) = new_entries(sleeper, before, 1)
    assert entry["severity"] == "ERROR"
    assert "the model failed on tiles of shape (1, 2, 1, 1)" in entry["message"]
    assert "Traceback (most recent call last):" in entry["message"]
    assert entry["message"].endswith("RuntimeError: a line\nsuch a tile breaks the model")


def test_what_is_healthy_is_no_news(sleeper: Server) -> None:
    before = len(sleeper.entries)
    httpx.get(sleeper.url + "/health")
    httpx.get(sleeper.url + "/metrics")
    sleeper.call(b"", "/grpc.health.v1.Health/Check")
    assert new_entries(sleeper, before, 0) == []


def test_nothing_can_be_slipped_in(sleeper: Server) -> None:
    before, lines = len(sleeper.entries), len(sleeper.lines)
    httpx.get(sleeper.url + '/%0A{"severity":"CRITICAL"}%0A"')
    sleeper.post(b'{"instances": [{"re\\nd\\u2028\\"": "", "green": ""}]}')
    secret = b"0.123456789" * 300
    sleeper.post(b'{"instances": [' + secret + b"]}")
    entries = new_entries(sleeper, before, 3)
    assert len(sleeper.lines) - lines == 3
    assert {entry["severity"] for entry in entries} == {"WARNING"}
    assert max(map(len, sleeper.lines[lines:])) < 4000
    assert not any(secret.decode()[:100] in line for line in sleeper.lines[lines:])


def test_what_is_taken_out_of_a_line_leaves_it_json(sleeper: Server) -> None:
    before, lines = len(sleeper.entries), len(sleeper.lines)
    httpx.get(sleeper.url + "/a%3Ftoken=abcdefgh&x=%5Cq")
    (entry,) = new_entries(sleeper, before, 1)
    assert entry["httpRequest"]["requestUrl"].startswith("/a?token=")
    assert "abcdefgh" not in "".join(sleeper.lines[lines:])
    record = logging.makeLogRecord({"msg": 'x "-----BEGIN PRIVATE KEY-----\nabcdefgh" y', "created": 0.0})
    message = json.loads(_Cloud().format(record))["message"]
    assert message.startswith('x "')
    assert "abcdefgh" not in message


@pytest.mark.parametrize(
    ("headers", "project", "trace"),
    [
        ({"x-cloud-trace-context": TRACE}, None, TRACE),
        ({"x-cloud-trace-context": TRACE + "/1;o=1"}, "12", f"projects/12/traces/{TRACE}"),
        ({"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}, None, TRACE),
        ({"x-cloud-trace-context": TRACE + "0"}, None, ""),
        ({"traceparent": '"},{"severity":'}, "12", ""),
        ({}, "12", ""),
    ],
)
def test_traces(monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], project: str | None, trace: str) -> None:
    monkeypatch.delenv("AIP_PROJECT_NUMBER", raising=False)
    if project:
        monkeypatch.setenv("AIP_PROJECT_NUMBER", project)
    assert trace_of(headers) == trace


def test_on_a_terminal_lines_are_plain() -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "tests.serving.sleeper", "--host", "127.0.0.1"]
    process = subprocess.Popen([*command, "--http-port", "0", "--grpc-port", "0"], stderr=its)
    os.close(its)
    text = ""
    try:
        while "ready" not in text:
            text += os.read(ours, 1000).decode()
        port = re.search(r"HTTP on \S+:(\d+)", text)
        assert port
        httpx.get(f"http://127.0.0.1:{port[1]}/a%1B[2Jb")
        while "there is no such route" not in text:
            text += os.read(ours, 1000).decode()
    finally:
        process.terminate()
        process.wait(20)
        os.close(ours)
    assert text.splitlines()[0].startswith("serving: HTTP on 127.0.0.1:")
    assert "serving: ready: sleeper" in text
    assert "serving: GET /a%1B[2Jb 404" in text
    assert "\x1b" not in text


def test_an_unforeseen_failure_to_load_is_told_in_a_last_line(start: Start) -> None:
    server = start(module="tests.serving.sleeper", SLEEPER_LOADS_S="no number")
    status, log = server.end()
    assert status == 1
    assert server.entries[-1]["severity"] == "ERROR"
    assert "Traceback" in server.entries[-1]["message"]
    assert log.splitlines()[-1].startswith("serving: error: sleeper cannot be loaded (ValueError: could not convert")
