"""Doctor against a real local Vertex AI: a project in order, and every fault by itself."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components import local
from components.built_images import Images
from components.doctor import Needs, examine
from components.earthengine.errors import ParameterError, VertexError
from components.project import Project
from components.vertex import EMULATOR
from tests.road.conftest import pipeline

pytestmark = pytest.mark.slow

REPOSITORY = "us-central1-docker.pkg.dev/local/images"
STEPS = "steps@local.iam.gserviceaccount.com"
ME = '--member="user:$(gcloud config get account)"'
IAM = "gcloud projects add-iam-policy-binding local"
BUCKET_IAM = "gcloud storage buckets add-iam-policy-binding gs://local"
CREATE = "gcloud artifacts repositories create"
HERE = "--location=us-central1 --project=local"
QUOTA = "CustomModelServingCPUsPerProjectPerRegion"
VERTEX_PERMISSIONS = (
    *(f"aiplatform.pipelineJobs.{each}" for each in ("create", "get")),
    *(f"aiplatform.endpoints.{each}" for each in ("get", "list", "update")),
    *(f"aiplatform.models.{each}" for each in ("get", "list")),
    *(f"aiplatform.schedules.{each}" for each in ("create", "delete", "get", "list", "update")),
)
# Those that an API of its own answers; of what else is off the line under "APIs" tells.
ANSWERING = {
    "artifactregistry": ["repository", "images"],
    "storage": ["bucket", "your roles", "account"],
    "cloudresourcemanager": ["project", "your roles", "account"],
    "iam": ["your roles", "account"],
    "serviceusage": ["APIs"],
    "cloudquotas": ["quota"],
}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state of a local Vertex AI, which the environment points at."""
    folder = tmp_path_factory.mktemp("vertex")
    with local.local_vertex(folder):
        yield folder


@pytest.fixture
def description(state: Path) -> Iterator[Path]:
    """Where the project is described, for a test alone."""
    path = state / "project.json"
    yield path
    path.unlink(missing_ok=True)


def needs(**changes: Any) -> Needs:
    """What is all in order, but for what is changed."""
    plain = Needs(
        Project("local"),
        "us-central1",
        local.BUCKET,
        Images(REPOSITORY),
        STEPS,
        machine_type="n1-standard-2",
        replicas=1,
    )
    return replace(plain, **changes)


def told(wanted: Needs) -> dict[str, list[tuple[str, str]]]:
    """What is found, by its verdict."""
    found: dict[str, list[tuple[str, str]]] = {"passed": [], "warning": [], "failed": []}
    for finding in examine(wanted):
        found[finding.verdict].append((finding.what, finding.text))
    return found


def only_fault(wanted: Needs, what: str, text: str, command: str, unanswered: tuple[str, ...] = ()) -> None:
    """Holds that one thing fails, with this command for it, and that all else is as in a project in order."""
    found = told(wanted)
    assert [each[0] for each in found["failed"]] == [what]
    said = found["failed"][0][1]
    assert text in said
    assert said.endswith(f"; run: {command}")
    assert [each[0] for each in found["warning"]] == list(unanswered)
    lost = Counter(what for what, _ in IN_ORDER) - Counter(what for what, _ in found["passed"])
    # Of several APIs and images, those that are there still pass.
    assert lost == Counter({what} - {"APIs", "images"}) + Counter(unanswered)


IN_ORDER = [
    ("credentials", "none are needed by the local Vertex AI"),
    ("project", "local, number 642872260880"),
    ("APIs", "aiplatform, artifactregistry, storage, run, eventarc, pubsub"),
    ("bucket", "gs://local lies in us-central1"),
    ("repository", f"{REPOSITORY} holds Docker images"),
    ("images", "steps-vertex, steps-pytorch, steps-tensorflow, serving-pytorch, serving-tensorflow, each with the tag"),
    ("your roles", "on local what roles/aiplatform.user permits"),
    ("your roles", "on gs://local what roles/storage.objectUser permits"),
    ("your roles", f"on {STEPS} what roles/iam.serviceAccountUser permits"),
    ("account", f"{STEPS} exists"),
    ("account", f"{STEPS} has roles/aiplatform.user on local"),
    ("account", f"{STEPS} has roles/storage.objectUser on gs://local"),
    ("quota", "1000 CPUs for serving in us-central1; a run takes 4"),
]


