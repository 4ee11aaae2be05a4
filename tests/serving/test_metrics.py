"""The page that Prometheus reads."""

from __future__ import annotations

import time

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from components.earthengine.contract import ModelContract
from components.earthengine.payloads import codec
from tests.serving.conftest import Server


def test_requests_are_counted(sleeper: Server, one: ModelContract) -> None:
    before = sleeper.metrics
    tiles = np.full((3, 2, 1, 1), 1000, np.float32)
    over_http, over_grpc = (codec(name).encode_request(one, tiles) for name in ("ND_ARRAYS", "GRPC_TF_TENSORS"))
    answers = [sleeper.post(over_http) for _ in range(2)]
    call = sleeper.call(over_grpc)
    sleeper.post(b"{}")
    httpx.get(sleeper.url + "/nowhere")
    # A call is counted when its answer is on its way already.
    time.sleep(0.2)
    after = sleeper.metrics

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown('serving_requests_total{code="200",format="ND_ARRAYS",transport="http"}') == 2
    assert grown('serving_requests_total{code="OK",format="GRPC_TF_TENSORS",transport="grpc"}') == 1
    assert grown('serving_requests_total{code="404",format="unknown",transport="http"}') == 1
    assert grown('serving_request_seconds_count{transport="http"}') == 4
    assert grown('serving_request_seconds_bucket{le="+Inf",transport="grpc"}') == 1
    assert grown("serving_instances_total") == 9
    assert grown('serving_request_bytes_total{transport="http"}') == 2 * len(over_http) + 2
    assert grown('serving_response_bytes_total{transport="http"}') == sum(len(answer.content) for answer in answers)
    assert grown('serving_response_bytes_total{transport="grpc"}') == len(call)
    for phase in ("model", "encode"):
        assert grown(f'serving_phase_seconds_count{{phase="{phase}"}}') == 3
    assert after["serving_waiting_requests"] == after["serving_waiting_bytes"] == 0


def test_prometheus_can_read_the_page(sleeper: Server) -> None:
    answer = httpx.get(sleeper.url + "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    (model,) = families["serving_model_info"].samples
    assert model.labels == {
        "name": "mixed",
        "payload_format": "SERIALIZED_TF_TENSORS",
        "runtime": "a pillow",
        "deployed_model": "",
    }
    for process in ("process", "serving_worker_process"):
        assert families[f"{process}_resident_memory_bytes"].samples[0].value > 10_000_000
