from __future__ import annotations

from google.cloud.aiplatform_v1 import types

from components.deploy import deployed_of, run_of


def test_a_version_is_known_by_its_model_whether_the_project_is_named_by_id_or_number() -> None:
    deployed = types.DeployedModel(id="7", model="projects/123/locations/r/models/fields", model_version_id="2")
    endpoint = types.Endpoint(deployed_models=[deployed])
    assert deployed_of(endpoint, "projects/my-project/locations/r/models/fields@2") == [deployed]
    assert deployed_of(endpoint, "projects/123/locations/r/models/fields@1") == []
    assert deployed_of(endpoint, "projects/123/locations/r/models/other@2") == []
    assert deployed_of(types.Endpoint(), "projects/123/locations/r/models/fields@2") == []


def test_of_a_version_deployed_twice_the_one_with_most_traffic_comes_first() -> None:
    model = "projects/123/locations/r/models/fields"
    endpoint = types.Endpoint(
        deployed_models=[types.DeployedModel(id=each, model=model, model_version_id="2") for each in "123"],
        traffic_split={"1": 30, "2": 70},
    )
    assert [each.id for each in deployed_of(endpoint, f"{model}@2")] == ["2", "1", "3"]


def test_who_deployed_a_model_is_told_by_its_name() -> None:
    assert run_of(types.DeployedModel(display_name="fields@3 by run deploy-pytorch-1")) == "deploy-pytorch-1"
    assert run_of(types.DeployedModel(display_name="a by run b@3 by run deploy-pytorch-1")) == "deploy-pytorch-1"
    for by_hand in ("made by hand", "land cover by run team/x", "land cover by run Ann", "fields", " by run "):
        assert run_of(types.DeployedModel(display_name=by_hand)) == ""
