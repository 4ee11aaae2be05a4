from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud import aiplatform_v1
from google.longrunning import operations_pb2

from .conftest import ECHO, NUMBERED, PARENT, Emulator, free_ports, refused, result_of, start, stop
from .test_command import descendants_of, wait_until_dead

RESOURCES = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}
# google.rpc.Code
CANCELLED, NOT_FOUND, ABORTED = 1, 5, 10


@pytest.fixture
def done(emulator: Emulator) -> str:
    """The name of an operation that is done."""
    operation = emulator.endpoints.create_endpoint(parent=PARENT, endpoint={"display_name": "done"})
    result_of(operation)
    name: str = operation.operation.name
    return name


@pytest.fixture
def slow(emulator: Emulator) -> Iterator[Any]:
    """A deployment that takes longer than any test; it is cancelled in the end."""
    operation = deploy_slowly(emulator)
    yield operation
    emulator.endpoints.cancel_operation({"name": operation.operation.name})


def deploy_slowly(emulator: Emulator) -> Any:
    container = {"image_uri": ECHO, "env": [{"name": "LOADING_S", "value": "300"}]}
    model = emulator.upload(container_spec=container, artifact_uri="").model
    return emulator.endpoints.deploy_model(
        endpoint=emulator.endpoint(), deployed_model={"model": model, "dedicated_resources": RESOURCES}
    )


def get(emulator: Emulator, name: str) -> operations_pb2.Operation:
    return emulator.endpoints.get_operation({"name": name})


def test_no_operation_is_done_in_its_first_answer(emulator: Emulator) -> None:
    model, container = emulator.models, {"image_uri": ECHO}
    upload = {"parent": PARENT, "model_id": "first", "model": {"display_name": "a", "container_spec": container}}
    endpoint = f"{NUMBERED}/endpoints/first"
    deployed = {"id": "1", "model": f"{NUMBERED}/models/first", "dedicated_resources": RESOURCES}
    mutation = {"deployed_model": {"id": "1"}, "update_mask": {"paths": ["disable_container_logging"]}}
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("UploadModel", lambda: model.upload_model(upload)),
        ("UploadModel", lambda: model.upload_model({**upload, "model_id": "", "parent_model": deployed["model"]})),
        ("Delete", lambda: model.delete_model_version(name=f"{NUMBERED}/models/first@2")),
        (
            "CreateEndpoint",
            lambda: emulator.endpoints.create_endpoint(
                parent=PARENT, endpoint={"display_name": "a"}, endpoint_id="first"
            ),
        ),
        ("DeployModel", lambda: emulator.endpoints.deploy_model(endpoint=endpoint, deployed_model=deployed)),
        ("MutateDeployedModel", lambda: emulator.endpoints.mutate_deployed_model({"endpoint": endpoint, **mutation})),
        ("UndeployModel", lambda: emulator.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="1")),
        ("Delete", lambda: emulator.endpoints.delete_endpoint(name=endpoint)),
        ("Delete", lambda: model.delete_model(name=f"{NUMBERED}/models/first")),
    ]
    for kind, begin in steps:
        operation = begin()
        first = operation.operation
        assert not first.done
        assert not first.HasField("response")
        assert first.metadata.type_url.endswith(f"google.cloud.aiplatform.v1.{kind}OperationMetadata")
        assert operation.metadata.generic_metadata.create_time
        result_of(operation)
        assert get(emulator, first.name).done


@pytest.mark.parametrize("root", ["v1", "ui"])
def test_operations_are_reached_under_both_roots(emulator: Emulator, done: str, root: str) -> None:
    resource = done.partition("/operations/")[0]
    code, operation = emulator.http("GET", f"/{root}/{done}")
    assert (code, operation["name"], operation["done"]) == (200, done, True)
    assert operation["response"]["@type"] == "type.googleapis.com/google.cloud.aiplatform.v1.Endpoint"
    assert operation["response"]["name"] == resource
    assert emulator.http("GET", f"/{root}/{resource}/operations") == (200, {"operations": [operation]})
    _, everywhere = emulator.http("GET", f"/{root}/{PARENT}/operations")
    assert everywhere["operations"][0] == operation
    assert emulator.http("POST", f"/{root}/{done}:wait?timeout=5s") == (200, operation)
    assert emulator.http("POST", f"/{root}/{done}:cancel") == (200, {})
    assert emulator.http("GET", f"/{root}/{done}") == (200, operation)
    assert emulator.http("DELETE", f"/{root}/{done}") == (200, {})
    for method, suffix in (("GET", ""), ("DELETE", ""), ("POST", ":cancel"), ("POST", ":wait")):
        code, answer = emulator.http(method, f"/{root}/{done}{suffix}")
        assert (code, answer["error"]["status"]) == (404, "NOT_FOUND")
        assert done in answer["error"]["message"]


