import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api import httpbody_pb2
from google.api_core import exceptions
from google.cloud import aiplatform_v1
from google.protobuf import json_format, struct_pb2

from .conftest import NUMBERED, PARENT, Emulator, command, free_ports, refused, result_of

# Where no other test lists jobs.
ELSEWHERE = "projects/local/locations/europe-west1"
CLIENTS = {
    "models": aiplatform_v1.ModelServiceClient,
    "endpoints": aiplatform_v1.EndpointServiceClient,
    "predictions": aiplatform_v1.PredictionServiceClient,
    "jobs": aiplatform_v1.PipelineServiceClient,
}


class OverGrpc(Emulator):
    """The same emulator with clients that speak gRPC to it."""

    def __init__(self, emulator: Emulator, channel: grpc.Channel) -> None:
        self.process, self.port, self.state = emulator.process, emulator.port, emulator.state
        for name, client_class in CLIENTS.items():
            transport = client_class.get_transport_class("grpc")
            setattr(self, name, client_class(transport=transport(channel=channel)))


@pytest.fixture(scope="module")
def over_grpc(emulator: Emulator) -> Iterator[OverGrpc]:
    with grpc.insecure_channel(f"127.0.0.1:{emulator.port + 2}") as channel:
        yield OverGrpc(emulator, channel)


@pytest.fixture(scope="module")
def endpoint(over_grpc: OverGrpc) -> Iterator[str]:
    """An endpoint that serves, made and filled over gRPC."""
    name = over_grpc.endpoint(display_name="grpc")
    over_grpc.deploy(name, over_grpc.upload("over-grpc").model, {"0": 100}, id="5")
    yield name
    result_of(over_grpc.endpoints.undeploy_model(endpoint=name, deployed_model_id="5"))
    result_of(over_grpc.endpoints.delete_endpoint(name=name))


def test_both_ways_lead_to_the_same_resources(emulator: Emulator, over_grpc: OverGrpc, endpoint: str) -> None:
    model = f"{NUMBERED}/models/over-grpc"
    assert over_grpc.models.get_model(name=model) == emulator.models.get_model(name=model)
    assert over_grpc.endpoints.get_endpoint(name=endpoint) == emulator.endpoints.get_endpoint(name=endpoint)
    wanted = {"parent": PARENT, "filter": 'display_name="grpc"'}
    assert [found.name for found in over_grpc.endpoints.list_endpoints(wanted)] == [endpoint]
    assert len(list(over_grpc.models.list_models({"parent": PARENT, "page_size": 1}))) == len(
        list(emulator.models.list_models(parent=PARENT))
    )


def test_changes_are_made_over_grpc(emulator: Emulator, over_grpc: OverGrpc) -> None:
    name = over_grpc.upload("grpc-changed").model
    over_grpc.models.update_model(model={"name": name, "description": "maps"}, update_mask={"paths": ["description"]})
    over_grpc.models.merge_version_aliases(name=f"{name}@1", version_aliases=["golden"])
    seen = emulator.models.get_model(name=f"{name}@golden")
    assert (seen.description, seen.version_id) == ("maps", "1")
    operation = over_grpc.models.delete_model(name=name)
    assert not operation.operation.done
    result_of(operation)
    assert over_grpc.models.get_operation({"name": operation.operation.name}).done
    with refused("NOT_FOUND", "grpc-changed"):
        emulator.models.get_model(name=name)


def test_predictions_go_over_grpc(over_grpc: OverGrpc, endpoint: str) -> None:
    client = over_grpc.predictions
    instances = [json_format.Parse(instance, struct_pb2.Value()) for instance in ("[0.5, [1]]", '{"b4": "é"}')]
    answer = client.predict(endpoint=endpoint, instances=instances)
    assert json_format.MessageToDict(type(answer).pb(answer))["predictions"] == [[0.5, [1.0]], {"b4": "é"}]
    assert (answer.deployed_model_id, answer.model_version_id) == ("5", "1")
    assert answer.model == f"{NUMBERED}/models/over-grpc"
    body = httpbody_pb2.HttpBody(content_type="application/json", data=b'{"instances": [7]}')
    raw = client.raw_predict(endpoint=endpoint, http_body=body)
    assert (json.loads(raw.data), raw.content_type) == ({"predictions": [7]}, "application/json")
    method = "/tensorflow.serving.PredictionService/Predict"
    direct = client.direct_raw_predict({"endpoint": endpoint, "method_name": method, "input": b"tile"})
    assert direct.output == b"elit"


def test_a_message_over_the_default_of_grpc_goes_both_ways(emulator: Emulator) -> None:
    endpoint = emulator.endpoint(dedicated_endpoint_enabled=True)
    emulator.deploy(endpoint, emulator.upload().model, {"0": 100})
    data = bytes(range(256)) * 20_000
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{emulator.port + 2}", options=limits) as channel:
        client = OverGrpc(emulator, channel).predictions
        answer = client.direct_raw_predict({"endpoint": endpoint, "method_name": "/any.Service/Any", "input": data})
    assert answer.output == data[::-1]