def test_project_in_order(state: Path) -> None:
    found = told(needs())
    assert not found["failed"] + found["warning"]
    for (what, text), (expected, part) in zip(found["passed"], IN_ORDER, strict=True):
        assert what == expected
        assert part in text


def test_default_account(state: Path) -> None:
    """Without --service-account the steps run as Compute Engine's, which has the project's number in its name."""
    found = told(needs(service_account=None))
    assert not found["failed"] + found["warning"]
    accounts = {text.split()[0] for what, text in found["passed"] if what == "account"}
    assert accounts == {"642872260880-compute@developer.gserviceaccount.com"}


@pytest.mark.parametrize("service", ["aiplatform", "artifactregistry", "storage"])
def test_required_api_disabled(description: Path, service: str) -> None:
    api = f"{service}.googleapis.com"
    enable = f"gcloud services enable {api} --project=local"
    description.write_text(json.dumps({"services_disabled": [api]}))
    found = told(needs())
    assert not found["warning"]
    unanswered = f"could not be asked: {api} is not enabled; run: {enable}"
    not_enabled = ("APIs", f"{api} is not enabled; run: {enable}")
    assert found["failed"] == [not_enabled, *((what, unanswered) for what in ANSWERING.get(service, []))]
    assert len(found["passed"]) == len(IN_ORDER) - len(ANSWERING.get(service, []))


def test_required_api_disabled_beside_the_one_that_tells_so(description: Path) -> None:
    apis = [f"{each}.googleapis.com" for each in ("serviceusage", "storage", "artifactregistry")]
    description.write_text(json.dumps({"services_disabled": apis}))
    found = told(needs())
    assert [what for what, _ in found["failed"]] == ["bucket", "repository", "images", "your roles", "account"]
    assert [what for what, _ in found["warning"]] == ["APIs"]


@pytest.mark.parametrize("service", ["run", "eventarc", "pubsub"])
def test_optional_api_disabled(description: Path, service: str) -> None:
    description.write_text(json.dumps({"services_disabled": [f"{service}.googleapis.com"]}))
    found = told(needs())
    assert not found["failed"]
    [(what, text)] = found["warning"]
    assert what == "APIs"
    assert text.endswith(f"run: gcloud services enable {service}.googleapis.com --project=local")
    assert len(found["passed"]) == len(IN_ORDER)


@pytest.mark.parametrize("service", ["cloudresourcemanager", "iam", "serviceusage", "cloudquotas"])
def test_api_that_only_doctor_asks_is_disabled(description: Path, service: str) -> None:
    api = f"{service}.googleapis.com"
    description.write_text(json.dumps({"services_disabled": [api]}))
    found = told(needs())
    assert not found["failed"]
    assert [what for what, _ in found["warning"]] == ANSWERING[service]
    for _, text in found["warning"]:
        assert text == f"could not be asked: {api} is not enabled; run: gcloud services enable {api} --project=local"
    assert len(found["passed"]) == len(IN_ORDER) - len(ANSWERING[service])


def test_project_missing(description: Path) -> None:
    description.write_text('{"state": null}')
    found = told(needs())
    assert found["failed"] == [
        ("project", "local does not exist, or is not yours to see; run: gcloud projects list"),
    ]
    assert [what for what, _ in found["passed"]] == ["credentials"]


def test_project_being_deleted(description: Path) -> None:
    description.write_text('{"state": "DELETE_REQUESTED"}')
    only_fault(needs(), "project", "local is being deleted", "gcloud projects undelete local")


def test_bucket_missing(state: Path) -> None:
    create = "gcloud storage buckets create gs://nothere --project=local --location=us-central1"
    command = f"{create} --uniform-bucket-level-access"
    only_fault(needs(bucket="nothere"), "bucket", "gs://nothere does not exist", command, ("your roles", "account"))


@pytest.mark.parametrize(
    ("described", "where"),
    [
        ({"location": "EUROPE-WEST1"}, "lies in europe-west1,"),
        ({"location": "US", "type": "multi-region"}, "lies in the multi-region US,"),
        ({"location": "NAM4", "type": "dual-region"}, "lies in the dual-region NAM4,"),
    ],
)
def test_bucket_elsewhere(description: Path, described: dict[str, str], where: str) -> None:
    description.write_text(json.dumps({"buckets": {"local": described}}))
    create = "gcloud storage buckets create gs://local-us-central1 --project=local --location=us-central1"
    only_fault(needs(), "bucket", where, f"{create} --uniform-bucket-level-access")


