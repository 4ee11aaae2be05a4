"""Plan, status and rollback, against a local Vertex AI with real servers, held against what the steps of a run do."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.cloud.aiplatform_v1.types import Endpoint, Model, PipelineJob

from components import local, storage
from components.archive import archive_model
from components.built_images import Images
from components.commands.submission import defaults
from components.conclude import Conclusion, conclude_run
from components.dags import deploy_pipeline
from components.deploy import deploy_model
from components.earthengine.contract import FILE_NAME, ModelContract
from components.endpoint import find_or_create_endpoint
from components.export import export_model
from components.land_cover import train_land_cover
from components.plan import Plan, plan_run
from components.record import Record
from components.release import release_deployment
from components.rollback import roll_back
from components.status import endpoint_status
from components.traffic import change_traffic
from components.trial import make_trial
from components.upload import upload_model
from components.verify import verify_run
from components.vertex import Vertex, storage_client
from tests.road.conftest import pipeline, upload_folder

pytestmark = pytest.mark.slow

DEFAULTS = defaults(deploy_pipeline("pytorch", Images("images")))
PROJECT = ("--project", local.PROJECT)
IMAGES = (*PROJECT, "--repository", "images")


@dataclass(frozen=True)
class Trained:
    """A trained model and what the archive step makes of it."""

    folder: Path
    archive: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Three models that differ in what their contracts tolerate."""
    folder = tmp_path_factory.mktemp("models")
    train_land_cover(folder / "trained", "pytorch")
    made = {}
    for number, name in enumerate("abc", 1):
        model = folder / name
        shutil.copytree(folder / "trained", model)
        with (model / FILE_NAME).open("a", encoding="utf-8") as file:
            file.write(f"tolerance: {{absolute: {number}.5e-5, relative: 1.0e-5}}\n")
        export_model(model, folder / f"{name}-exported")
        archive_model(folder / f"{name}-exported", folder / f"{name}-archive")
        made[name] = Trained(model, folder / f"{name}-archive")
    return made


@dataclass
class Road:
    """Runs to an endpoint, each by the functions that its steps call."""

    vertex: Vertex
    staging: str
    endpoint: str
    runs: int = 0

    def parameters(self, **given: Any) -> dict[str, Any]:
        return {**DEFAULTS, "endpoint": self.endpoint, **given}

    def plan(self, model: Trained, **given: Any) -> Plan:
        contract = ModelContract.read(model.folder)
        return plan_run(self.vertex, contract, model.folder, self.staging, self.parameters(**given))

    def record(self) -> Record:
        return Record.of(self.staging, f"{self.endpoint}-{self.runs}")

    def run(self, model: Trained, fault: str = "", **given: Any) -> Conclusion:
        """One more run; with a fault it ends before the release."""
        self.runs += 1
        each, record = self.parameters(**given), self.record()
        archive, vertex = model.archive, self.vertex
        registered = upload_model(vertex, archive, each["serving_image"], self.staging).name
        endpoint = find_or_create_endpoint(vertex, self.endpoint).name
        machine = {name: each[name] for name in ("machine_type", "min_replicas", "max_replicas")}
        deploy_model(vertex, endpoint, registered, record, run=record.folder.rsplit("/", 1)[-1], **machine)
        if not fault:
            slowest = {"max_latency_seconds": each["max_latency_seconds"]}
            verify_run(vertex, record, archive, archive.parent / "pictures", **slowest)
            steps = {name: each[name] for name in ("canary_percent", "promotion_steps")}
            release_deployment(vertex, record, archive, **steps, **slowest)
        kept = {name: each[name] for name in ("keep_previous", "keep_versions")}
        return conclude_run(vertex, record, fault=fault, **kept)

    @property
    def name(self) -> str:
        return f"{self.vertex.parent}/endpoints/{self.endpoint}"

    def traffic(self) -> dict[str, int]:
        """Percent of the traffic by version."""
        return {each.version: each.share for each in endpoint_status(self.vertex, self.name).models if each.share}


def everything(vertex: Vertex) -> list[Any]:
    """All that there is: models, versions, endpoints, jobs, and objects with their generations."""
    registered = list(vertex.models.list_models(parent=vertex.parent))
    return [
        [Model.to_dict(each) for each in registered],
        [Model.to_dict(v) for each in registered for v in vertex.models.list_model_versions(name=each.name)],
        [Endpoint.to_dict(each) for each in vertex.endpoints.list_endpoints(parent=vertex.parent)],
        [PipelineJob.to_dict(each) for each in vertex.pipelines.list_pipeline_jobs(parent=vertex.parent)],
        [(each.name, each.generation) for each in storage_client().bucket(local.BUCKET).list_blobs()],
    ]


def named(plan: Plan, splits: tuple[Mapping[str, int], ...]) -> list[dict[str, int]]:
    """Splits by version instead of by the ids of deployed models."""
    return [{plan.names[each]: share for each, share in split.items()} for split in splits]


