"""Retraining against a local Vertex AI with real servers: who is better is deployed, who is not changes nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from components import job, local, storage
from components.built_images import Images
from components.champion import evaluate_champion, find_champion
from components.contest import Contest
from components.dags import compile_retrain
from components.data import read_data
from components.earthengine.contract import FILE_NAME, Framework, ModelContract
from components.earthengine.errors import EvaluationError, JobError, VerificationError
from components.endpoint import find_endpoint
from components.evaluation import Evaluation
from components.gate import Decision, decide
from components.traffic import change_traffic, read_endpoint, shares_at
from components.versions import list_versions
from components.vertex import Vertex
from tests.conftest import document
from tests.data.earth_engine import write_patches
from tests.road.conftest import pipeline, upload_folder
from tests.road.runs import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LABELS = ["low", "high"]
RANDOM = np.random.default_rng(5)
RED = RANDOM.uniform(-1, 1, 200)
# Those of the second half are what models are judged by.
TRUE = ["low" if red < 0 else "high" for red in RED]


def write_table(path: Path, labels: list[str], of: slice) -> Path:
    rows = [f"{red:.6f},0,{label}" for red, label in zip(RED[of], labels[of], strict=True)]
    path.write_text("\n".join(["red,green,kind", *rows]) + "\n", encoding="utf-8")
    return path


def sent(path: Path) -> str:
    """Put a file in the bucket; its address."""
    uri = f"gs://{local.BUCKET}/data/{path.name}"
    bucket, name = storage.split(uri, folder=False)
    bucket.blob(name).upload_from_filename(path)
    return uri


class Retraining:
    """Retrains a model of its own name, with pipeline.py as a user does."""

    def __init__(self, vertex: Vertex, staging: str, folder: Path, name: str, **changes: Any) -> None:
        self.vertex, self.folder, self.name, self._staging = vertex, folder, name, staging
        output = {"name": "kind", "dimensions": 1, "labels": LABELS, "metrics": ["accuracy", "iou"]}
        keys = document(**{"name": name, "outputs": [output]} | changes)
        (folder / "contract").mkdir(parents=True)
        (folder / "contract" / FILE_NAME).write_text(yaml.safe_dump(keys), encoding="utf-8")
        self.contract_uri = upload_folder(folder / "contract", f"{name}-contract")
        self.held_out = sent(write_table(folder / f"{name}-held-out.csv", TRUE, slice(100, None)))

    def data(self, wrong: int) -> str:
        """A table to train on, of whose first labels some are wrong."""
        labels = [LABELS[label == "low"] if number < wrong else label for number, label in enumerate(TRUE)]
        return sent(write_table(self.folder / f"{self.name}-{wrong}-wrong.csv", labels, slice(100)))

    def run(self, data: str, *parameters: str) -> tuple[str, Path]:
        """What is printed, and the folder with the pages."""
        output = self.folder / "output"
        given = [f"data={data}", f"held_out={self.held_out}", "promotion_steps=100", *parameters]
        done = pipeline(
            *("retrain", "--contract", self.contract_uri, "--project", local.PROJECT, "--repository", "images"),
            *("--staging", self._staging, "--output", output),
            *(word for each in given for word in ("-p", each)),
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, output

    @property
    def endpoint(self) -> str:
        found = find_endpoint(self.vertex, self.name)
        assert found
        return found

    @property
    def versions(self) -> list[Any]:
        return list_versions(self.vertex, self.name)


def test_the_better_goes_on_and_the_worse_changes_nothing(vertex: Vertex, staging: str, tmp_path: Path) -> None:
    retraining = Retraining(vertex, staging, tmp_path, "contested")
    printed, output = retraining.run(retraining.data(wrong=70))
    assert "no model serves yet" in printed
    first = read_endpoint(vertex, retraining.endpoint)
    (version,) = retraining.versions
    assert version.labels["champion"] == "none"
    assert float(version.labels["challenger-accuracy"].replace("-", ".", 1)) < 0.7

    printed, output = retraining.run(retraining.data(wrong=0))
    assert ": better" in printed
    page = (output / "report.html").read_text()
    assert "Released" in page
    assert "Challenger and champion" in page
    assert "contested@1" in page
    second = read_endpoint(vertex, retraining.endpoint)
    newest, older = retraining.versions
    assert (newest.version_id, older.version_id) == ("2", "1")
    assert newest.labels["champion"] == "contested-1"
    assert newest.labels["champion-accuracy"] == older.labels["challenger-accuracy"]
    assert newest.labels["challenger-accuracy"] > newest.labels["champion-accuracy"]
    assert {"challenger-iou", "champion-iou"} <= set(newest.labels)
    assert shares_at(second) != shares_at(first)

    # A worse one, and the same again: neither is better.
    for wrong in (60, 0):
        printed, output = retraining.run(retraining.data(wrong))
        assert "not better" in printed
        assert "outcome" not in printed
        assert "Not better" in (output / "decision.html").read_text()
        after = read_endpoint(vertex, retraining.endpoint)
        assert after == second  # its etag and times included
        assert [each.version_id for each in retraining.versions] == ["2", "1"]
    # With the first at 30 % of the traffic the second is the champion still, and alone is judged.
    (previous,) = [each.id for each in second.deployed_models if not shares_at(second).get(each.id)]
    (serving,) = shares_at(second)
    change_traffic(vertex, retraining.endpoint, lambda _: {previous: 30, serving: 70})
    champion = find_champion(vertex, "contested")
    assert champion
    assert champion.version == "contested@2"
    data = read_data(champion.contract, str(tmp_path / "contested-held-out.csv"))
    assert evaluate_champion(vertex, champion, champion.contract, data).metrics["accuracy"] > 0.9
    second = read_endpoint(vertex, retraining.endpoint)
    # Better by less than the margin asks for.
    printed, _ = retraining.run(retraining.data(wrong=1), "margin=0.5")
    assert "not better by 0.5" in printed
    assert read_endpoint(vertex, retraining.endpoint) == second


def test_a_schedule_retrains_every_minute_and_deploys_what_is_better(
    vertex: Vertex, staging: str, tmp_path: Path
) -> None:
    retraining = Retraining(vertex, staging, tmp_path, "by-the-clock")
    data = retraining.data(wrong=70)
    done = pipeline(
        *("schedule", "--cron", "* * * * *", "--contract", retraining.contract_uri, "--staging", staging),
        *("--project", local.PROJECT, "--repository", "images", "-p", "promotion_steps=100"),
        *("-p", f"data={data}", "-p", f"held_out={retraining.held_out}"),
    )
    assert done.returncode == 0, done.stderr
    first = ended(vertex, "by-the-clock", 1)
    assert [each.version_id for each in retraining.versions] == ["1"]
    # The table at the same address is corrected; the next run finds it.
    better = tmp_path / Path(data).name
    sent(write_table(better, TRUE, slice(100)))
    second = ended(vertex, "by-the-clock", 2)
    assert [each.version_id for each in retraining.versions] == ["2", "1"]
    served = read_endpoint(vertex, retraining.endpoint)
    # Nothing is better than that.
    third = ended(vertex, "by-the-clock", 3)
    assert read_endpoint(vertex, retraining.endpoint) == served
    assert [each.state.name for each in (first, second, third)] == ["PIPELINE_STATE_SUCCEEDED"] * 3
    done = pipeline("schedule", "delete", "by-the-clock", "--project", local.PROJECT)
    assert done.returncode == 0, done.stderr


def ended(vertex: Vertex, name: str, number: int) -> Any:
    """The job of a number that a schedule has started, once it has ended."""
    (schedule,) = [each for each in vertex.schedules.list_schedules(parent=vertex.parent) if each.display_name == name]
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        listed = vertex.pipelines.list_pipeline_jobs(
            {"parent": vertex.parent, "filter": f'schedule_name="{schedule.name}"', "order_by": "create_time"}
        )
        if len(jobs := list(listed)) >= number and jobs[number - 1].end_time:
            return jobs[number - 1]
        time.sleep(0.5)
    pytest.fail(f"run {number} of {name} has not ended")


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_patches_as_earth_engine_exports_them_lead_to_an_endpoint(
    vertex: Vertex, staging: str, tmp_path: Path, framework: Framework
) -> None:
    name = f"patches-{framework}"
    height = {"name": "height", "dimensions": 0}
    retraining = Retraining(vertex, staging, tmp_path, name, framework=framework, outputs=[height])
    red = RANDOM.uniform(0, 1, (10, 40, 40)).astype(np.float32)
    path = tmp_path / f"{name}-00000.tfrecord.gz"
    write_patches(path, {"red": red, "green": red, "height": 3 * red}, gzip=True)
    uri = sent(path)
    printed, output = retraining.run(uri, "held_out=", "held_out_share=0.2")
    assert "endpoint  " in printed
    assert "Released" in (output / "report.html").read_text()
    assert (output / "scene.png").is_file()
    assert float(retraining.versions[0].labels["challenger-rmse"].replace("-", ".", 1)) < 0.3


def test_a_champion_that_changed_after_the_gate_stops_the_release(site: Site) -> None:
    first, second = site.run("1"), site.run("2")
    for run in (first, second):
        run.deploy()
        run.verify()
    better = Evaluation("challenger", {"accuracy": 1.0}, 9)
    for run in (first, second):  # both were found better than none
        run.record.keep_decision(decide(Contest(("accuracy",), "", better, None), 0))
    first.release()
    (served,) = site.traffic
    with pytest.raises(VerificationError, match=r"better than no model, as none served; the traffic of .* train again"):
        second.release()
    # Nor does it go on where another has come to serve than the one that it was found better than.
    champion = Contest(("accuracy",), "", better, better, deployed_model="17")
    second.record.keep_decision(Decision(True, "", 0, champion))
    with pytest.raises(VerificationError, match="better than deployed model 17; the traffic"):
        second.release()
    serving = Contest(("accuracy",), "", better, better, deployed_model=served)
    second.record.keep_decision(Decision(True, "", 0, serving))
    second.release()
    assert served not in site.traffic


def test_the_same_numbers_again_are_not_better(vertex: Vertex, staging: str, tmp_path: Path) -> None:
    height = {"name": "height", "dimensions": 0}
    retraining = Retraining(vertex, staging, tmp_path, "again", outputs=[height])
    rows = [f"{red:.6f},0,{2 * red + noise:.6f}" for red, noise in zip(RED, RANDOM.normal(size=200), strict=True)]
    (tmp_path / "again.csv").write_text("\n".join(["red,green,height", *rows]) + "\n")
    uri = sent(tmp_path / "again.csv")
    printed, _ = retraining.run(uri, "held_out=")
    assert "no model serves yet" in printed
    printed, _ = retraining.run(uri, "held_out=")
    assert "not better" in printed
    assert len(retraining.versions) == 1


def test_a_training_that_fails_says_why_and_makes_nothing(vertex: Vertex, staging: str, tmp_path: Path) -> None:
    retraining = Retraining(vertex, staging, tmp_path, "fails")
    (tmp_path / "unlabelled.csv").write_text("red,green\n1,2\n")
    template = compile_retrain("pytorch", Images("images", "1"), tmp_path / "retrain.yaml")
    parameters = {
        "staging": staging,
        "contract_uri": retraining.contract_uri,
        "data": sent(tmp_path / "unlabelled.csv"),
    }
    name = job.submit(vertex, template, parameters, f"{staging}/root", "fails")
    with pytest.raises(JobError, match=r"unlabelled\.csv has no column kind.*red, green"):
        list(job.follow(vertex, name))
    assert retraining.versions == []
    assert find_endpoint(vertex, "fails") is None


# The champion alone, as functions.


@pytest.fixture(scope="module")
def threshold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that calls high what is above 0 in its second band: green, red in the order that it wants them."""

    class Threshold(torch.nn.Module):
        def forward(self, bands: torch.Tensor) -> torch.Tensor:
            red = bands[:, 1:2]
            return torch.cat([(red > 0).float(), (red <= 0).float()], 1)

    folder = tmp_path_factory.mktemp("threshold")
    torch.jit.script(Threshold()).save(str(folder / "net.pt"))
    output = {"name": "kind", "dimensions": 1, "labels": ["high", "low"]}
    keys = document(name="threshold", bands=[{"name": "green"}, {"name": "red"}], outputs=[output])
    (folder / FILE_NAME).write_text(yaml.safe_dump(keys), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def serving(vertex: Vertex, threshold: Path) -> str:
    """The endpoint that the model serves at, in RAW_JSON, whose own bands and classes are in another order."""
    keys = yaml.safe_load((threshold / FILE_NAME).read_text()) | {"payload_format": "RAW_JSON"}
    (threshold / FILE_NAME).write_text(yaml.safe_dump(keys))
    uri = upload_folder(threshold, "threshold")
    done = pipeline(
        "submit", uri, "--project", local.PROJECT, "--repository", "images", "--output", threshold / "out", timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return "threshold"


def held_out(tmp_path: Path, **changes: Any) -> tuple[ModelContract, Any]:
    output = {"name": "kind", "dimensions": 1, "labels": LABELS}
    contract = ModelContract.parse(yaml.safe_dump(document(**{"outputs": [output]} | changes)))
    return contract, read_data(contract, str(write_table(tmp_path / "t.csv", TRUE, slice(None))))


def test_champion_is_asked_in_its_own_order_and_format(vertex: Vertex, serving: str, tmp_path: Path) -> None:
    champion = find_champion(vertex, serving)
    assert champion
    assert champion.version == "threshold@1"
    contract, data = held_out(tmp_path)
    found = evaluate_champion(vertex, champion, contract, data)
    assert found.metrics == {"accuracy": 1.0}
    assert (found.model, found.labels, found.pixels) == ("threshold@1", tuple(LABELS), 200)
    # A class that the champion does not know is one that it cannot say.
    more = {"name": "kind", "dimensions": 1, "labels": ["low", "none", "middle"]}
    contract, _ = held_out(tmp_path)
    contract = ModelContract.parse(yaml.safe_dump(document(outputs=[more])))
    judged = evaluate_champion(vertex, champion, contract, data)
    assert judged.metrics["accuracy"] == TRUE.count("low") / 200
    assert judged.confusion[1][3] == TRUE.count("high")


def test_no_endpoint_has_no_champion_nor_one_without_traffic(vertex: Vertex, site: Site) -> None:
    assert find_champion(vertex, "nowhere-to-be-seen") is None
    assert find_champion(vertex, site.endpoint) is None


def test_champion_that_cannot_be_held_against_it(
    vertex: Vertex, serving: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = find_champion(vertex, serving)
    assert champion
    contract, data = held_out(tmp_path, bands=[{"name": "red"}])
    text = r"threshold@1, which serves now, cannot be held against the challenger: it wants green, .* have red; roll"
    with pytest.raises(EvaluationError, match=text):
        evaluate_champion(vertex, champion, contract, data)
    number = ModelContract.parse(yaml.safe_dump(document(outputs=[{"name": "kind", "dimensions": 0}])))
    with pytest.raises(EvaluationError, match="it has the outputs kind, the challenger kind, of a number"):
        evaluate_champion(vertex, champion, number, data)
    chances = {"name": "kind", "dimensions": 1}
    wide = replace(champion, contract=ModelContract.parse(yaml.safe_dump(document(outputs=[chances]))))
    with pytest.raises(EvaluationError, match="it has the outputs kind, the challenger kind, of a number"):
        evaluate_champion(vertex, wide, number, data)
    contract, data = held_out(tmp_path)
    looks = champion.contract.model_copy(update={"overlap": (8, 8)})
    with pytest.raises(EvaluationError, match=r"neighbours of a pixel \(overlap \[8, 8\].* points have none"):
        evaluate_champion(vertex, replace(champion, contract=looks), contract, data)
    seasonal = document(
        bands=[{"name": "green"}], properties=[{"name": "red"}], outputs=[contract.outputs[0].model_dump()]
    )
    property_ = replace(champion, contract=ModelContract.parse(yaml.safe_dump(seasonal)))
    with pytest.raises(EvaluationError, match="it wants red, the held-out data have red, green"):
        evaluate_champion(vertex, property_, contract, data)
    other = ModelContract.parse(yaml.safe_dump(document(outputs=[{"name": "sort", "dimensions": 0}])))
    with pytest.raises(EvaluationError, match="it has the outputs kind, the challenger sort"):
        evaluate_champion(vertex, champion, other, data)


def test_champion_whose_contract_is_gone(vertex: Vertex, serving: str, staging: str) -> None:
    version = list_versions(vertex, serving)[0]
    model = vertex.models.get_model(name=f"{vertex.parent}/models/{serving}@{version.version_id}")
    bucket, name = storage.split(f"{model.artifact_uri}/{FILE_NAME}", folder=False)
    text = bucket.blob(name).download_as_text()
    bucket.blob(name).delete()
    try:
        with pytest.raises(EvaluationError, match=r"threshold@1, .*: there is no gs://.*/model.yaml; roll back"):
            find_champion(vertex, serving)
    finally:
        bucket.blob(name).upload_from_string(text)
