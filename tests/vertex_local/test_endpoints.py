import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform

from .conftest import ARTIFACTS, ECHO, NUMBERED, PARENT, Emulator, refused, result_of


@pytest.fixture(scope="module")
def model(emulator: Emulator) -> str:
    name: str = emulator.upload("deployed").model
    return name


@pytest.fixture(scope="module")
def pair(emulator: Emulator, model: str) -> str:
    """An endpoint with two deployed models, 11 with all the traffic and 22 with none."""
    endpoint = emulator.endpoint()
    emulator.deploy(endpoint, model, {"0": 100}, id="11")
    emulator.deploy(endpoint, model, id="22")
    return endpoint


def test_the_sdk_creates_deploys_and_predicts(emulator: Emulator) -> None:
    model = aiplatform.Model.upload(
        display_name="sdk",
        artifact_uri=ARTIFACTS,
        serving_container_image_uri=ECHO,
        serving_container_predict_route="/ask",
    )
    endpoint = aiplatform.Endpoint.create(display_name="sdk", endpoint_id="sdk-endpoint")
    endpoint.deploy(model, machine_type="n1-standard-2", traffic_percentage=100)
    answer = endpoint.predict(instances=[[1.5, 2.0]])
    assert answer.predictions == [[1.5, 2.0]]
    assert (answer.deployed_model_id, answer.model_version_id) == (endpoint.list_models()[0].id, "1")
    assert answer.model_resource_name == model.resource_name
    [found] = aiplatform.Endpoint.list(filter='display_name="sdk"')
    assert found.resource_name == f"{NUMBERED}/endpoints/sdk-endpoint"
    # The SDK's raw_predict asks the service's own host, whatever init() was given.
    url = f"{emulator.url}/v1/{endpoint.resource_name}:rawPredict"
    with urllib.request.urlopen(url, b'{"instances": [1]}') as raw:  # noqa: S310
        assert json.load(raw) == {"predictions": [1]}
        assert raw.headers["X-Vertex-AI-Deployed-Model-Id"] == answer.deployed_model_id
    endpoint.undeploy_all()
    endpoint.delete()
    with pytest.raises(exceptions.NotFound, match="sdk-endpoint"):
        emulator.endpoints.get_endpoint(name=found.resource_name)


def test_a_server_gets_the_variables_of_a_container(emulator: Emulator, pair: str, model: str) -> None:
    [found] = emulator.predictions.predict(endpoint=pair, instances=["environment"]).predictions
    aip = dict(found)
    endpoint_id = pair.rpartition("/")[2]
    # Vertex AI's own copy of what was uploaded.
    assert aip["AIP_STORAGE_URI"] == f"gs://vertex-managed-artifacts/{model}/1"
    assert (aip["AIP_MODE"], aip["AIP_ENDPOINT_ID"], aip["AIP_DEPLOYED_MODEL_ID"]) == (
        "PREDICTION",
        endpoint_id,
        "11",
    )
    assert aip["AIP_PREDICT_ROUTE"] == f"/v1/endpoints/{endpoint_id}/deployedModels/11:predict"


def test_a_request_goes_to_the_model_with_the_traffic(emulator: Emulator, pair: str) -> None:
    answers = [emulator.predictions.predict(endpoint=pair, instances=[1]) for _ in range(20)]
    assert {answer.deployed_model_id for answer in answers} == {"11"}
    emulator.endpoints.update_endpoint(
        endpoint={"name": pair, "traffic_split": {"11": 50, "22": 50}},
        update_mask={"paths": ["traffic_split"]},
    )
    answers = [emulator.predictions.predict(endpoint=pair, instances=[1]) for _ in range(60)]
    assert {answer.deployed_model_id for answer in answers} == {"11", "22"}


@pytest.mark.parametrize(
    ("traffic", "message"),
    [({"11": 60, "22": 30}, "90"), ({"11": 50, "33": 50}, "33"), ({"11": 120, "22": -20}, "120")],
)
def test_a_split_must_share_out_100_among_the_deployed(
    emulator: Emulator, pair: str, traffic: dict[str, int], message: str
) -> None:
    before = emulator.endpoints.get_endpoint(name=pair)
    with pytest.raises(exceptions.BadRequest, match=message):
        emulator.endpoints.update_endpoint(
            endpoint={"name": pair, "traffic_split": traffic}, update_mask={"paths": ["traffic_split"]}
        )
    assert emulator.endpoints.get_endpoint(name=pair) == before