def test_a_plan_says_what_a_run_then_does(vertex: Vertex, staging: str, models: dict[str, Trained]) -> None:
    road = Road(vertex, f"{staging}/planned", "planned")

    def check(model: Trained, **given: Any) -> tuple[Plan, Conclusion]:
        plan = road.plan(model, **given)
        before = everything(vertex)
        done = road.run(model, **given)
        deployment = done.deployment
        assert deployment is not None
        assert deployment.model == plan.deployment.model
        assert deployment.created == plan.deployment.created
        assert deployment.traffic_before == plan.deployment.traffic_before
        assert bool(deployment.trial) == bool(plan.deployment.trial)
        released = [each.share for each in done.verifications][1:]
        assert released == [split[plan.deployment.deployed_model] for split in plan.steps]
        assert road.traffic() == (named(plan, plan.steps) or [road.traffic()])[-1]
        assert done.retired == (*plan.retired, *plan.retired_versions)
        assert done.changed == plan.changes
        models_before, models_after = before[1], everything(vertex)[1]
        assert len(models_after) == len(models_before) + plan.registers - len(plan.retired_versions)
        return plan, done

    first, _ = check(models["a"])
    assert (first.registers, first.staged, first.creates_endpoint) == (True, 0, True)
    assert storage.count_files(first.artifacts) > 0
    assert named(first, first.steps) == [{"land-cover-pytorch@1": 100}]

    again, _ = check(models["a"])
    assert not again.changes
    assert not again.deployment.trial

    canary, _ = check(models["b"], canary_percent=20, promotion_steps=[60, 100])
    assert (canary.registers, canary.creates_endpoint, canary.deployment.created) == (True, False, True)
    assert [split["land-cover-pytorch@2"] for split in named(canary, canary.steps)] == [20, 60, 100]
    assert canary.retired == ()

    back, _ = check(models["a"])  # it is deployed still
    assert (back.registers, back.deployment.created, bool(back.deployment.trial)) == (False, False, True)

    make_trial(vertex, road.name, "a-run-that-ended")
    last, done = check(models["c"], keep_previous=0, keep_versions=0)
    assert (len(last.retired), len(last.leftovers)) == (2, 1)
    assert last.retired_versions == ("land-cover-pytorch@2", "land-cover-pytorch@1")
    assert list(done.traffic.values()) == [100]


def test_the_command_plans_and_changes_nothing(vertex: Vertex, staging: str, models: dict[str, Trained]) -> None:
    road = Road(vertex, f"{staging}/commanded", "commanded")
    road.run(models["a"], serving_image="images/serving-pytorch:commanded")
    new, old = (upload_folder(models[name].folder, f"commanded-{name}") for name in "ba")
    before = everything(vertex)
    wanted = ("--tag", "commanded", "-p", "endpoint=commanded", "-p", f"staging={staging}/commanded")
    done = pipeline("plan", new, *IMAGES, *wanted, "-p", "canary_percent=5", "-p", "promotion_steps=30,100")
    assert (done.returncode, done.stderr) == (0, "")
    for text in (
        "would be registered",
        "would be created",
        "no version",
        "none of ended runs",
        "95 % ",
        "30 % ",
        "(new)",
    ):
        assert (text in done.stdout) == (text != "would be created"), text
    folder = pipeline("plan", models["b"].folder, *IMAGES, "-p", "endpoint=new")
    assert f"{vertex.parent}/endpoints/new would be created" in folder.stdout
    assert "the bucket that the model is submitted from" in folder.stdout
    same = pipeline("plan", old, *IMAGES, *wanted)
    assert len(same.stdout.splitlines()) == 1
    assert same.stdout.startswith("nothing   would change: land-cover-pytorch@")
    assert everything(vertex) == before