def test_repository_missing(description: Path) -> None:
    description.write_text('{"repositories": {"images": null}}')
    command = f"{CREATE} images --repository-format=docker {HERE}"
    only_fault(needs(), "repository", f"{REPOSITORY} does not exist", command, ("images",))


@pytest.mark.parametrize("region", ["europe-west1", "us"])
def test_repository_elsewhere(state: Path, region: str) -> None:
    command = f"{CREATE} images --repository-format=docker {HERE}"
    wanted = needs(images=Images(f"{region}-docker.pkg.dev/local/images"))
    only_fault(wanted, "repository", f"lies in {region}, it is to lie in the single region us-central1", command)


def test_repository_is_not_of_docker(description: Path) -> None:
    description.write_text('{"repositories": {"images": {"format": "PYTHON"}}}')
    command = f"{CREATE} images-docker --repository-format=docker {HERE}"
    only_fault(needs(), "repository", "is of format PYTHON, not DOCKER", command, ("images",))


def test_repository_in_another_project(state: Path) -> None:
    found = told(needs(images=Images("us-central1-docker.pkg.dev/shared/images")))
    assert not found["failed"]
    assert len(found["passed"]) == len(IN_ORDER)
    [(what, text)] = found["warning"]
    assert what == "repository"
    grant = "gcloud artifacts repositories add-iam-policy-binding images --location=us-central1 --project=shared"
    agent = "--member=serviceAccount:service-642872260880@gcp-sa-aiplatform.iam.gserviceaccount.com"
    assert text.endswith(f"run: {grant} {agent} --role=roles/artifactregistry.reader")


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("project", ["", "my project", "a/b"]),
        ("location", ["", "us", "global", "us-central1/x"]),
        ("bucket", ["", "a", "models/ndvi", "Models"]),
        ("repository", ["", "gcr.io/local", "images", f"{REPOSITORY}/deeper", f"{REPOSITORY}?x"]),
        ("tag", ["", "a/b", "v 1", "-v"]),
        ("service_account", ["", "steps", "me@example.org", "steps@local/x.gserviceaccount.com"]),
    ],
)
def test_what_is_no_name_is_refused(option: str, values: list[str]) -> None:
    for value in values:
        named = re.escape(f"--{option.replace('_', '-')} is {value!r}; allowed: ")
        changes: dict[str, Any] = {option: Project(value) if option == "project" else value}
        if option in {"repository", "tag"}:
            changes = {"images": replace(Images(REPOSITORY), **changes)}
        with pytest.raises(ParameterError, match=named):
            needs(**changes)


def test_location_in_capitals(state: Path) -> None:
    assert not told(needs(location="US-CENTRAL1"))["failed"]


@pytest.mark.parametrize(
    "image", ["steps-vertex", "steps-pytorch", "steps-tensorflow", "serving-pytorch", "serving-tensorflow"]
)
def test_image_missing(description: Path, image: str) -> None:
    description.write_text(json.dumps({"images_missing": [f"{image}:v7"]}))
    uri = f"{REPOSITORY}/{image}:v7"
    only_fault(needs(images=Images(REPOSITORY, "v7")), "images", f"{uri} is missing", f"docker push {uri}")


DIGESTS = {
    image: f"sha256:{number:064x}"
    for number, image in enumerate(
        ("steps-vertex", "steps-pytorch", "steps-tensorflow", "serving-pytorch", "serving-tensorflow")
    )
}


def test_images_by_digest(description: Path) -> None:
    by_digest = needs(images=Images(REPOSITORY, "v7", DIGESTS))
    said = dict(told(by_digest)["passed"])["images"]
    assert said == f"{', '.join(DIGESTS)}, each by its digest"
    # The tag is there, but of another image.
    missing = f"serving-pytorch@{DIGESTS['serving-pytorch']}"
    description.write_text(json.dumps({"images_missing": [missing]}))
    push = f"make push REPOSITORY={REPOSITORY} TAG=v7"
    only_fault(by_digest, "images", f"{REPOSITORY}/{missing} is missing", push)
    assert not told(needs())["failed"]