def test_an_update_of_a_stale_endpoint_is_aborted(emulator: Emulator) -> None:
    name = emulator.endpoint(labels={"stage": "one"})
    read = emulator.endpoints.get_endpoint(name=name)
    changed = emulator.endpoints.update_endpoint(
        endpoint={"name": name, "etag": read.etag, "labels": {"stage": "two"}},
        update_mask={"paths": ["labels"]},
    )
    assert (dict(changed.labels), changed.display_name) == ({"stage": "two"}, "ndvi")
    with pytest.raises(exceptions.Conflict, match="etag"):
        emulator.endpoints.update_endpoint(
            endpoint={"name": name, "etag": read.etag, "display_name": "late"},
            update_mask={"paths": ["display_name"]},
        )
    assert emulator.endpoints.get_endpoint(name=name).display_name == "ndvi"


def test_a_model_with_traffic_is_undeployed_only_with_a_new_split(emulator: Emulator, pair: str, model: str) -> None:
    endpoint = emulator.endpoint()
    emulator.deploy(endpoint, model, {"0": 100}, id="1")
    emulator.deploy(endpoint, model, {"1": 90, "0": 10}, id="2")
    with pytest.raises(exceptions.BadRequest, match="10 %"):
        emulator.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="2").result(timeout=20)
    with pytest.raises(exceptions.BadRequest, match="undeploy 1, 2 first"):
        emulator.endpoints.delete_endpoint(name=endpoint).result(timeout=20)
    with pytest.raises(exceptions.BadRequest, match="is deployed at"):
        emulator.models.delete_model(name=model).result(timeout=20)
    emulator.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="2", traffic_split={"1": 100}).result(
        timeout=20
    )
    left = emulator.endpoints.get_endpoint(name=endpoint)
    assert ([deployed.id for deployed in left.deployed_models], dict(left.traffic_split)) == (["1"], {"1": 100})
    emulator.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="1").result(timeout=20)
    assert not emulator.endpoints.get_endpoint(name=endpoint).traffic_split
    with pytest.raises(exceptions.BadRequest, match="traffic_split"):
        emulator.predictions.predict(endpoint=endpoint, instances=[1])


def test_a_server_that_dies_fails_the_deployment_and_leaves_the_endpoint(emulator: Emulator) -> None:
    environment = [{"name": "FAULT", "value": "RuntimeError: model.pt is no archive"}]
    broken = emulator.upload("broken", container_spec={"env": environment}).model
    endpoint = emulator.endpoint()
    before = emulator.endpoints.get_endpoint(name=endpoint)
    with pytest.raises(exceptions.GoogleAPICallError, match=r"model\.pt is no archive"):
        emulator.deploy(endpoint, broken, {"0": 100})
    assert emulator.endpoints.get_endpoint(name=endpoint) == before


def test_deploy_refuses_a_taken_id_and_a_wrong_split_at_once(emulator: Emulator, pair: str, model: str) -> None:
    with pytest.raises(exceptions.Conflict, match="11"):
        emulator.deploy(pair, model, id="11")
    with pytest.raises(exceptions.BadRequest, match="sums to 40"):
        emulator.deploy(pair, model, {"0": 40})
    with pytest.raises(exceptions.NotFound, match="models/absent"):
        emulator.deploy(pair, f"{PARENT}/models/absent")
    with pytest.raises(exceptions.BadRequest, match="machineType"):
        emulator.deploy(pair, model, dedicated_resources={})


def test_an_endpoint_id_is_taken_once_and_checked(emulator: Emulator) -> None:
    request = {"parent": PARENT, "endpoint": {"display_name": "a"}, "endpoint_id": "once"}
    assert emulator.endpoints.create_endpoint(request).result(timeout=20).name == f"{NUMBERED}/endpoints/once"
    with pytest.raises(exceptions.Conflict, match="endpoints/once"):
        emulator.endpoints.create_endpoint(request)
    with pytest.raises(exceptions.BadRequest, match="Once_More"):
        emulator.endpoints.create_endpoint({**request, "endpoint_id": "Once_More"})