def test_bad_input_is_told_in_a_line_and_changes_nothing(vertex: Vertex, models: dict[str, Trained]) -> None:
    uri = upload_folder(models["a"].folder, "refused")
    storage.write_text(f"gs://{local.BUCKET}/models/half/{FILE_NAME}", (models["a"].folder / FILE_NAME).read_text())
    before = everything(vertex)
    refusals = {
        ("plan", f"gs://{local.BUCKET}/models/none", *IMAGES): "/models/none holds no model.yaml; write the",
        ("plan", f"gs://{local.BUCKET}/models/half", *IMAGES): "models/half holds model.yaml but not model.pt, ",
        ("plan", "gs://no-such-bucket/model", *IMAGES): "the bucket gs://no-such-bucket does not exist; create it",
        ("plan", uri, *IMAGES, "-p", "staging=gs://no-such-bucket/a"): "the bucket gs://no-such-bucket does not exist",
        ("plan", uri, *IMAGES, "-p", "canary_percent=0"): "canary_percent is 0; allowed: 1 to 100",
        (
            "plan",
            uri,
            *IMAGES,
            "-p",
            "serving_image=images/mine:1",
        ): "serving image images/mine:1 is not known; allowed",
        ("plan", uri, *IMAGES, "-p", "endpoint=No such"): "'No such' does not exist and cannot be an endpoint's id",
        (
            "status",
            "no-such",
            *PROJECT,
        ): "endpoint 'no-such' does not exist in projects/local/locations/us-central1; the",
        ("status", 'a"b', *PROJECT): "endpoint 'a\"b' does not exist",
        ("rollback", "projects/p", *PROJECT): "endpoint 'projects/p' does not exist",
    }
    for arguments, message in refusals.items():
        done = pipeline(*arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert everything(vertex) == before


def test_rollback_returns_to_the_model_before_and_status_says_so(
    vertex: Vertex, staging: str, models: dict[str, Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    road = Road(vertex, f"{staging}/rolled", "rolled")
    a, b, c = (
        done.deployment
        for done in (
            road.run(models[each], keep_previous=2, serving_image="images/serving-pytorch:r") for each in "abc"
        )
    )
    assert a
    assert b
    assert c

    def status() -> dict[str, tuple[int, int]]:
        """Shares now and after a rollback."""
        return {each.id: (each.share, each.after_rollback) for each in endpoint_status(vertex, road.name).models}

    one, two, three = a.deployed_model, b.deployed_model, c.deployed_model
    assert status() == {three: (100, 0), two: (0, 100), one: (0, 0)}

    done = pipeline("rollback", "rolled", *PROJECT)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    before, now, again = (f"100 % {each.model.rsplit('/', 1)[-1]} ({each.deployed_model})" for each in (c, b, a))
    assert lines == [
        ["endpoint", road.name],
        ["before", before],
        ["now", now],
        ["note", f"submitting {c.model.rsplit('/', 1)[-1]} again, on a schedule too, would release it again"],
        ["again", again],
        ["undo", f"with --to {three}"],
    ]
    assert status() == {two: (100, 0), three: (0, 0), one: (0, 100)}

    road.run(models["c"], fault="it is killed", serving_image="images/serving-pytorch:r")  # deployed, and left there
    assert status() == {two: (100, 0), three: (0, 0), one: (0, 100)}

    assert pipeline("rollback", road.name, *PROJECT).returncode == 0
    assert status() == {one: (100, 0), two: (0, 0), three: (0, 0)}
    unchanged = everything(vertex)
    done = pipeline("rollback", "rolled", *PROJECT)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no earlier model that has passed its verification is deployed there: submit the earlier" in done.stderr
    assert f"{three} (land-cover-pytorch@{c.model.rsplit('@', 1)[-1]})" in done.stderr
    done = pipeline("rollback", "rolled", *PROJECT, "--to", "12")
    assert (done.returncode, done.stdout) == (1, "")
    assert "deployed model 12 is not at endpoint rolled; any of these" in done.stderr
    assert everything(vertex) == unchanged

    assert roll_back(vertex, road.name, three).after == {three: 100}
    change_traffic(vertex, road.name, lambda _: {three: 90, one: 10})  # as a canary of an older deployment
    assert status() == {three: (90, 100), one: (10, 0), two: (0, 0)}
    assert roll_back(vertex, road.name).after == {three: 100}
    road.run(models["a"], keep_previous=2, serving_image="images/serving-pytorch:r")  # an older deployment once more
    assert status() == {one: (100, 0), three: (0, 100), two: (0, 0)}

    make_trial(vertex, road.name, "a-run-that-ended")
    shown = pipeline("status", "rolled", *PROJECT)
    assert (shown.returncode, shown.stderr) == (0, "")
    rows = [line.split() for line in shown.stdout.splitlines() if "land-cover-pytorch@" in line]
    assert [row[1:3] for row in rows] == [["100", "%"], ["0", "%"], ["0", "%"]]
    assert ["passed" in row for row in rows] == [True, True, True]
    assert sum("to 100 %" in line for line in shown.stdout.splitlines()) == 1
    assert "rolled-1" in shown.stdout
    assert "its run a-run-that-ended has ended" in shown.stdout


def test_models_deployed_by_hand_are_shown_and_rolled_back_too(
    vertex: Vertex, staging: str, models: dict[str, Trained]
) -> None:
    image = "images/serving-pytorch:hand"
    versions = [upload_model(vertex, models[each].archive, image, staging).name for each in "ab"]
    vertex.models.update_model(
        model={"name": versions[0], "labels": {}}, update_mask={"paths": ["labels"]}
    )  # as one that was registered by hand
    name = find_or_create_endpoint(vertex, "by-hand").name
    ids = []
    for version in versions:
        machine = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1, "max_replica_count": 1}
        wanted = {"model": version, "display_name": "mine", "dedicated_resources": machine}
        begun = vertex.endpoints.deploy_model(endpoint=name, deployed_model=wanted, traffic_split={"0": 100})
        ids.append(begun.result().deployed_model.id)
    found = endpoint_status(vertex, name).models
    assert [(each.id, each.share, each.run, each.verification) for each in found] == [
        (ids[1], 100, "", None),
        (ids[0], 0, "", None),
    ]
    done = pipeline("rollback", "by-hand", *PROJECT)
    assert (done.returncode, done.stderr) == (0, "")
    assert dict(vertex.endpoints.get_endpoint(name=name).traffic_split) == {ids[0]: 100}
    assert "again     no model to return to" in done.stdout
