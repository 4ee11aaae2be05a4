"""The function against a local Vertex AI, over HTTP as the platform calls it."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.cloud import aiplatform_v1

from containers.trigger.events import FINALIZED, PUBLISHED
from tests.vertex_local.conftest import PARENT, Emulator, until

from .conftest import CONTRACT, deployments, id_of, of, pointed_at, upload
from .function import LATE, SOON, Function, custom_entry, environment, finalized, published, running

pytestmark = pytest.mark.slow

PipelineState = aiplatform_v1.PipelineState


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_a_model_yaml_starts_the_pipeline(emulator: Emulator, function: Function, mode: Any) -> None:
    folder = f"trained/{mode}"
    generation = upload(emulator, folder)
    status, line = function.finalize("models", f"{folder}/model.yaml", generation, mode=mode, event_id=f"e-{mode}")
    job = id_of(folder, generation)
    assert (status, line) == (
        200,
        {
            "severity": "INFO",
            "message": f"started {job} for gs://models/{folder}",
            "event": f"e-{mode}",
            "model": f"gs://models/{folder}",
            "job": job,
        },
    )
    name = f"{PARENT}/pipelineJobs/{job}"
    until(lambda: emulator.jobs.get_pipeline_job(name=name).end_time)
    seen = emulator.jobs.get_pipeline_job(name=name)
    assert seen.state == PipelineState.PIPELINE_STATE_SUCCEEDED, seen.error.message
    assert (seen.display_name, seen.service_account) == ("land-cover", "steps@local.iam")
    assert seen.runtime_config.gcs_output_directory == "gs://models/earth-engine-models/pipeline-root"
    [task] = seen.job_detail.task_details
    assert task.execution.metadata["output:Output"] == f"gs://models/{folder}  25"


def test_a_redelivered_event_starts_nothing_more(emulator: Emulator, function: Function) -> None:
    generation = upload(emulator, "trained/twice")
    for verb in ("started", "already started", "already started"):
        status, line = function.finalize("models", "trained/twice/model.yaml", generation)
        assert (status, line["severity"]) == (200, "INFO")
        assert line["message"].startswith(f"{verb} deploy-")
    assert of(emulator, "trained/twice") == [id_of("trained/twice", generation)]


def test_events_that_come_at_once_start_one_job(emulator: Emulator, function: Function) -> None:
    generation = upload(emulator, "trained/at-once")
    with ThreadPoolExecutor(6) as pool:
        sent = [pool.submit(function.finalize, "models", "trained/at-once/model.yaml", generation) for _ in range(6)]
        answers = [each.result() for each in sent]
    assert [status for status, _ in answers] == [200] * 6
    assert sorted(line["message"].partition(" deploy-")[0] for _, line in answers) == [
        *["already started"] * 5,
        "started",
    ]
    assert len(of(emulator, "trained/at-once")) == 1


def test_a_model_that_is_uploaded_again_is_deployed_again_and_the_older_event_is_superseded(
    emulator: Emulator, function: Function
) -> None:
    first, second = (upload(emulator, "trained/again") for _ in range(2))
    status, line = function.finalize("models", "trained/again/model.yaml", first)
    assert (status, line["severity"]) == (200, "INFO")
    assert line["message"].endswith(f"is superseded by {second}")
    status, line = function.finalize("models", "trained/again/model.yaml", second)
    assert status == 200
    third = upload(emulator, "trained/again")
    status, line = function.finalize("models", "trained/again/model.yaml", third)
    assert line["message"].startswith("started")
    assert set(of(emulator, "trained/again")) == {id_of("trained/again", second), id_of("trained/again", third)}


def test_a_model_that_was_deleted_is_acknowledged(emulator: Emulator, function: Function) -> None:
    generation = upload(emulator, "trained/gone")
    emulator.storage.bucket("models").blob("trained/gone/model.yaml").delete()
    status, line = function.finalize("models", "trained/gone/model.yaml", generation)
    assert (status, line["severity"]) == (200, "INFO")
    assert line["message"] == "there is no gs://models/trained/gone/model.yaml"
    assert not of(emulator, "trained/gone")


def test_a_model_that_is_still_uploaded_is_waited_for(emulator: Emulator, function: Function) -> None:
    folder, name = "trained/slow", "trained/slow/model.yaml"
    generation = upload(emulator, folder, file="model.pt.part")
    status, line = function.finalize("models", name, generation, age=SOON)
    assert (status, line["severity"]) == (503, "WARNING")
    assert "holds model.yaml but not model.pt, which it names" in line["message"]
    status, line = function.finalize("models", name, generation, age=LATE)
    assert (status, line["severity"]) == (200, "ERROR")
    assert "holds model.yaml but not model.pt, which it names" in line["message"]
    assert not of(emulator, folder)
    emulator.storage.bucket("models").blob("trained/slow/model.pt").upload_from_string(b"weights")
    status, line = function.finalize("models", name, generation, age=SOON)
    assert (status, line["message"]) == (200, f"started {id_of(folder, generation)} for gs://models/{folder}")


def test_a_model_may_be_a_folder(emulator: Emulator, function: Function) -> None:
    contract = CONTRACT.replace("model.pt", "saved_model")
    generation = upload(emulator, "trained/folder", contract, "saved_model/saved_model.pb")
    status, line = function.finalize("models", "trained/folder/model.yaml", generation)
    assert (status, line["message"].partition(" ")[0]) == (200, "started")


def test_a_folder_is_waited_for_until_it_is_a_saved_model(emulator: Emulator, function: Function) -> None:
    contract = CONTRACT.replace("model.pt", "saved_model")
    generation = upload(emulator, "trained/half", contract, "saved_model/variables/variables.index")
    status, line = function.finalize("models", "trained/half/model.yaml", generation)
    assert (status, line["severity"]) == (503, "WARNING")
    assert "holds model.yaml but not saved_model, which it names" in line["message"]
    emulator.storage.bucket("models").blob("trained/half/saved_model/saved_model.pb").upload_from_string(b"graph")
    status, line = function.finalize("models", "trained/half/model.yaml", generation)
    assert (status, line["message"].partition(" ")[0]) == (200, "started")


def test_a_saved_model_may_lie_beside_its_model_yaml(emulator: Emulator, function: Function) -> None:
    contract = CONTRACT.replace("model.pt", ".")
    generation = upload(emulator, "trained/beside", contract, "variables/variables.index")
    assert function.finalize("models", "trained/beside/model.yaml", generation)[0] == 503
    emulator.storage.bucket("models").blob("trained/beside/saved_model.pb").upload_from_string(b"graph")
    status, line = function.finalize("models", "trained/beside/model.yaml", generation)
    assert (status, line["message"].partition(" ")[0]) == (200, "started")


def test_a_file_may_be_named_from_where_model_yaml_lies(emulator: Emulator, function: Function) -> None:
    generation = upload(emulator, "trained/dotted", CONTRACT.replace("model.pt", "./model.pt"))
    status, line = function.finalize("models", "trained/dotted/model.yaml", generation)
    assert (status, line["message"].partition(" ")[0]) == (200, "started")


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        ("framework: [", "model.yaml is no YAML"),
        ("framework: jax", "framework is 'jax'; pytorch and tensorflow are known"),
        ("framework: pytorch", "model.file is None"),
        ("framework: pytorch\nmodel: {file: a}\n" + "# " * (1 << 17), "model.yaml has 262180 bytes; 262144 are"),
        ('framework: pytorch\nmodel: {file: "\\ud800"}\n', "could not look for gs://models/trained/wrong/"),
    ],
)
def test_a_contract_that_cannot_be_read_is_an_error(
    emulator: Emulator, function: Function, contract: str, message: str
) -> None:
    generation = upload(emulator, "trained/wrong", contract)
    status, line = function.finalize("models", "trained/wrong/model.yaml", generation)
    assert (status, line["severity"]) == (200, "ERROR")
    assert message in line["message"]
    assert not of(emulator, "trained/wrong")


@pytest.mark.parametrize(
    ("bucket", "name"),
    [("elsewhere", "trained/other/model.yaml"), ("models", "trained/other/model.pt"), ("models", "x/model.yaml")],
)
def test_another_object_is_acknowledged(emulator: Emulator, function: Function, bucket: str, name: str) -> None:
    before = deployments(emulator)
    status, line = function.finalize(bucket, name, 1)
    assert (status, line["severity"]) == (200, "INFO")
    assert line["message"].startswith(f"gs://{bucket}/{name} is no model.yaml under gs://models/trained/")
    assert deployments(emulator) == before


@pytest.mark.parametrize("mode", ["binary", "structured"])
@pytest.mark.parametrize(
    ("event_type", "data", "severity", "message"),
    [
        ("google.cloud.storage.object.v1.deleted", finalized("models", "trained/a/model.yaml", 1), "INFO", "of type"),
        (FINALIZED, {"bucket": "models"}, "ERROR", "no object's metadata"),
        (FINALIZED, "model.yaml", "ERROR", "no object's metadata"),
        (PUBLISHED, {"message": {"data": "%"}}, "ERROR", "no JSON in base64"),
        (PUBLISHED, {"message": {"data": base64.b64encode(b"{").decode()}}, "ERROR", "no JSON in base64"),
        (PUBLISHED, published(b"{}"), "ERROR", "no LogEntry"),
        (PUBLISHED, published(json.dumps(custom_entry("")).encode()), "ERROR", "names no job"),
    ],
)
def test_what_starts_nothing_is_acknowledged(
    function: Function, event_type: str, data: Any, severity: str, message: str, mode: Any
) -> None:
    status, line = function.deliver(event_type, data, mode=mode)
    assert (status, line["severity"]) == (200, severity)
    assert message in line["message"]


def test_a_body_that_is_no_json_is_acknowledged(function: Function) -> None:
    headers = {"ce-id": "torn", "ce-type": FINALIZED, "ce-source": "//storage", "ce-specversion": "1.0"}
    headers |= {"ce-time": "2026-01-31T12:00:00Z", "Content-Type": "application/json"}
    assert function.post(headers, b'{"bucket": "mod') == 200
    [line] = function.lines("torn")
    assert line["severity"] == "ERROR"
    assert line["message"].startswith("the event's data are no object's metadata: ")


@pytest.mark.parametrize(
    "body",
    [
        {"data_base64": "x"},
        {"data_base64": 5},
    ],
)
def test_data_that_cannot_be_decoded_are_acknowledged(function: Function, body: dict[str, Any]) -> None:
    event = {"id": "1", "type": FINALIZED, "source": "//storage", "specversion": "1.0", **body}
    before = len(function.lines())
    assert function.post({"Content-Type": "application/cloudevents+json"}, json.dumps(event)) == 200
    [line] = function.lines()[before:]
    assert line["severity"] == "ERROR"
    assert line["message"].startswith("the event's data cannot be read: ")


def test_an_event_of_no_time_is_an_error(function: Function) -> None:
    headers = {"ce-id": "when", "ce-type": FINALIZED, "ce-source": "//storage", "ce-specversion": "1.0"}
    assert function.post({**headers, "ce-time": "yesterday", "Content-Type": "application/json"}, b"{}") == 200
    [line] = function.lines("when")
    assert (line["severity"], line["message"].partition(";")[0]) == ("ERROR", "the event's time is 'yesterday'")


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_an_event_without_a_time_is_an_error_however_long_its_model_is_missing(
    emulator: Emulator, function: Function, mode: Any
) -> None:
    generation = upload(emulator, "trained/timeless", file="model.pt.part")
    data = finalized("models", "trained/timeless/model.yaml", generation)
    event = {"id": f"timeless-{mode}", "type": FINALIZED, "source": "//storage", "specversion": "1.0"}
    if mode == "binary":
        headers = {f"ce-{name}": value for name, value in event.items()}
        assert function.post({**headers, "Content-Type": "application/json"}, json.dumps(data)) == 200
    else:
        body = json.dumps({**event, "data": data})
        assert function.post({"Content-Type": "application/cloudevents+json"}, body) == 200
    [line] = function.lines(f"timeless-{mode}")
    assert (line["severity"], line["message"].partition(";")[0]) == ("ERROR", "the event's time is None")


def test_what_is_no_event_is_refused(function: Function) -> None:
    before = function.lines()
    assert function.post({"Content-Type": "application/json"}, b'{"bucket": "models"}') == 400
    assert function.post({"Content-Type": "application/cloudevents+json"}, b"model.yaml") == 400
    assert function.lines() == before


def test_staging_is_passed_on_and_its_lookalike_is_none(emulator: Emulator, tmp_path: Path) -> None:
    generation = upload(emulator, "trained/stage-not/x")
    settings = environment(STAGING="gs://models/trained/stage/", **pointed_at(emulator))
    with running(tmp_path / "log", settings) as staging:
        status, line = staging.finalize("models", "trained/stage-not/x/model.yaml", generation)
    assert (status, line["message"].partition(" ")[0]) == (200, "started")
    job = emulator.jobs.get_pipeline_job(name=f"{PARENT}/pipelineJobs/{line['job']}")
    assert dict(job.runtime_config.parameter_values) == {
        "model_uri": "gs://models/trained/stage-not/x",
        "staging": "gs://models/trained/stage",
    }
    assert job.runtime_config.gcs_output_directory == "gs://models/trained/stage/pipeline-root"


def test_a_missing_template_is_waited_for(emulator: Emulator, function: Function, template: str) -> None:
    contract = CONTRACT.replace("pytorch", "tensorflow")
    generation = upload(emulator, "trained/no-template", contract)
    name = "trained/no-template/model.yaml"
    blob = emulator.storage.bucket("templates").blob("deploy/deploy-tensorflow.yaml")
    status, line = function.finalize("models", name, generation, age=SOON)
    assert (status, line["severity"]) == (503, "WARNING")
    assert "there is no template gs://templates/deploy/deploy-tensorflow.yaml; put there" in line["message"]
    status, line = function.finalize("models", name, generation, age=LATE)
    assert (status, line["severity"]) == (200, "ERROR")
    assert line["model"] == "gs://models/trained/no-template"
    for wrong in ("{", "- a"):
        blob.upload_from_string(wrong)
        assert function.finalize("models", name, generation)[0] == 503
    blob.upload_from_string(template)
    status, line = function.finalize("models", name, generation, age=SOON)
    assert (status, line["message"].partition(" ")[0]) == (200, "started")