def test_a_server_s_refusal_and_failure_come_through(emulator: Emulator, pair: str) -> None:
    with pytest.raises(exceptions.BadRequest, match="band B4 is missing"):
        emulator.predictions.predict(endpoint=pair, instances=["refuse"])
    with pytest.raises(exceptions.InternalServerError, match="out of memory"):
        emulator.predictions.predict(endpoint=pair, instances=["crash"])


def test_a_request_or_an_answer_over_the_limit_of_shared_endpoints_is_refused(emulator: Emulator, pair: str) -> None:
    def size_of(instance: str) -> int:
        return len(json.dumps({"instances": [instance]}).encode())

    def predict(instance: str) -> int:
        body = json.dumps({"instances": [instance]}).encode()
        with urllib.request.urlopen(f"{emulator.url}/v1/{pair}:predict", body) as answer:  # noqa: S310
            status: int = answer.status
            return status

    fits = "briefly".ljust(1_500_000 - size_of(""), "x")
    assert predict(fits) == 200
    with pytest.raises(urllib.error.HTTPError) as caught:
        predict(fits + "x")
    with caught.value as error:
        assert error.code == 400
        assert "request size (1500001 bytes) exceeds 1.500MB" in json.load(error)["error"]["message"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        predict("at length")
    with caught.value as error:
        assert "response size (1500021 bytes) exceeds 1.500MB" in json.load(error)["error"]["message"]


def test_grpc_reaches_the_model_over_rest(emulator: Emulator, pair: str) -> None:
    method = "/tensorflow.serving.PredictionService/Predict"
    data = bytes(range(256)) * 4_000
    answer = emulator.predictions.direct_raw_predict({"endpoint": pair, "method_name": method, "input": data})
    assert answer.output == data[::-1]
    with pytest.raises(exceptions.BadRequest, match=f"no input for {method}"):
        emulator.predictions.direct_raw_predict({"endpoint": pair, "method_name": method, "input": b"refuse"})


def test_an_unknown_field_is_refused(emulator: Emulator) -> None:
    request = urllib.request.Request(  # noqa: S310
        f"{emulator.url}/v1/{PARENT}/endpoints", b'{"displayName": "a", "colour": "red"}'
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)  # noqa: S310
    with caught.value as error:
        fault = json.load(error)["error"]
    assert (fault["code"], fault["status"]) == (400, "INVALID_ARGUMENT")
    assert "colour" in fault["message"]


def set_traffic(emulator: Emulator, endpoint: str, traffic: dict[str, int]) -> None:
    emulator.endpoints.update_endpoint(
        endpoint={"name": endpoint, "traffic_split": traffic}, update_mask={"paths": ["traffic_split"]}
    )


def undeploy(emulator: Emulator, endpoint: str, deployed_id: str, traffic: dict[str, int] | None = None) -> None:
    result_of(
        emulator.endpoints.undeploy_model(
            {"endpoint": endpoint, "deployed_model_id": deployed_id, "traffic_split": traffic or {}}
        )
    )


def test_replicas_are_changed_where_a_model_is_deployed(emulator: Emulator, pair: str) -> None:
    def mutate(deployed_id: str, *paths: str, endpoint: str = pair, **resources: Any) -> Any:
        deployed = {"id": deployed_id, "dedicated_resources": resources}
        return result_of(
            emulator.endpoints.mutate_deployed_model(
                {"endpoint": endpoint, "deployed_model": deployed, "update_mask": {"paths": paths}}
            )
        ).deployed_model

    replicas = "dedicated_resources.max_replica_count"
    changed = mutate("22", replicas, max_replica_count=3)
    assert (changed.dedicated_resources.min_replica_count, changed.dedicated_resources.max_replica_count) == (1, 3)
    first, second = emulator.endpoints.get_endpoint(name=pair).deployed_models
    assert (first.dedicated_resources.max_replica_count, second) == (1, changed)
    with refused("INVALID_ARGUMENT", "maxReplicaCount 1 is less than minReplicaCount 2"):
        mutate("11", replicas, "dedicated_resources.min_replica_count", min_replica_count=2, max_replica_count=1)
    with refused("INVALID_ARGUMENT", "machine_type': only dedicated_resources.min_replica_count"):
        mutate("11", "dedicated_resources.machine_spec.machine_type")
    with refused("INVALID_ARGUMENT", "updateMask is required"):
        mutate("11")
    with refused("NOT_FOUND", f"'{pair}' has no deployed model '33'"):
        mutate("33", replicas)
    with refused("NOT_FOUND", "endpoints/9"):
        mutate("11", replicas, endpoint=f"{NUMBERED}/endpoints/9")
    assert list(emulator.endpoints.get_endpoint(name=pair).deployed_models) == [first, second]


def test_only_what_can_be_changed_is_changed(emulator: Emulator) -> None:
    name = emulator.endpoint(labels={"a": "1", "b": "2"}, description="maps")
    changed = emulator.endpoints.update_endpoint(
        endpoint={"name": name, "labels": {"c": "3"}, "description": "not asked for"}, update_mask={"paths": ["labels"]}
    )
    assert (changed.labels, changed.description, changed.display_name) == ({"c": "3"}, "maps", "ndvi")
    assert changed.update_time > changed.create_time
    for path, message in (
        ("colour", "'colour': only description, display_name, labels, traffic_split"),
        ("name", "'name': only"),
        ("deployed_models", "'deployed_models': only"),
        ("display_name", "displayName is required"),
    ):
        with refused("INVALID_ARGUMENT", message):
            emulator.endpoints.update_endpoint(endpoint={"name": name}, update_mask={"paths": ["description", path]})
    with refused("INVALID_ARGUMENT", "updateMask is required"):
        emulator.endpoints.update_endpoint(endpoint={"name": name, "description": "a"}, update_mask={})
    with refused("NOT_FOUND", "endpoints/9"):
        emulator.endpoints.update_endpoint(
            endpoint={"name": f"{NUMBERED}/endpoints/9"}, update_mask={"paths": ["labels"]}
        )
    assert emulator.endpoints.get_endpoint(name=name) == changed


def test_a_stale_update_says_aborted(emulator: Emulator) -> None:
    name = emulator.endpoint()
    with refused("ABORTED", f"'{name}' has changed since etag \"stale\""):
        emulator.endpoints.update_endpoint(
            endpoint={"name": name, "etag": '"stale"', "description": "a"}, update_mask={"paths": ["description"]}
        )


def test_an_endpoint_without_a_split_takes_no_requests(emulator: Emulator, model: str) -> None:
    endpoint = emulator.endpoint()
    emulator.deploy(endpoint, model, id="1")
    with refused("FAILED_PRECONDITION", f"'{endpoint}' doesn't have traffic_split"):
        emulator.predictions.predict(endpoint=endpoint, instances=[1])
    set_traffic(emulator, endpoint, {"1": 100})
    assert emulator.predictions.predict(endpoint=endpoint, instances=[1]).deployed_model_id == "1"
    set_traffic(emulator, endpoint, {})
    with refused("FAILED_PRECONDITION", "doesn't have traffic_split"):
        emulator.predictions.predict(endpoint=endpoint, instances=[1])
    undeploy(emulator, endpoint, "1")
    with refused("NOT_FOUND", "endpoints/9"):
        emulator.predictions.predict(endpoint=f"{PARENT}/endpoints/9", instances=[1])


def test_a_second_model_comes_beside_one_that_goes_on_serving(emulator: Emulator, model: str) -> None:
    endpoint = emulator.endpoint()
    emulator.deploy(endpoint, model, {"0": 100}, id="1")
    slow = emulator.upload(container_spec={"env": [{"name": "LOADING_S", "value": "0.5"}]}).model
    resources = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}
    operation = emulator.endpoints.deploy_model(
        endpoint=endpoint,
        deployed_model={"id": "2", "model": slow, "dedicated_resources": resources},
        traffic_split={"1": 80, "0": 20},
    )
    meanwhile = 0
    while not emulator.endpoints.get_operation({"name": operation.operation.name}).done:
        assert emulator.predictions.predict(endpoint=endpoint, instances=[1]).deployed_model_id in {"1", "2"}
        meanwhile += 1
    assert meanwhile > 5
    assert result_of(operation).deployed_model.id == "2"
    left = emulator.endpoints.get_endpoint(name=endpoint)
    assert ([deployed.id for deployed in left.deployed_models], left.traffic_split) == (["1", "2"], {"1": 80, "2": 20})
    # Without a split nothing is moved.
    emulator.deploy(endpoint, model, id="3")
    assert emulator.endpoints.get_endpoint(name=endpoint).traffic_split == {"1": 80, "2": 20}
    for deployed_id, traffic in (("3", None), ("2", {"1": 100, "2": 0}), ("1", None)):
        undeploy(emulator, endpoint, deployed_id, traffic)
    assert not emulator.endpoints.get_endpoint(name=endpoint).deployed_models


