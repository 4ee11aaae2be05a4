import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from containers.vertex_local import messages
from containers.vertex_local.projects import Projects
from containers.vertex_local.store import Store

from .conftest import NUMBERED, PARENT, Emulator, refused, result_of


@pytest.mark.parametrize("parent", [PARENT, NUMBERED], ids=["id", "number"])
def test_a_project_is_named_by_id_or_number_and_answered_by_number(emulator: Emulator, parent: str) -> None:
    endpoint = emulator.endpoint(labels={"asked": "either"})
    model = emulator.upload().model
    assert endpoint.startswith(f"{NUMBERED}/endpoints/")
    assert model.startswith(f"{NUMBERED}/models/")
    same: Callable[[str], str] = lambda name: name.replace(NUMBERED, parent)  # noqa: E731
    assert emulator.endpoints.get_endpoint(name=same(endpoint)).name == endpoint
    listed = emulator.endpoints.list_endpoints({"parent": parent, "filter": "labels.asked=either"})
    assert endpoint in {found.name for found in listed}
    version = emulator.models.update_model(
        model={"name": f"{same(model)}@1", "version_description": "a"}, update_mask={"paths": ["version_description"]}
    )
    assert version.name == f"{model}@1"
    deployed = emulator.deploy(same(endpoint), same(model), {"0": 100})
    assert deployed.model == model
    answer = emulator.predictions.predict(endpoint=same(endpoint), instances=[1])
    assert (answer.model, answer.deployed_model_id) == (model, deployed.id)
    operation = emulator.endpoints.undeploy_model(endpoint=same(endpoint), deployed_model_id=deployed.id)
    name = operation.operation.name
    assert name.startswith(f"{endpoint}/operations/")
    assert emulator.endpoints.get_operation({"name": same(name)}).name == name
    result_of(operation)
    result_of(emulator.models.delete_model(name=same(model)))
    with refused("NOT_FOUND", model):
        emulator.models.get_model(name=same(model))


def test_projects_do_not_see_each_other_s_resources(emulator: Emulator) -> None:
    theirs = "projects/theirs/locations/us-central1"
    request: dict[str, Any] = {"parent": theirs, "endpoint": {"display_name": "theirs"}, "endpoint_id": "theirs"}
    name = result_of(emulator.endpoints.create_endpoint(request)).name
    assert not name.startswith(NUMBERED)
    assert [found.name for found in emulator.endpoints.list_endpoints(parent=theirs)] == [name]
    assert name not in {found.name for found in emulator.endpoints.list_endpoints(parent=PARENT)}
    model = emulator.upload().model
    with refused("INVALID_ARGUMENT", f"'{model}' is not in the location of '{name}'"):
        emulator.deploy(name, model, {"0": 100})
    elsewhere = "projects/theirs/locations/europe-west1"
    assert list(emulator.endpoints.list_endpoints(parent=elsewhere)) == []


def test_what_users_write_stays_as_it_is(emulator: Emulator) -> None:
    text = f"{PARENT}/models/ndvi"
    endpoint = emulator.endpoint(description=text)
    assert emulator.endpoints.get_endpoint(name=endpoint).description == text
    spec = {"root": {"dag": {"tasks": {}}, "text": text}, "pipelineInfo": {"name": "quoting"}}
    job = {"pipelineSpec": spec, "runtimeConfig": {"gcsOutputDirectory": "gs://staging/root"}}
    _, created = emulator.http(
        "POST", "/v1/projects/local/locations/europe-west1/pipelineJobs", json.dumps(job).encode()
    )
    assert created["pipelineSpec"]["root"]["text"] == text


def test_a_filter_that_names_projects_by_id_means_their_numbers(tmp_path: Path) -> None:
    with closing(Store(tmp_path)) as store:
        projects = Projects(store)
        request = messages.ListPipelineJobsRequest(
            parent=PARENT, filter=f'schedule_name="{PARENT}/schedules/1" OR schedule_name="{NUMBERED}/schedules/2"'
        )
        projects.number(request)
        assert request.parent == NUMBERED
        assert request.filter == f'schedule_name="{NUMBERED}/schedules/1" OR schedule_name="{NUMBERED}/schedules/2"'
        assert projects.id_of(f"{NUMBERED}/schedules/1") == "local"
    with closing(Store(tmp_path)) as store:
        assert Projects(store).id_of(NUMBERED) == "local"
