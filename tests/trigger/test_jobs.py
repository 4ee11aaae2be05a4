# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either.
"""The function told by the log that a training job has succeeded."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud import aiplatform_v1
from kfp import compiler, dsl

from tests.vertex_local.conftest import PARENT, Emulator, until

from .conftest import IMAGE, deployments, id_of, of, pointed_at, upload, uploaded_by
from .function import LATE, SOON, Function, custom_entry, environment, pipeline_entry, running

pytestmark = pytest.mark.slow

JobState, PipelineState = aiplatform_v1.JobState, aiplatform_v1.PipelineState


def train(emulator: Emulator, command: Sequence[str], folder: str) -> str:
    """Run a custom job to its end; gives its id."""
    spec: dict[str, Any] = {"worker_pool_specs": [{"container_spec": {"image_uri": IMAGE, "command": list(command)}}]}
    if folder:
        spec["base_output_directory"] = {"output_uri_prefix": folder}
    made = emulator.custom_jobs.create_custom_job(parent=PARENT, custom_job={"display_name": "train", "job_spec": spec})
    until(lambda: emulator.custom_jobs.get_custom_job(name=made.name).end_time)
    return str(made.name.rpartition("/")[2])


def test_a_custom_job_that_succeeded_has_its_model_deployed_once(emulator: Emulator, function: Function) -> None:
    program = uploaded_by("os.environ['AIP_MODEL_DIR']")
    job = train(emulator, [sys.executable, "-c", program], "gs://models/trained/run-1/")
    status, line = function.publish(custom_entry(job))
    assert status == 200
    blob = emulator.storage.bucket("models").get_blob("trained/run-1/model/model.yaml")
    assert blob
    generation = int(blob.generation)
    expected = id_of("trained/run-1/model", generation)
    assert line["message"] == f"started {expected} for gs://models/trained/run-1/model"
    # The bucket announces the same model.
    status, line = function.finalize("models", "trained/run-1/model/model.yaml", generation)
    assert (status, line["message"].partition(" deploy-")[0]) == (200, "already started")
    assert of(emulator, "trained/run-1/model") == [expected]


@pytest.mark.parametrize(
    ("command", "folder", "message"),
    [
        (["false"], "gs://models/trained/failed", "is in state JOB_STATE_FAILED"),
        (["true"], "gs://models/trained/empty", "there is no gs://models/trained/empty/model/model.yaml"),
        (["true"], "", "has no baseOutputDirectory, so no folder for its model"),
    ],
)
def test_a_custom_job_without_a_model_is_acknowledged(
    emulator: Emulator, function: Function, command: list[str], folder: str, message: str
) -> None:
    before = deployments(emulator)
    status, line = function.publish(custom_entry(train(emulator, command, folder)))
    assert (status, line["severity"]) == (200, "INFO")
    assert message in line["message"]
    assert deployments(emulator) == before


@pytest.mark.parametrize("entry", [custom_entry("404"), pipeline_entry("absent")])
def test_a_job_that_is_not_there_is_acknowledged(function: Function, entry: dict[str, Any]) -> None:
    status, line = function.publish(entry)
    assert (status, line["severity"]) == (200, "INFO")
    assert line["message"].startswith(f"there is no {PARENT}/")


def test_a_job_that_still_runs_is_waited_for(emulator: Emulator, function: Function) -> None:
    pool = {"container_spec": {"image_uri": IMAGE, "command": ["sleep", "600"]}}
    job = {"display_name": "long", "job_spec": {"worker_pool_specs": [pool]}}
    name = emulator.custom_jobs.create_custom_job(parent=PARENT, custom_job=job).name
    until(lambda: emulator.custom_jobs.get_custom_job(name=name).state == JobState.JOB_STATE_RUNNING)
    entry = custom_entry(name.rpartition("/")[2])
    try:
        status, line = function.publish(entry, age=SOON)
        assert (status, line["severity"]) == (503, "WARNING")
        assert "is still in state JOB_STATE_RUNNING" in line["message"]
        status, line = function.publish(entry, age=LATE)
        assert (status, line["severity"]) == (200, "ERROR")
    finally:
        emulator.custom_jobs.cancel_custom_job(name=name)
    until(lambda: emulator.custom_jobs.get_custom_job(name=name).end_time)
    status, line = function.publish(entry)
    assert (status, line["severity"]) == (200, "INFO")
    assert "is in state JOB_STATE_CANCELLED" in line["message"]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fit(program: str, uri: str, model: dsl.Output[dsl.Model]) -> None:
    if program:
        exec(program, {"uri": uri})  # noqa: S102
    model.uri = uri


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def measure(uri: str, table: dsl.Output[dsl.Dataset]) -> None:
    table.uri = uri


def run_pipeline(emulator: Emulator, tmp_path: Path, name: str, job: str, models: Mapping[str, bool]) -> str:
    """Run a training pipeline to its end; gives its job's id.

    Its artifacts are models, in order, by their URIs; those that are True are written there.
    """

    @dsl.pipeline(name=name)
    def training() -> None:
        last = None
        for uri, written in models.items():
            fitted = fit(program=uploaded_by("uri") if written else "", uri=uri)
            if last:
                fitted.after(last)
            last = fitted
        measure(uri=next(iter(models))).after(last)

    compiler.Compiler().compile(training, str(tmp_path / "training.yaml"))
    made = emulator.jobs.create_pipeline_job(
        parent=PARENT,
        pipeline_job={
            "pipeline_spec": yaml.safe_load((tmp_path / "training.yaml").read_text()),
            "runtime_config": {"gcs_output_directory": "gs://models/root"},
        },
        pipeline_job_id=job,
    )
    until(lambda: emulator.jobs.get_pipeline_job(name=made.name).end_time, 60)
    seen = emulator.jobs.get_pipeline_job(name=made.name)
    assert seen.state == PipelineState.PIPELINE_STATE_SUCCEEDED, seen.error.message
    return job


def test_a_pipeline_that_succeeded_has_its_last_model_deployed(
    emulator: Emulator, function: Function, tmp_path: Path
) -> None:
    first, second = "gs://models/fitted/first", "gs://models/fitted/second"
    models = {first: True, second: True, "gs://models/fitted/none": False, "https://elsewhere/models/1": False}
    job = run_pipeline(emulator, tmp_path, "training", "train-1", models)
    status, line = function.publish(pipeline_entry(job))
    assert (status, line["model"]) == (200, second)
    assert of(emulator, "fitted/second") == [line["job"]]
    assert not of(emulator, "fitted/first")


def test_a_pipeline_without_a_model_is_acknowledged(emulator: Emulator, function: Function, tmp_path: Path) -> None:
    job = run_pipeline(emulator, tmp_path, "training", "train-2", {"gs://models/fitted/nothing": False})
    status, line = function.publish(pipeline_entry(job))
    assert (status, line["severity"]) == (200, "INFO")
    assert "is a folder in Cloud Storage that holds model.yaml" in line["message"]


def test_the_projects_own_pipelines_start_no_other(emulator: Emulator, function: Function, tmp_path: Path) -> None:
    name = "retrain-pytorch-for-earth-engine"
    job = run_pipeline(emulator, tmp_path, name, "retrain-1", {"gs://models/fitted/own": True})
    status, line = function.publish(pipeline_entry(job))
    assert (status, line["severity"]) == (200, "INFO")
    assert line["message"].endswith(f"ran {name}, which deploys models itself")
    assert not of(emulator, "fitted/own")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (pipeline_entry("a", "PIPELINE_STATE_FAILED"), "state 'PIPELINE_STATE_FAILED'"),
        (pipeline_entry("a", "PIPELINE_STATE_CANCELLED"), "state 'PIPELINE_STATE_CANCELLED'"),
        (custom_entry("1", labels={"ml.googleapis.com/job_state": "FAILED"}), "state 'FAILED'"),
        (pipeline_entry("a", location="europe-west4"), "the job a is in europe-west4"),
    ],
)
def test_a_job_that_failed_or_ran_elsewhere_is_acknowledged(
    function: Function, entry: dict[str, Any], message: str
) -> None:
    status, line = function.publish(entry)
    assert (status, line["severity"]) == (200, "INFO")
    assert message in line["message"]


def test_what_the_pipeline_itself_staged_is_not_deployed_again(
    emulator: Emulator, function: Function, tmp_path: Path
) -> None:
    folder = "earth-engine-models/land-cover/1"
    generation = upload(emulator, folder)
    with running(tmp_path / "log", environment(MODEL_PREFIX="/", **pointed_at(emulator))) as watching_all:
        answers = [
            watching_all.finalize("models", f"{folder}/model.yaml", generation),
            function.publish(custom_entry(train(emulator, ["true"], f"gs://models/{folder.rpartition('/')[0]}"))),
        ]
    reason = "is below gs://models/earth-engine-models, where pipelines stage models"
    for (status, line), uri in zip(answers, (folder, "earth-engine-models/land-cover/model"), strict=True):
        assert (status, line["severity"]) == (200, "INFO")
        assert line["message"] == f"gs://models/{uri} {reason}"
    assert not of(emulator, folder)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("elsewhere/land-cover/1", "is below gs://models/elsewhere, where pipelines stage models"),
        # Of whoever submits without the function's STAGING.
        ("earth-engine-models/land-cover/2", "is below gs://models/earth-engine-models, where pipelines stage models"),
        (
            "retraining/pipeline-root/1/retrain-2/train_3/trained",
            "is what a pipeline's step has written, below its pipeline-root",
        ),
    ],
)
def test_what_pipelines_write_is_not_deployed_wherever_they_do(
    emulator: Emulator, tmp_path: Path, folder: str, reason: str
) -> None:
    generation = upload(emulator, folder)
    settings = environment(MODEL_PREFIX="/", STAGING="gs://models/elsewhere", **pointed_at(emulator))
    with running(tmp_path / "log", settings) as watching_all:
        status, line = watching_all.finalize("models", f"{folder}/model.yaml", generation)
    assert (status, line["severity"], line["message"]) == (200, "INFO", f"gs://models/{folder} {reason}")
    assert not of(emulator, folder)