@pytest.mark.parametrize(
    ("traffic", "message"),
    [
        ({"0": 60}, "sums to 60"),
        ({"0": 60, "11": 60}, "sums to 120"),
        ({"0": 60, "44": 40}, "names 44, .* it has 11, 22, 33"),
        ({"0": 110, "11": -10}, "has -10 for '11'"),
    ],
)
def test_a_deployment_with_a_wrong_split_is_refused_at_once(
    emulator: Emulator, pair: str, model: str, traffic: dict[str, int], message: str
) -> None:
    with refused("INVALID_ARGUMENT", message):
        emulator.deploy(pair, model, traffic, id="33")


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"id": "12345678901"}, "INVALID_ARGUMENT", "'12345678901': 1 to 10 digits"),
        ({"id": "a"}, "INVALID_ARGUMENT", "'a': 1 to 10 digits"),
        ({"id": "11"}, "ALREADY_EXISTS", "a deployed model '11' already"),
        ({"model": f"{PARENT}/models/deployed@7"}, "NOT_FOUND", "deployed@7"),
        ({"model": ""}, "NOT_FOUND", "The Model ''"),
        (
            {"dedicated_resources": {"machine_spec": {"machine_type": "big"}, "min_replica_count": 1}},
            "INVALID_ARGUMENT",
            "machineType 'big'",
        ),
        (
            {"dedicated_resources": {"machine_spec": {"machine_type": "n1-standard-2"}}},
            "INVALID_ARGUMENT",
            "minReplicaCount 0 must be 1 or more",
        ),
        ({"automatic_resources": {"min_replica_count": 1}}, "INVALID_ARGUMENT", "machineType"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused_at_once(
    emulator: Emulator, pair: str, model: str, fields: dict[str, Any], status: str, message: str
) -> None:
    before = emulator.endpoints.get_endpoint(name=pair)
    resources = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}
    resources = {} if "automatic_resources" in fields else {"dedicated_resources": resources}
    with refused(status, message):
        emulator.endpoints.deploy_model(endpoint=pair, deployed_model={"model": model, **resources, **fields})
    assert emulator.endpoints.get_endpoint(name=pair) == before


