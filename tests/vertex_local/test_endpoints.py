import json
import urllib.error
import urllib.request

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform

from .conftest import ARTIFACTS, ECHO, NUMBERED, PARENT, Emulator


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
    data = bytes(range(256)) * 10_000
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
