import http.client
import json
import random
import urllib.parse
from typing import Any

import pytest
from google.api_core import exceptions
from hypothesis import given
from hypothesis import strategies as st

from containers.vertex_local import messages
from containers.vertex_local.api.methods import OPERATIONS, methods_of
from containers.vertex_local.api.transcoding import request_message
from containers.vertex_local.app import SERVICES
from containers.vertex_local.errors import InvalidArgumentError

from .conftest import NUMBERED, PARENT, Emulator

METHODS = {method.name: method for service in SERVICES for method in methods_of(service)}
TAKING_BODIES = ["CreateEndpoint", "UpdateModel", "MutateDeployedModel", "MergeVersionAliases", "CreatePipelineJob"]
ALL = [*TAKING_BODIES, "ListModels", "GetModel", "WaitOperation", "ListPipelineJobs"]


def message_of(name: str, body: bytes = b"", *query: tuple[str, str]) -> Any:
    method = METHODS[name]
    return request_message(method, method.rules[0], "projects/p/locations/l", query, body)


def names_in(descriptor: Any, levels: int = 4) -> set[str]:
    """Names of the fields of a message and of those inside, in both spellings."""
    inner = [names_in(field.message_type, levels - 1) for field in descriptor.fields if field.message_type and levels]
    return {name for field in descriptor.fields for name in (field.name, field.json_name)}.union(*inner)


names = st.sampled_from(sorted(set.union(*(names_in(METHODS[name].request.DESCRIPTOR) for name in ALL)))) | st.text()
# Numbers are doubles in a Struct.
integers = st.integers(-(2**53), 2**53) | st.just(10**400)
contents = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)
queries = st.lists(
    st.tuples(st.lists(names, min_size=1, max_size=3).map(".".join), st.text() | st.sampled_from(["true", "1", "a_b"])),
    max_size=3,
)


@given(
    name=st.sampled_from(ALL),
    body=contents.map(lambda content: json.dumps(content).encode()) | st.binary(),
    query=queries,
)
def test_any_request_is_a_message_or_an_invalid_argument(name: str, body: bytes, query: list[tuple[str, str]]) -> None:
    try:
        message = message_of(name, body, *query)
    except InvalidArgumentError:
        return
    # What is taken can be kept: it is read back as the same.
    assert messages.parse(METHODS[name].request, messages.render(message).encode()) == message