def test_what_serves_is_not_undeployed(emulator: Emulator, pair: str) -> None:
    set_traffic(emulator, pair, {"11": 100})
    before = emulator.endpoints.get_endpoint(name=pair)
    for traffic, message in (
        ({}, "'11' of .* has 100 %"),
        ({"11": 30, "22": 70}, "'11' of .* has 30 %"),
    ):
        with refused("FAILED_PRECONDITION", message):
            undeploy(emulator, pair, "11", traffic)
    with refused("INVALID_ARGUMENT", "sums to 70"):
        undeploy(emulator, pair, "11", {"22": 70})
    with refused("NOT_FOUND", f"'{pair}' has no deployed model '44'"):
        undeploy(emulator, pair, "44")
    with refused("NOT_FOUND", "endpoints/9"):
        undeploy(emulator, f"{PARENT}/endpoints/9", "11")
    with refused("FAILED_PRECONDITION", f"'{pair}' has deployed models: undeploy 11, 22 first"):
        emulator.endpoints.delete_endpoint(name=pair)
    with refused("NOT_FOUND", "endpoints/9"):
        emulator.endpoints.delete_endpoint(name=f"{PARENT}/endpoints/9")
    assert emulator.endpoints.get_endpoint(name=pair) == before


def test_of_two_endpoints_made_at_once_under_one_id_one_is_refused(emulator: Emulator) -> None:
    request = {"parent": PARENT, "endpoint": {"display_name": "twice"}, "endpoint_id": "twice"}
    first = emulator.endpoints.create_endpoint(request)
    with refused("ALREADY_EXISTS", f"{NUMBERED}/endpoints/twice' already exists"):
        result_of(emulator.endpoints.create_endpoint(request))
    assert result_of(first).name == f"{NUMBERED}/endpoints/twice"
    assert len(aiplatform.Endpoint.list(filter='display_name="twice"')) == 1


