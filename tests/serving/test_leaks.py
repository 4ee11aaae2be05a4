"""Credentials planted in requests and in Cloud Storage's answers, looked for in all that the server tells."""

from __future__ import annotations

import json

import grpc
import httpx
import pytest

from components.earthengine.payloads import messages_pb2
from components.earthengine.redaction import REMOVED
from tests.faults.leaky import PLANTED, leaks, leaky
from tests.serving.conftest import PREDICT, Server, Start


def test_requests_that_hold_them_are_told_of_without_them(torch_server: Server) -> None:
    told = []
    for planted in PLANTED:
        headers = {"Authorization": PLANTED[0].removeprefix("Authorization: "), "X-Goog-Api-Key": "AIza" + "0" * 35}
        # In the query, in the path, as a key of the body, and as what stands for a number.
        body = json.dumps({"instances": [{planted: 1, "red": planted}]})
        query = httpx.QueryParams({"access_token": planted})
        for url in (f"/predict?{query}", f"/predict/{planted.lstrip('/')}"):
            answer = httpx.post(torch_server.url + url, content=body, headers=headers, timeout=30)
            assert answer.status_code in (400, 404)
            told.append(answer.text)
        request = messages_pb2.PredictRequest()
        request.inputs[planted].dtype = messages_pb2.DT_FLOAT
        with pytest.raises(grpc.RpcError) as refused:
            torch_server.call(request.SerializeToString())
        told.append(str(refused.value))
    told.append(httpx.get(torch_server.url + "/metrics").text)
    torch_server.wait_for(PREDICT)
    assert leaks("\n".join(told)) == []
    assert leaks("".join(torch_server.lines)) == []
    assert REMOVED in "".join(torch_server.lines)


def test_a_model_that_cannot_be_fetched_is_told_of_without_them(start: Start) -> None:
    with leaky() as services:
        server = start("--model", "gs://models/x", STORAGE_EMULATOR_HOST=services["STORAGE_EMULATOR_HOST"])
        status, log = server.end()
    assert status == 1
    assert "gs://models/x cannot be read (403" in log
    assert REMOVED in log
    assert leaks(log) == []