def test_the_clients_own_methods_of_operations(emulator: Emulator, done: str) -> None:
    for client in (emulator.models, emulator.endpoints, emulator.jobs):
        assert client.get_operation({"name": done}).name == done
        listed = client.list_operations({"name": done.partition("/operations/")[0]})
        assert [operation.name for operation in listed.operations] == [done]
        assert client.wait_operation({"name": done}).done
        client.cancel_operation({"name": done})
    emulator.jobs.delete_operation({"name": done})
    with refused("NOT_FOUND", done):
        get(emulator, done)
    with refused("NOT_FOUND", "operations/9"):
        emulator.models.cancel_operation({"name": f"{NUMBERED}/endpoints/done/operations/9"})


def test_operations_are_listed_by_whether_they_are_done(emulator: Emulator, slow: Any) -> None:
    name = slow.operation.name
    resource = name.partition("/operations/")[0]

    def listed(condition: str) -> list[str]:
        answer = emulator.models.list_operations({"name": resource, "filter": condition})
        return [operation.name for operation in answer.operations]

    assert listed("done=false") == [name]
    assert len(listed("done=true")) == 1
    assert len(listed("")) == 2
    first = emulator.models.list_operations({"name": resource, "page_size": 1})
    assert [operation.name for operation in first.operations] == [name]
    second = emulator.models.list_operations({"name": resource, "page_token": first.next_page_token})
    assert (len(second.operations), second.next_page_token) == (1, "")
    with refused("INVALID_ARGUMENT", "'error:\\*': 'error' is no field"):
        listed("error:*")


def test_waiting_ends_with_the_operation_or_after_the_time_asked_for(emulator: Emulator, slow: Any) -> None:
    assert not emulator.endpoints.wait_operation({"name": slow.operation.name, "timeout": {"nanos": 10**8}}).done
    quick = emulator.endpoints.create_endpoint(parent=PARENT, endpoint={"display_name": "quick"})
    assert emulator.endpoints.wait_operation({"name": quick.operation.name}).done


def test_a_cancelled_deployment_ends_its_server_and_leaves_the_endpoint(emulator: Emulator) -> None:
    before = descendants_of(emulator.process.pid)
    operation = deploy_slowly(emulator)
    name = operation.operation.name
    endpoint = emulator.endpoints.get_endpoint(name=name.partition("/operations/")[0])
    while len(started := descendants_of(emulator.process.pid) - before) < 2:  # the guard and the server
        assert not get(emulator, name).done
    with refused("FAILED_PRECONDITION", f"{name}' is not done: cancel it first"):
        emulator.endpoints.delete_operation({"name": name})
    # Not operation.cancel(): the client library's REST transport has a path without a body for it and reads one.
    emulator.endpoints.cancel_operation({"name": name})
    ended = emulator.endpoints.wait_operation({"name": name})
    assert (ended.done, ended.error.code) == (True, CANCELLED)
    assert name in ended.error.message
    with refused("CANCELLED", "was cancelled"):
        result_of(operation)
    wait_until_dead(started)
    assert emulator.endpoints.get_endpoint(name=endpoint.name) == endpoint
    emulator.endpoints.delete_operation({"name": name})


@pytest.mark.slow
def test_operations_outlive_the_emulator_and_pending_ones_are_aborted(tmp_path: Path) -> None:
    first = start(tmp_path / "state", free_ports())
    try:
        made = first.endpoints.create_endpoint(parent=PARENT, endpoint={"display_name": "kept"})
        endpoint = result_of(made)
        pending = deploy_slowly(first).operation.name
        cancelled = deploy_slowly(first).operation.name
        first.endpoints.cancel_operation({"name": cancelled})
        assert first.endpoints.wait_operation({"name": cancelled}).done
        pids = descendants_of(first.process.pid)
    finally:
        stop(first)
    wait_until_dead(pids)
    second = start(tmp_path / "state", first.port)
    try:
        kept = get(second, made.operation.name)
        response = aiplatform_v1.Endpoint.pb()()
        assert kept.response.Unpack(response)
        assert (kept.done, response.name) == (True, endpoint.name)
        aborted = get(second, pending)
        assert (aborted.done, aborted.error.code) == (True, ABORTED)
        assert "emulator ended" in aborted.error.message
        assert get(second, cancelled).error.code == CANCELLED
        name = pending.partition("/operations/")[0]
        assert not second.endpoints.get_endpoint(name=name).deployed_models
    finally:
        stop(second)


def test_a_failed_operation_says_why(emulator: Emulator) -> None:
    endpoint = emulator.endpoint()
    first, second = (emulator.endpoints.delete_endpoint(name=endpoint) for _ in range(2))
    result_of(first)
    with refused("NOT_FOUND", endpoint):
        result_of(second)
    code, operation = emulator.http("GET", f"/v1/{second.operation.name}")
    assert (code, operation["done"], operation["error"]["code"]) == (200, True, NOT_FOUND)
    assert "response" not in operation
    assert endpoint in operation["error"]["message"]
