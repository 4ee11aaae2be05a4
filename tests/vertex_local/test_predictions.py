"""What predictions refuse, and what becomes of a model server's faults; traffic is in test_traffic.py."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from google.api_core import exceptions

from .conftest import Emulator, refused, result_of, start, stop, store_artifacts, until
from .test_servers import server_of

METHOD = "/tensorflow.serving.PredictionService/Predict"


@pytest.fixture(scope="module")
def endpoint(emulator: Emulator) -> str:
    name = emulator.endpoint()
    emulator.deploy(name, emulator.upload().model, {"0": 100}, id="5")
    return name


@pytest.fixture(scope="module")
def dedicated(emulator: Emulator) -> str:
    name = emulator.endpoint(dedicated_endpoint_enabled=True)
    emulator.deploy(name, emulator.upload().model, {"0": 100}, id="6")
    return name


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Invalid JSON payload"),
        (b"[1]", "The body is to be a JSON object"),
        (b'{"instances": [1', "Invalid JSON payload"),
        (b'{"instance": [1]}', 'Unknown name "instance": Cannot find field'),
        (b'{"instances": ' + 3000 * b"[" + 3000 * b"]" + b"}", "Invalid JSON payload"),
    ],
)
def test_what_is_no_predict_request_is_refused(emulator: Emulator, endpoint: str, body: bytes, message: str) -> None:
    code, answer = emulator.http("POST", f"/v1/{endpoint}:predict", body)
    assert (code, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert message in answer["error"]["message"]


def test_labels_are_a_field_of_a_predict_request(emulator: Emulator, endpoint: str) -> None:
    body = b'{"instances": [1], "parameters": {}, "labels": {"a": "b"}}'
    assert emulator.http("POST", f"/v1/{endpoint}:predict", body)[0] == 200


def test_an_answer_gets_the_model_s_fields_whatever_its_space(emulator: Emulator, endpoint: str) -> None:
    code, answer = emulator.http("POST", f"/v1/{endpoint}:predict", b'{"instances": ["spaced"]}')
    assert (code, answer["predictions"], answer["time"]) == (200, [1], 3)
    assert (answer["deployedModelId"], answer["modelVersionId"], answer["modelDisplayName"]) == ("5", "1", "ndvi")
    assert answer["model"].startswith("projects/")


@pytest.mark.parametrize(
    ("instance", "code", "status", "message"),
    [
        ("refuse", 400, "INVALID_ARGUMENT", "band B4 is missing"),
        ("busy", 429, "RESOURCE_EXHAUSTED", "64 requests wait"),
        ("crash", 500, "INTERNAL", "out of memory"),
        ("silent", 400, "INVALID_ARGUMENT", "The deployed model '5' of '{endpoint}' answered HTTP 418 without a text"),
        ("trash", 500, "INTERNAL", "The deployed model '5' of '{endpoint}' answered no JSON"),
    ],
)
def test_a_server_s_faults_have_the_service_s_statuses(
    emulator: Emulator, endpoint: str, instance: str, code: int, status: str, message: str
) -> None:
    body = json.dumps({"instances": [instance]}).encode()
    answered, answer = emulator.http("POST", f"/v1/{endpoint}:predict", body)
    assert (answered, answer["error"]["code"], answer["error"]["status"]) == (code, code, status)
    assert message.format(endpoint=endpoint) in answer["error"]["message"]


def test_grpc_has_the_limit_of_the_endpoint(emulator: Emulator, endpoint: str, dedicated: str) -> None:
    def direct(name: str, size: int) -> int:
        request = {"endpoint": name, "method_name": METHOD, "input": b"x" * size}
        return len(emulator.predictions.direct_raw_predict(request).output)

    assert direct(endpoint, 1_500_000) == 1_500_000
    with refused("FAILED_PRECONDITION", r"request size \(1500001 bytes\) exceeds 1.500MB"):
        direct(endpoint, 1_500_001)
    assert direct(dedicated, 10_000_000) == 10_000_000
    with refused("FAILED_PRECONDITION", r"request size \(10000001 bytes\) exceeds 10.000MB"):
        direct(dedicated, 10_000_001)


def test_a_dedicated_endpoint_takes_10_mb(emulator: Emulator, dedicated: str) -> None:
    empty = len(json.dumps({"instances": ["briefly"]}))
    for size, code in ((10_000_000, 200), (10_000_001, 400)):
        body = json.dumps({"instances": ["briefly" + "x" * (size - empty)]}).encode()
        assert emulator.http("POST", f"/v1/{dedicated}:predict", body)[0] == code


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    running = start(tmp_path_factory.mktemp("impatient"), SHARED_TIMEOUT_S="0.5", LAST_ANSWER_S="0.1")
    store_artifacts(running)
    yield running
    stop(running)


def test_an_answer_that_takes_too_long_is_given_up(impatient: Emulator) -> None:
    model = impatient.upload().model
    endpoint = impatient.endpoint()
    impatient.deploy(endpoint, model, {"0": 100}, id="1")
    with refused("DEADLINE_EXCEEDED", "'1' of .* did not answer within 0.5 s"):
        impatient.predictions.predict(endpoint=endpoint, instances=["slowly"])
    with pytest.raises(exceptions.GatewayTimeout):
        impatient.predictions.direct_raw_predict(
            {"endpoint": endpoint, "method_name": METHOD, "input": b"slowly"}, retry=None
        )
    dedicated = impatient.endpoint(dedicated_endpoint_enabled=True)
    impatient.deploy(dedicated, model, {"0": 100})
    assert list(impatient.predictions.predict(endpoint=dedicated, instances=["slowly"]).predictions) == ["at last"]


def test_what_is_in_flight_is_answered_before_a_server_ends(emulator: Emulator) -> None:
    endpoint = emulator.endpoint()
    emulator.deploy(endpoint, emulator.upload().model, {"0": 100}, id="9")
    requests: list[Callable[[], Any]] = [
        lambda: emulator.predictions.predict(endpoint=endpoint, instances=["slowly"]).predictions[0],
        lambda: (
            emulator.predictions.direct_raw_predict(
                {"endpoint": endpoint, "method_name": METHOD, "input": b"slowly"}
            ).output
        ),
    ]
    with ThreadPoolExecutor() as pool:
        answers: list[Future[Any]] = [pool.submit(request) for request in requests]
        time.sleep(0.5)
        result_of(emulator.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="9"))
        assert [answer.result(timeout=10) for answer in answers] == ["at last", b"slowly"[::-1]]
    with refused("FAILED_PRECONDITION", "traffic_split"):
        emulator.predictions.predict(endpoint=endpoint, instances=[1])


def test_what_a_server_does_not_answer_before_it_must_end_is_unavailable(impatient: Emulator) -> None:
    endpoint = impatient.endpoint(dedicated_endpoint_enabled=True)
    impatient.deploy(endpoint, impatient.upload().model, {"0": 100}, id="4")
    request = {"endpoint": endpoint, "method_name": METHOD, "input": b"slowly"}
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(impatient.predictions.direct_raw_predict, request)
        time.sleep(0.5)
        result_of(impatient.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="4"))
        with refused("UNAVAILABLE", "The deployed model '4' of .* broke off"):
            answer.result(timeout=20)


def test_what_is_in_flight_when_a_server_is_killed_is_unavailable(emulator: Emulator) -> None:
    endpoint = emulator.endpoint()
    emulator.deploy(endpoint, emulator.upload().model, {"0": 100}, id="8")
    request = {"endpoint": endpoint, "method_name": METHOD, "input": b"slowly"}
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(emulator.predictions.direct_raw_predict, request)
        time.sleep(0.5)
        os.kill(server_of(emulator, endpoint), signal.SIGKILL)
        with pytest.raises(exceptions.ServiceUnavailable):
            answer.result(timeout=20)
    until(lambda: _answers(emulator, endpoint))
    emulator.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="8").result(timeout=20)


def _answers(emulator: Emulator, endpoint: str) -> bool:
    try:
        return bool(emulator.predictions.predict(endpoint=endpoint, instances=[3]).predictions)
    except exceptions.ServiceUnavailable:
        return False