def test_a_model_deployed_at_an_endpoint_that_is_deleted_meanwhile_is_not(emulator: Emulator, model: str) -> None:
    endpoint = emulator.endpoint()
    deletion = emulator.endpoints.delete_endpoint(name=endpoint)
    with refused("NOT_FOUND", endpoint):
        emulator.deploy(endpoint, model, {"0": 100})
    result_of(deletion)


def test_endpoints_are_listed_as_asked_for(emulator: Emulator) -> None:
    for number, display_name in ((1, "b"), (2, "a"), (3, "b")):
        request = {"display_name": display_name, "labels": {"listed": str(number)}}
        result_of(emulator.endpoints.create_endpoint(parent=PARENT, endpoint=request, endpoint_id=f"listed-{number}"))

    def listed(**fields: Any) -> str:
        request = {"parent": PARENT, "filter": "labels.listed:*", **fields}
        return "".join(endpoint.name[-1] for endpoint in emulator.endpoints.list_endpoints(request))

    assert listed() == "321"
    assert listed(page_size=1) == "321"
    assert listed(order_by="display_name desc, create_time", page_size=2) == "132"
    assert listed(filter="endpoint=listed-2 OR labels.listed=3", order_by="createTime") == "23"
    assert listed(filter='labels:listed AND displayName!="a"') == "31"
    assert [found.name for found in aiplatform.Endpoint.list(filter="endpoint=listed-1")] == ["listed-1"]
    with refused("INVALID_ARGUMENT", "'display_name' cannot be compared by :"):
        listed(filter="display_name:b*")


def test_the_sdk_moves_traffic_and_undeploys(emulator: Emulator, model: str) -> None:
    name = emulator.endpoint()
    for deployed_id in ("1", "2"):
        emulator.deploy(name, model, {"0": 100}, id=deployed_id)
    endpoint = aiplatform.Endpoint(name)
    endpoint.update(display_name="moved", labels={"by": "sdk"}, traffic_split={"1": 25, "2": 75})
    assert (endpoint.display_name, endpoint.labels, endpoint.traffic_split) == (
        "moved",
        {"by": "sdk"},
        {"1": 25, "2": 75},
    )
    assert [(deployed.id, deployed.model) for deployed in endpoint.list_models()] == [("1", model), ("2", model)]
    # The SDK gives what is left of the traffic to the other itself.
    endpoint.undeploy("1")
    assert (endpoint.traffic_split, [deployed.id for deployed in endpoint.list_models()]) == ({"2": 100}, ["2"])
    endpoint.delete(force=True)
    with refused("NOT_FOUND", endpoint.resource_name):
        emulator.endpoints.get_endpoint(name=endpoint.resource_name)


@pytest.mark.parametrize("endpoint_id", ["a-", "-a", "A", "0", "01", "1234567890", "1a", "a" * 64, "a_b"])
def test_an_endpoint_id_that_is_none_is_refused(emulator: Emulator, endpoint_id: str) -> None:
    with refused("INVALID_ARGUMENT", f"endpointId '{endpoint_id}'"):
        emulator.endpoints.create_endpoint(parent=PARENT, endpoint={"display_name": "a"}, endpoint_id=endpoint_id)