@pytest.mark.parametrize("permission", VERTEX_PERMISSIONS)
def test_caller_lacks_a_role_on_the_project(description: Path, permission: str) -> None:
    description.write_text(json.dumps({"permissions_denied": [permission]}))
    command = f"{IAM} {ME} --role=roles/aiplatform.user --condition=None"
    only_fault(needs(), "your roles", f"you lack roles/aiplatform.user on local ({permission})", command)


@pytest.mark.parametrize("permission", ["create", "delete", "get", "list"])
def test_caller_lacks_a_role_on_the_bucket(description: Path, permission: str) -> None:
    description.write_text(json.dumps({"permissions_denied": [f"storage.objects.{permission}"]}))
    command = f"{BUCKET_IAM} {ME} --role=roles/storage.objectUser"
    only_fault(needs(), "your roles", "you lack roles/storage.objectUser on gs://local", command)


def test_caller_may_not_act_as_the_account(description: Path) -> None:
    description.write_text('{"permissions_denied": ["iam.serviceAccounts.actAs"]}')
    grant = f"gcloud iam service-accounts add-iam-policy-binding {STEPS} --project=local {ME}"
    text = f"you lack roles/iam.serviceAccountUser on {STEPS}"
    only_fault(needs(), "your roles", text, f"{grant} --role=roles/iam.serviceAccountUser")


def test_account_missing(description: Path) -> None:
    """Nor has it any role then."""
    description.write_text(json.dumps({"service_accounts": {STEPS: None}}))
    found = told(needs())
    assert [what for what, _ in found["failed"]] == ["account"] * 3
    assert (
        found["failed"][0][1]
        == f"{STEPS} does not exist; run: gcloud iam service-accounts create steps --project=local"
    )
    assert [what for what, _ in found["warning"]] == ["your roles"]


def test_account_of_another_project_missing(state: Path) -> None:
    other = "train@other.iam.gserviceaccount.com"
    text = dict(told(needs(service_account=other))["failed"][:1])["account"]
    assert text == f"{other} does not exist; run: gcloud iam service-accounts create train --project=other"


@pytest.mark.parametrize("given", [True, False])
def test_default_account_missing(description: Path, given: bool) -> None:
    """Nobody can make Compute Engine's account but Compute Engine."""
    default = "642872260880-compute@developer.gserviceaccount.com"
    description.write_text(json.dumps({"service_accounts": {default: None}}))
    text = dict(told(needs(service_account=default if given else None))["failed"][:1])["account"]
    enable = "gcloud services enable compute.googleapis.com --project=local"
    assert text == f"{default} does not exist; run: {enable}"


def test_account_of_another_project_disabled(description: Path) -> None:
    other = "train@other.iam.gserviceaccount.com"
    denied = ["iam.serviceAccounts.actAs"]
    accounts = {other: {"disabled": True}}
    description.write_text(json.dumps({"service_accounts": accounts, "permissions_denied": denied}))
    roles, account = told(needs(service_account=other))["failed"]
    assert f"service-accounts add-iam-policy-binding {other} --project=other {ME}" in roles[1]
    assert account[1].endswith(f"gcloud iam service-accounts enable {other} --project=other")


def test_account_disabled(description: Path) -> None:
    description.write_text(json.dumps({"service_accounts": {STEPS: {"disabled": True}}}))
    command = f"gcloud iam service-accounts enable {STEPS} --project=local"
    only_fault(needs(), "account", f"{STEPS} is disabled", command)


@pytest.mark.parametrize("roles", [[], ["roles/aiplatform.viewer"]])
def test_account_lacks_its_role_on_the_project(description: Path, roles: list[str]) -> None:
    description.write_text(json.dumps({"service_accounts": {STEPS: {"roles": roles}}}))
    command = f"{IAM} --member=serviceAccount:{STEPS} --role=roles/aiplatform.user --condition=None"
    only_fault(needs(), "account", f"{STEPS} has no roles/aiplatform.user on local", command)


@pytest.mark.parametrize("roles", [[], ["roles/storage.objectViewer"]])
def test_account_lacks_its_role_on_the_bucket(description: Path, roles: list[str]) -> None:
    description.write_text(json.dumps({"service_accounts": {STEPS: {"bucket_roles": roles}}}))
    command = f"{BUCKET_IAM} --member=serviceAccount:{STEPS} --role=roles/storage.objectUser"
    only_fault(needs(), "account", f"{STEPS} has no roles/storage.objectUser on gs://local", command)