@given(content=st.dictionaries(st.text(), contents))
def test_parameters_of_any_kind_are_taken_or_an_invalid_argument(content: dict[str, Any]) -> None:
    body = json.dumps({"runtimeConfig": {"parameterValues": content}}, ensure_ascii=False)
    try:
        message = message_of("CreatePipelineJob", body.encode(errors="surrogatepass"))
    except InvalidArgumentError:
        return
    values = json.loads(messages.render(message)).get("pipelineJob", {}).get("runtimeConfig", {})
    assert values.get("parameterValues", {}) == content


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "to be a JSON object"),
        (b"null", "to be a JSON object"),
        (b"NaN", "NaN is no JSON"),
        (b'{"displayName": "a"', "delimiter"),
        (b'{"displayName": "\xff"}', "utf-8"),
        (b'{"displayName": "\\ud800"}', "surrogate"),
        (b'{"displayName": 5}', "displayName"),
        (b'{"labels": ["a"]}', "labels"),
        (b'{"labels": {"a": 1}}', "labels"),
        (b'{"trafficSplit": {"1": 99999999999}}', "out of range"),
        (b'{"trafficSplit": {"1": 1e400}}', "1e400 is greater than any"),
        (b'{"trafficSplit": {"1": Infinity}}', "Infinity is no JSON"),
        (b'{"labels": ' + b"[" * 100_000, "recursion"),
        (b'{"labels": ' + b"[" * 120 + b"]" * 120 + b"}", "more than 100 levels"),
        (b'{"colour": "red"}', "Unknown name \"colour\" at 'endpoint': Cannot find field."),
    ],
)
def test_a_body_that_is_no_endpoint_is_refused_with_the_reason(emulator: Emulator, body: bytes, message: str) -> None:
    code, answer = emulator.http("POST", f"/v1/{PARENT}/endpoints", body)
    assert (code, answer["error"]["code"], answer["error"]["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert message in answer["error"]["message"]


def test_what_is_nested_as_deeply_as_allowed_can_be_listed(emulator: Emulator) -> None:
    value: Any = 1
    for _ in range(97):
        value = [value]
    spec = {"root": {"dag": {"tasks": {}}, "extra": value}, "pipelineInfo": {"name": "deep"}}
    job = {"pipelineSpec": spec, "runtimeConfig": {"gcsOutputDirectory": "gs://staging/root"}}
    code, created = emulator.http(
        "POST", "/v1/projects/local/locations/europe-west1/pipelineJobs", json.dumps(job).encode()
    )
    assert code == 200
    assert created["pipelineSpec"] == spec
    code, listed = emulator.http("GET", f"/v1/{created['name']}")
    assert (code, listed["pipelineSpec"]) == (200, spec)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("colour=red", 'Unknown name "colour": Cannot bind query parameter'),
        ("pageSize=many", "pageSize"),
        ("pageSize=99999999999", "out of range"),
        ("pageSize=-1", "pageSize -1"),
        ("parent.name=a", 'Unknown name "parent.name"'),
        ("filter=%FF%00", "Invalid filter"),
        ("pageToken=%C3%A9", "pageToken"),
        ("orderBy=colour", "orderBy"),
    ],
)
def test_a_query_that_the_method_does_not_have_is_refused(emulator: Emulator, query: str, message: str) -> None:
    code, answer = emulator.http("GET", f"/v1/{PARENT}/models?{query}")
    assert (code, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert message in answer["error"]["message"]


def test_parameters_of_every_google_api_are_taken(emulator: Emulator) -> None:
    system = "alt=json&$alt=json;enum-encoding=int&fields=models&key=k&prettyPrint=true&quotaUser=me&$.xgafv=1"
    code, _ = emulator.http("GET", f"/v1/{PARENT}/models?{system}&access_token=t&upload_protocol=raw&page_size=1")
    assert code == 200


def test_enums_are_numbers_where_the_client_asks_for_these(emulator: Emulator) -> None:
    name = emulator.upload("numbered").model
    _, by_name = emulator.http("GET", f"/v1/{name}")
    _, by_number = emulator.http("GET", f"/v1/{name}?$alt=json;enum-encoding=int")
    assert by_name["supportedDeploymentResourcesTypes"] == ["DEDICATED_RESOURCES"]
    assert by_number["supportedDeploymentResourcesTypes"] == [1]


@pytest.mark.parametrize("mask", ["description,display_name", "description,displayName"])
def test_a_mask_is_taken_in_either_spelling(emulator: Emulator, mask: str) -> None:
    endpoint = emulator.endpoint()
    body = json.dumps({"displayName": mask[-5:], "description": "maps"}).encode()
    code, changed = emulator.http("PATCH", f"/v1/{endpoint}?updateMask={mask}", body)
    assert (code, changed["displayName"], changed["description"]) == (200, mask[-5:], "maps")


def test_a_mask_in_a_body_is_taken_in_either_spelling() -> None:
    for mask in ("dedicated_resources.min_replica_count", "dedicatedResources.minReplicaCount"):
        message = message_of("MutateDeployedModel", json.dumps({"updateMask": mask}).encode())
        assert list(message.update_mask.paths) == ["dedicated_resources.min_replica_count"]


def test_repeated_parameters_add_up_and_others_are_replaced() -> None:
    merged = message_of("MergeVersionAliases", b'{"versionAliases": ["a"]}', ("versionAliases", "b"))
    assert list(merged.version_aliases) == ["a", "b"]
    assert message_of("ListModels", b"", ("pageSize", "3"), ("page_size", "4")).page_size == 4


def test_the_path_says_which_resource_whatever_the_body_says(emulator: Emulator) -> None:
    mine, other = emulator.endpoint(display_name="mine"), emulator.endpoint(display_name="other")
    body = json.dumps({"name": other, "displayName": "changed"}).encode()
    _, changed = emulator.http("PATCH", f"/v1/{mine}?updateMask=displayName", body)
    assert changed["name"] == mine
    assert emulator.endpoints.get_endpoint(name=other).display_name == "other"


@pytest.mark.parametrize(
    ("method", "path", "code", "status"),
    [
        ("POST", f"{PARENT}/models:copy", 501, "UNIMPLEMENTED"),
        ("POST", f"{PARENT}/models/a:export", 501, "UNIMPLEMENTED"),
        ("GET", f"{PARENT}/models/a/evaluations", 501, "UNIMPLEMENTED"),
        ("GET", f"{PARENT}/features", 404, "NOT_FOUND"),
        ("POST", f"{PARENT}/models/a:fry", 404, "NOT_FOUND"),
        ("POST", f"{PARENT}/models", 404, "NOT_FOUND"),
        ("DELETE", f"{PARENT}/models", 404, "NOT_FOUND"),
        ("GET", f"{PARENT}/models:upload", 404, "NOT_FOUND"),
        ("PUT", f"{PARENT}/models/a", 404, "NOT_FOUND"),
        ("PATCH", f"{PARENT}/pipelineJobs/a", 404, "NOT_FOUND"),
        ("GET", f"{PARENT}/models/a%2Fb", 404, "NOT_FOUND"),
        ("GET", "", 404, "NOT_FOUND"),
    ],
)
def test_what_there_is_not_is_told_from_what_is_not_implemented(
    emulator: Emulator, method: str, path: str, code: int, status: str
) -> None:
    answered, body = emulator.http(method, f"/v1/{path}")
    assert (answered, body["error"]["code"], body["error"]["status"]) == (code, code, status)
    assert method in body["error"]["message"] or "not implemented" in body["error"]["message"]


def test_a_path_beside_the_api_is_not_found(emulator: Emulator) -> None:
    for path in ("/v2/projects", "/ui/"):
        code, body = emulator.http("GET", path)
        assert (code, body["error"]["status"]) == (404, "NOT_FOUND")
        assert path in body["error"]["message"]


def test_an_unimplemented_method_has_the_clients_own_exception(emulator: Emulator) -> None:
    with pytest.raises(exceptions.MethodNotImplemented, match=r"ModelService\.CopyModel is not implemented"):
        emulator.models.copy_model(parent=PARENT, source_model=f"{NUMBERED}/models/a")


def test_every_method_has_paths_of_its_own() -> None:
    """Two methods that one request would reach could not be told apart."""
    paths: dict[tuple[str, str], str] = {}
    for service in (service for service in SERVICES if service != OPERATIONS):
        for method in methods_of(service):
            for rule in method.rules:
                key = (rule.http_method, rule.path.pattern)
                assert paths.setdefault(key, method.name) == method.name


def test_random_bytes_do_not_end_a_connection(emulator: Emulator) -> None:
    """One connection through it all: each answer is JSON with 2xx or 4xx, and the next one still comes."""
    chance = random.Random(1)  # noqa: S311
    connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=20)
    for _ in range(200):
        method = chance.choice(["GET", "POST", "PATCH", "DELETE"])
        path = urllib.parse.quote(chance.randbytes(chance.randrange(12)))
        prefix = chance.choice(["models/", "endpoints/", "pipelineJobs/", "models/a/operations/", "models:upload?"])
        body = chance.choice([b"", chance.randbytes(20), b'{"model": {}}', b"{" * 500])
        connection.request(method, f"/v1/{PARENT}/{prefix}{path}", body)
        answer = connection.getresponse()
        json.loads(answer.read())
        assert answer.status == 200 or 400 <= answer.status < 500
    connection.close()


@pytest.mark.parametrize(
    ("name", "body", "parameter", "message"),
    [
        (
            "MergeVersionAliases",
            b'{"versionAliases": 5}',
            "versionAliases",
            "'versionAliases' is to be an array, not 5",
        ),
        (
            "UpdateModel",
            b'{"containerSpec": 5}',
            "model.containerSpec.args",
            "'containerSpec' is to be an object, not 5",
        ),
    ],
)
def test_a_parameter_that_does_not_fit_the_body_is_refused(
    name: str, body: bytes, parameter: str, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        message_of(name, body, (parameter, "a"))