def test_a_job_is_made_listed_and_refused_over_grpc(over_grpc: OverGrpc) -> None:
    job = {
        "pipeline_spec": {"root": {"dag": {"tasks": {}}}, "pipelineInfo": {"name": "empty"}},
        "runtime_config": {"gcs_output_directory": "gs://staging/root"},
    }
    created = over_grpc.jobs.create_pipeline_job(parent=ELSEWHERE, pipeline_job=job, pipeline_job_id="grpc-job")
    assert created.name.endswith("/locations/europe-west1/pipelineJobs/grpc-job")
    with pytest.raises(exceptions.AlreadyExists, match="grpc-job"):
        over_grpc.jobs.create_pipeline_job(parent=ELSEWHERE, pipeline_job=job, pipeline_job_id="grpc-job")
    wanted = {"parent": ELSEWHERE, "filter": "pipeline_job_user_id=grpc-job"}
    [listed] = over_grpc.jobs.list_pipeline_jobs(wanted)
    assert listed.display_name == "grpc-job"
    with pytest.raises(exceptions.InvalidArgument, match="no compiled pipeline"):
        over_grpc.jobs.create_pipeline_job(parent=PARENT, pipeline_job={"display_name": "none"})


def test_each_status_is_the_clients_own_exception(over_grpc: OverGrpc, endpoint: str) -> None:
    absent = f"{PARENT}/models/absent"
    calls: list[tuple[type[Exception], str, Any]] = [
        (exceptions.NotFound, "642872260880.*models/absent", lambda: over_grpc.models.get_model(name=absent)),
        (
            exceptions.InvalidArgument,
            "'colour' is no field",
            lambda: over_grpc.models.list_models({"parent": PARENT, "filter": "colour=red"}),
        ),
        (
            exceptions.FailedPrecondition,
            "undeploy 5 first",
            lambda: over_grpc.endpoints.delete_endpoint(name=endpoint),
        ),
        (
            exceptions.Aborted,
            "etag stale",
            lambda: over_grpc.endpoints.update_endpoint(
                endpoint={"name": endpoint, "etag": "stale"}, update_mask={"paths": ["labels"]}
            ),
        ),
        (exceptions.AlreadyExists, "models/over-grpc", lambda: over_grpc.upload("over-grpc")),
        (
            exceptions.MethodNotImplemented,
            "Method not found",
            lambda: over_grpc.models.copy_model(parent=PARENT, source_model=absent),
        ),
        (
            exceptions.InvalidArgument,
            "band B4 is missing",
            lambda: over_grpc.predictions.predict(
                endpoint=endpoint, instances=[struct_pb2.Value(string_value="refuse")]
            ),
        ),
        (
            exceptions.InvalidArgument,
            "no input for /any.Service/Any",
            lambda: over_grpc.predictions.direct_raw_predict(
                {"endpoint": endpoint, "method_name": "/any.Service/Any", "input": b"refuse"}
            ),
        ),
        (
            exceptions.NotFound,
            "operations/9",
            lambda: over_grpc.endpoints.get_operation({"name": f"{endpoint}/operations/9"}),
        ),
    ]
    for exception, message, call in calls:
        with pytest.raises(exception, match=message):
            call()


def test_a_taken_grpc_port_is_named(tmp_path: Path) -> None:
    port = free_ports()
    with socket.create_server(("127.0.0.1", port + 2)):
        ended = subprocess.run(
            command(port, tmp_path / "state"), capture_output=True, text=True, timeout=30, check=False
        )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"vertex_local: port {port + 2} is in use: stop what listens there, or give another --grpc-port\n"
    )


@pytest.mark.parametrize("parent", ["", "foo", "a/../b/..", "projects/local/locations/..", "projects/../locations/x"])
def test_a_name_that_is_none_is_refused(over_grpc: OverGrpc, parent: str) -> None:
    job = aiplatform_v1.PipelineJob(runtime_config={"gcs_output_directory": "gs://staging/root"})
    with refused("INVALID_ARGUMENT", f"CreatePipelineJob: parent '{parent}' is no name"):
        over_grpc.jobs.create_pipeline_job(parent=parent, pipeline_job=job, pipeline_job_id="victim")
    with refused("INVALID_ARGUMENT", "CreateEndpoint: parent"):
        over_grpc.endpoints.create_endpoint(parent=parent, endpoint={"display_name": "a"})


def test_a_path_that_leads_elsewhere_is_none(emulator: Emulator) -> None:
    code, answer = emulator.http("GET", "/v1/projects/local/locations/../endpoints")
    assert (code, answer["error"]["status"]) == (404, "NOT_FOUND")