@pytest.mark.parametrize(
    ("roles", "bucket_roles"),
    [
        (["roles/editor"], ["roles/storage.admin"]),
        (["roles/aiplatform.user"], ["roles/storage.objectUser"]),
        (["roles/aiplatform.user", "roles/storage.objectUser"], []),
        (["roles/aiplatform.user", "roles/storage.objectAdmin"], []),
        (["roles/aiplatform.user", "roles/storage.admin"], []),
        (["roles/owner"], []),
    ],
)
def test_broader_roles_will_do(description: Path, roles: list[str], bucket_roles: list[str]) -> None:
    account = {"roles": roles, "bucket_roles": bucket_roles}
    description.write_text(json.dumps({"service_accounts": {STEPS: account}}))
    assert not told(needs())["failed"]


def test_owner_of_a_project_is_no_role_on_a_bucket(description: Path) -> None:
    account = {"roles": ["roles/aiplatform.user"], "bucket_roles": ["roles/owner"]}
    description.write_text(json.dumps({"service_accounts": {STEPS: account}}))
    assert [what for what, _ in told(needs())["failed"]] == ["account"]


@pytest.mark.parametrize("roles", [{}, {"roles": ["roles/owner"], "bucket_roles": []}])
def test_role_under_a_condition_is_none(description: Path, roles: dict[str, list[str]]) -> None:
    account = roles | {"condition": "request.time < timestamp('2030-01-01T00:00:00Z')"}
    description.write_text(json.dumps({"service_accounts": {STEPS: account}}))
    lacking = [
        f"{STEPS} has no roles/{role}," for role in ("aiplatform.user on local", "storage.objectUser on gs://local")
    ]
    found = told(needs())["failed"]
    assert [text.partition(" unless")[0] for _, text in found] == lacking


@pytest.mark.parametrize(
    ("machine_type", "replicas", "limit"), [("n1-standard-2", 1, 4), ("n1-highmem-8", 1, 16), ("e2-standard-4", 3, 24)]
)
def test_quota(description: Path, machine_type: str, replicas: int, limit: int) -> None:
    wanted = needs(machine_type=machine_type, replicas=replicas)
    description.write_text(json.dumps({"quotas": {QUOTA: {"us-central1": limit, "europe-west1": 0}}}))
    assert not told(wanted)["failed"]
    description.write_text(json.dumps({"quotas": {QUOTA: {"us-central1": limit - 1, "europe-west1": 1000}}}))
    command = (
        f"gcloud beta quotas preferences create --service=aiplatform.googleapis.com --quota-id={QUOTA} "
        f"--preferred-value={limit} --dimensions=region=us-central1 --project=local"
    )
    only_fault(wanted, "quota", f"{limit - 1} CPUs for serving in us-central1; a run takes {limit}", command)


def test_quota_without_limit(description: Path) -> None:
    description.write_text(json.dumps({"quotas": {QUOTA: {"us-central1": -1}}}))
    assert ("quota", "CPUs without limit") in [(what, text[:18]) for what, text in told(needs())["passed"]]


def test_quota_of_other_machines_is_not_guessed(state: Path) -> None:
    found = told(needs(machine_type="g2-standard-8"))
    assert not found["failed"]
    assert [what for what, _ in found["warning"]] == ["quota"]


@pytest.mark.parametrize(
    ("permission", "what", "role"),
    [
        ("serviceusage.services.get", ["APIs"], "serviceusage.serviceUsageViewer"),
        ("storage.buckets.get", ["bucket"], "storage.bucketViewer"),
        ("artifactregistry.repositories.get", ["repository", "images"], "artifactregistry.reader"),
        ("artifactregistry.tags.get", ["images"], "artifactregistry.reader"),
        ("artifactregistry.versions.get", ["images"], "artifactregistry.reader"),
        ("iam.serviceAccounts.get", ["account"], "iam.serviceAccountViewer"),
        ("resourcemanager.projects.getIamPolicy", ["account"], "iam.securityReviewer"),
        ("storage.buckets.getIamPolicy", ["account"], "iam.securityReviewer"),
        ("cloudquotas.quotas.get", ["quota"], "cloudquotas.viewer"),
    ],
)
def test_what_may_not_be_read(description: Path, permission: str, what: list[str], role: str) -> None:
    description.write_text(json.dumps({"permissions_denied": [permission]}))
    digests = DIGESTS if permission == "artifactregistry.versions.get" else None
    found = told(needs(images=Images(REPOSITORY, digests=digests)))
    assert not found["failed"]
    assert [each for each, _ in found["warning"]] == what
    for _, text in found["warning"]:
        assert text.startswith(f"could not be asked: Permission '{permission}' denied on resource")
        assert text.endswith(f"; run: {IAM} {ME} --role=roles/{role} --condition=None")
    assert len(found["passed"]) == len(IN_ORDER) - len(what)


