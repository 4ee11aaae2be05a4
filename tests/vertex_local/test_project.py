"""The project that the local Vertex AI stands in: its description, and its errors as Google's clients see them.

What each thing that is lacking comes to is tested in tests/test_doctor.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.resourcemanager_v3.services.projects import ProjectsClient
from google.cloud.service_usage_v1.services.service_usage import ServiceUsageClient
from hypothesis import given
from hypothesis import strategies as st

from containers.vertex_local.errors import FailedPreconditionError
from containers.vertex_local.project.description import Account, Description

from .conftest import BUCKET, Emulator, refused

_names = st.lists(st.text(max_size=20), max_size=3)
_accounts = st.builds(
    Account, disabled=st.booleans(), roles=_names, bucket_roles=_names, condition=st.text(max_size=20)
)
_descriptions = st.builds(
    Description,
    state=st.sampled_from(["ACTIVE", "DELETE_REQUESTED", None]),
    services_disabled=_names,
    permissions_denied=_names,
    service_accounts=st.dictionaries(st.text(), st.none() | _accounts, max_size=3),
    images_missing=_names,
    quotas=st.dictionaries(st.text(), st.dictionaries(st.text(), st.integers(), max_size=2), max_size=2),
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "project.json"


@pytest.fixture
def description(emulator: Emulator) -> Iterator[Path]:
    path = emulator.state / "project.json"
    yield path
    path.unlink(missing_ok=True)


@given(_descriptions)
def test_what_is_described_is_read(file: Path, wanted: Description) -> None:
    file.write_text(wanted.model_dump_json(), encoding="utf-8")
    assert Description.read(file) == wanted


@given(st.binary(max_size=40) | _json.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_description_is_named(file: Path, content: bytes) -> None:
    """Whatever the file holds, it is read or refused with its name."""
    file.write_bytes(content)
    try:
        Description.read(file)
    except FailedPreconditionError as error:
        refusal = error.message
    else:
        refusal = ""
    named = str(file) in refusal and "correct or remove" in refusal
    assert named or set(json.loads(content)) <= set(Description.model_fields)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"services_disbled": []}', "services_disbled: Extra inputs are not permitted"),
        ('{"quotas": {"CPUs": {"us-east1": "many"}}}', r"quotas\.CPUs\.us-east1: Input should be a valid integer"),
        ("[]", "the whole: Input should be a valid dictionary"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_fault_is_named_with_its_place(file: Path, content: str, fault: str) -> None:
    file.write_text(content)
    with pytest.raises(FailedPreconditionError, match=fault):
        Description.read(file)


def test_no_file_is_a_project_in_order(tmp_path: Path) -> None:
    assert Description.read(tmp_path / "project.json") == Description()


def test_accounts() -> None:
    steps, trigger = (f"{name}@p.iam.gserviceaccount.com" for name in ("steps", "trigger"))
    described = Description(service_accounts={steps: None, trigger: Account(roles=[])})
    usual = "7-compute@developer.gserviceaccount.com"
    assert described.accounts("p", "7") == {usual: Account(), trigger: Account(roles=[])}


@pytest.mark.slow
def test_disabled_api_is_told_as_google_does(emulator: Emulator, description: Path) -> None:
    client = _client(emulator, ServiceUsageClient)
    description.write_text('{"services_disabled": ["serviceusage.googleapis.com"]}')
    with refused("PERMISSION_DENIED", "has not been used in project 642872260880 before or it is disabled"):
        client.batch_get_services({"parent": "projects/local", "names": ["projects/local/services/a.googleapis.com"]})
    status, answer = emulator.http("GET", "/v1/projects/local/services:batchGet?names=a")
    assert status == 403
    assert answer["error"]["details"] == [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "SERVICE_DISABLED",
            "domain": "googleapis.com",
            "metadata": {"service": "serviceusage.googleapis.com", "consumer": "projects/642872260880"},
        }
    ]


@pytest.mark.slow
def test_description_is_read_at_each_request(emulator: Emulator, description: Path) -> None:
    client = _client(emulator, ProjectsClient)
    assert client.get_project(name="projects/local").state.name == "ACTIVE"
    description.write_text('{"state": null}')
    with refused("PERMISSION_DENIED", "or it may not exist"):
        client.get_project(name="projects/local")
    description.write_text('{"stat": null}')
    with refused("FAILED_PRECONDITION", "stat: Extra inputs are not permitted"):
        client.get_project(name="projects/local")
    description.unlink()
    assert client.get_project(name="projects/642872260880").name == "projects/642872260880"


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["", "request.time < timestamp('2030-01-01T00:00:00Z')"])
def test_roles_of_an_account_are_under_its_condition(emulator: Emulator, description: Path, condition: str) -> None:
    account = "trigger@local.iam.gserviceaccount.com"
    description.write_text(json.dumps({"service_accounts": {account: {"condition": condition}}}))
    policy = _client(emulator, ProjectsClient).get_iam_policy(resource="projects/local")
    found = {each.condition.expression for each in policy.bindings if f"serviceAccount:{account}" in each.members}
    assert (policy.version, found) == (3 if condition else 1, {condition})
    buckets = storage.Client("local", AnonymousCredentials(), client_options={"api_endpoint": emulator.url})
    of_bucket = buckets.bucket(BUCKET).get_iam_policy(requested_policy_version=3)
    held = [each for each in of_bucket.bindings if f"serviceAccount:{account}" in each["members"]]
    assert [each.get("condition", {}).get("expression", "") for each in held] == [condition]
    assert of_bucket.version == (3 if condition else 1)


@pytest.mark.slow
def test_malformed_request_is_refused(emulator: Emulator) -> None:
    for path in ("/v1/projects/local/services:batchGet", "/storage/v1/b/models/iam/testPermissions"):
        status, answer = emulator.http("GET", path)
        assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    for body in (b"", b"[]", b"{", b'{"permissions": 1}'):
        status, answer = emulator.http("POST", "/v3/projects/local:testIamPermissions", body)
        assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")


def _client(emulator: Emulator, kind: Any) -> Any:
    return kind(transport="rest", client_options={"api_endpoint": emulator.url}, credentials=AnonymousCredentials())