def test_digests_that_lack_an_image_are_refused() -> None:
    with pytest.raises(ParameterError, match="--digests names no image steps-tensorflow"):
        needs(images=Images(REPOSITORY, digests={name: DIGESTS[name] for name in DIGESTS if "tensorflow" not in name}))


def test_what_is_not_understood_fails(description: Path) -> None:
    description.write_text('{"permissions": []}')
    found = told(needs())
    assert [what for what, _ in found["passed"]] == ["credentials"]
    assert not found["warning"]
    for _, text in found["failed"]:
        assert f"{description}: permissions: " in text


def test_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EMULATOR, "127.0.0.1:9")
    with pytest.raises(VertexError, match=r"no local Vertex AI answers at http://127\.0\.0\.1:9: start one there"):
        list(examine(needs()))


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(EMULATOR, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    [finding] = examine(needs())
    assert (finding.what, finding.verdict) == ("credentials", "failed")
    assert finding.text.endswith("run `gcloud auth application-default login`")


@pytest.mark.parametrize("given", [("--bucket", ""), ("--project", ""), ("--tag", "a/b"), ("--location", "")])
def test_command_refuses_what_is_no_name(given: tuple[str, str]) -> None:
    arguments = {"--project": "local", "--bucket": "local", "--repository": REPOSITORY} | dict([given])
    done = pipeline("doctor", *(each for pair in arguments.items() for each in pair))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error {given[0]} is {given[1]!r}; allowed: ")


class _Metadata(http.server.BaseHTTPRequestHandler):
    """What Compute Engine's metadata server tells a machine of its account."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        answers: dict[str, Any] = {
            "service-accounts/default": {"email": STEPS, "scopes": []},
            "/token": {"access_token": "token", "expires_in": 3600, "token_type": "Bearer"},
        }
        found = next((json.dumps(answer) for end, answer in answers.items() if path.endswith(end)), "local")
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "application/json" if found != "local" else "text/plain")
        self.end_headers()
        self.wfile.write(found.encode())

    def log_message(self, *_: Any) -> None:
        pass


def test_caller_on_compute_engine(tmp_path: Path) -> None:
    """Its credentials tell their address only when they have been refreshed."""
    plain = {key: value for key, value in os.environ.items() if key not in (EMULATOR, "GOOGLE_APPLICATION_CREDENTIALS")}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        machine = {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "CLOUDSDK_CONFIG": str(tmp_path)}
        code = "from components.project import Project; p = Project('local'); print(p.caller); print(p.sign_in())"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, check=False, env=plain | machine, capture_output=True, text=True, timeout=60)
        server.shutdown()
    assert done.stdout.splitlines() == [f"serviceAccount:{STEPS}", f"of the service account {STEPS}"], done.stderr


def test_command(description: Path) -> None:
    """What a user sees: a line each, after a mark, and whether something is missing in the exit status."""
    arguments = ("doctor", "--project", "local", "--repository", f"{REPOSITORY}/", "--service-account", STEPS)
    good = pipeline(*arguments, "--bucket", "gs://local/models")
    assert (good.returncode, good.stderr) == (0, "")
    assert [line.split()[0] for line in good.stdout.splitlines()] == ["✓"] * len(IN_ORDER)
    description.write_text('{"services_disabled": ["run.googleapis.com"], "images_missing": ["serving-pytorch"]}')
    bad = pipeline(*arguments, "--bucket", "local", "--location", "us-central1", "--tag", "v1")
    assert (bad.returncode, bad.stderr) == (1, "")
    marks = Counter(line.split()[0] for line in bad.stdout.splitlines())
    assert marks == {"✓": len(IN_ORDER), "!": 1, "✗": 1}
    assert f"✗ images      {REPOSITORY}/serving-pytorch:v1 is missing" in bad.stdout
