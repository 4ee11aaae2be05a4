"""The command line as users have it: the whole road for both frameworks, and every bad input."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from PIL import Image

from components import local
from components.earthengine.contract import Framework
from components.vertex import Vertex
from tests.conftest import FRAMEWORKS
from tests.road.conftest import ROOT, changed, pipeline, processes_under, upload_folder

Trained = dict[Framework, Path]
TEMPLATES = ROOT / "tests" / "templates"
STEPS = [
    "importer",
    "export",
    "archive",
    "preflight",
    "upload",
    "create-endpoint",
    "deploy",
    "verify",
    "release",
    "conclude",
]


@pytest.mark.slow
@pytest.mark.parametrize("payload_format", ["RAW_JSON", "GRPC_TF_EXAMPLES"])
def test_formats_of_text_and_of_examples_walk_it_too(trained: Trained, tmp_path: Path, payload_format: str) -> None:
    model = changed(trained["pytorch"], tmp_path / "model", payload_format=payload_format)
    done = pipeline("run", model, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f'payloadFormat="{payload_format}"' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_run_walks_the_whole_road(
    trained: Trained, tmp_path: Path, framework: Framework, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = pipeline("run", trained[framework], "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    shown = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("✓")]
    assert shown == STEPS
    endpoint = f"projects/local/locations/us-central1/endpoints/land-cover-{framework}"
    assert f"endpoint  {endpoint}" in done.stdout
    assert f'endpoint="{endpoint}"' in done.stdout
    assert '"palette": ["#d55e00", "#009e73", "#0072b2"]' in done.stdout
    parity = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("parity"))
    assert float(parity) <= 1e-5
    accuracy = json.loads((trained[framework] / "metrics.json").read_text())["accuracy"]
    assert f"accuracy  {accuracy:.1%}" in done.stdout
    with Image.open(tmp_path / "out" / f"land-cover-{framework}" / "landcover.png") as map_:
        colours = {colour for _, colour in map_.getcolors() or []}
        assert map_.size == (300, 300)
    assert colours == {(0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73), (0x00, 0x72, 0xB2)}
    assert (tmp_path / "out" / f"land-cover-{framework}" / "true_colour.png").exists()
    assert "ee.Model.fromVertexAi" in (tmp_path / "out" / f"land-cover-{framework}" / "report.html").read_text()
    assert processes_under(tmp_path) == []
    assert list(tmp_path.glob("rehearsal-*")) == []


@pytest.mark.slow
def test_submit_reaches_a_vertex_ai_that_lasts_and_a_second_run_makes_nothing_twice(
    vertex: Vertex, trained: Trained, tmp_path: Path
) -> None:
    uri = upload_folder(trained["pytorch"], "twice")
    submit = ["submit", uri, "--project", local.PROJECT, "--repository", "images", "--output"]
    for attempt in ("first", "second"):
        done = pipeline(*submit, tmp_path / attempt)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / attempt / "scene.png").exists()
    reports = [(tmp_path / attempt / "report.html").read_text() for attempt in ("first", "second")]
    made, there = "created by this run", "was there before this run"
    assert [(report.count(made), report.count(there)) for report in reports] == [(3, 0), (0, 3)]
    versions = list(vertex.models.list_model_versions(name=f"{vertex.parent}/models/land-cover-pytorch"))
    endpoint = vertex.endpoints.get_endpoint(name=f"{vertex.parent}/endpoints/land-cover-pytorch")
    assert [version.version_id for version in versions] == ["1"]
    assert [dict(endpoint.traffic_split)] == [{model.id: 100} for model in endpoint.deployed_models]
    assert "had all the traffic already and was verified again; nothing was changed" in done.stdout


@pytest.mark.slow
def test_run_needs_no_sample_and_reads_no_metrics_of_others(trained: Trained, tmp_path: Path) -> None:
    model = changed(trained["pytorch"], tmp_path / "model")
    (model / "sample.npz").unlink()
    (model / "metrics.json").write_text('{"loss": 0.1}')
    done = pipeline("run", model, "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "picture" not in done.stdout
    assert "accuracy" not in done.stdout
    assert "ee.Model.fromVertexAi" in (tmp_path / "out" / "land-cover-pytorch" / "earth-engine-call.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing_running(
    trained: Trained, tmp_path: Path, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, str(ROOT / "pipeline.py"), "run", str(trained["pytorch"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        while "importer" not in run.stdout.readline():
            assert run.poll() is None
        assert len(processes_under(tmp_path)) > 2  # the local Vertex AI, its job, and the export step
        run.send_signal(how)
    deadline = time.monotonic() + 20
    while processes_under(tmp_path):
        assert time.monotonic() < deadline, processes_under(tmp_path)
        time.sleep(0.1)


@pytest.mark.slow
def test_a_step_that_fails_fails_the_run_with_its_reason_and_makes_nothing(
    vertex: Vertex, trained: Trained, tmp_path: Path
) -> None:
    bands = [{"name": name} for name in ("B2", "B3", "B4", "B8", "B11")]
    model = changed(trained["pytorch"], tmp_path / "model", name="five-bands", bands=bands, true_colour=None)
    (model / "sample.npz").unlink()
    uri = upload_folder(model, "five-bands")
    done = pipeline("submit", uri, "--project", local.PROJECT, "--repository", "images", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "✗ failed export" in done.stdout
    assert "the model refuses what model.yaml declares: 5 channels (B2, B3, B4, B8, B11)" in done.stderr
    assert not [m for m in vertex.models.list_models(parent=vertex.parent) if m.display_name == "five-bands"]
    assert not [e for e in vertex.endpoints.list_endpoints(parent=vertex.parent) if e.display_name == "five-bands"]


@pytest.mark.slow
def test_a_bucket_that_does_not_exist_is_named(vertex: Vertex) -> None:
    before = len(list(vertex.pipelines.list_pipeline_jobs(parent=vertex.parent)))
    done = pipeline("submit", "gs://no-such-bucket/model", "--project", local.PROJECT, "--repository", "images")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the bucket gs://no-such-bucket does not exist; create it" in done.stderr
    assert len(list(vertex.pipelines.list_pipeline_jobs(parent=vertex.parent))) == before


BAD_CONTRACTS: dict[str, tuple[dict[str, object], str]] = {
    "unknown band type": (
        {"bands": [{"name": "B2", "type": "flot"}]},
        "bands[0].type is 'flot'; allowed: float, double",
    ),
    "tile over the limit": ({"tile": [512, 512]}, "the largest square tile that fits is 265 x 265: declare tile [265"),
    "format that cannot carry it": (
        {"payload_format": "ND_ARRAYS", "properties": [{"name": "year"}]},
        "payload_format ND_ARRAYS carries scalar bands only",
    ),
}


@pytest.mark.parametrize("fault", BAD_CONTRACTS)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_bad_contract_stops_check_and_run_before_anything_starts(
    trained: Trained, tmp_path: Path, command: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    keys, message = BAD_CONTRACTS[fault]
    model = changed(trained["pytorch"], tmp_path / "model", **({"true_colour": None} | keys))
    done = pipeline(command, model)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("rehearsal-*")) == []


DISAGREEMENTS: dict[str, tuple[Framework, dict[str, object], str]] = {
    "bands": ("pytorch", {"bands": [{"name": "B2"}]}, "the model refuses what model.yaml declares: 1 channels (B2)"),
    "channels": (
        "tensorflow",
        {"bands": [{"name": "B2"}]},
        "the model refuses what model.yaml declares: 1 channels (B2)",
    ),
    "outputs": (
        "pytorch",
        {"outputs": [{"name": "a", "dimensions": 1}, {"name": "b", "dimensions": 0}]},
        "declares 2 outputs (a, b), the model gives 1",
    ),
    "dims": (
        "tensorflow",
        {"outputs": [{"name": "landcover", "dimensions": 0}]},
        "is not of dimensions 0 as model.yaml declares; declare dimensions: 1",
    ),
    "labels": (
        "pytorch",
        {"outputs": [{"name": "landcover", "dimensions": 1, "labels": ["a", "b"]}]},
        "has 3 values a pixel, model.yaml gives 2 labels (a, b)",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", DISAGREEMENTS)
def test_check_finds_where_the_contract_disagrees_with_the_model(trained: Trained, tmp_path: Path, what: str) -> None:
    framework, keys, message = DISAGREEMENTS[what]
    model = changed(trained[framework], tmp_path / "model", **{"true_colour": None, **keys})
    (model / "sample.npz").unlink()
    done = pipeline("check", model)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.slow
def test_check_passes_a_good_model(trained: Trained) -> None:
    done = pipeline("check", trained["pytorch"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "answers a patch of 64 x 64 pixels as declared: landcover [64, 64, 3]" in done.stdout


def test_a_directory_without_a_contract_is_named(tmp_path: Path) -> None:
    for command in ("check", "run"):
        done = pipeline(command, tmp_path)
        assert done.returncode == 1
        assert f"{tmp_path}/model.yaml does not exist; write the model's contract there" in done.stderr


@pytest.mark.slow
def test_a_corrupt_model_and_a_pickle_without_opt_in_are_refused(trained: Trained, tmp_path: Path) -> None:
    corrupt = changed(trained["pytorch"], tmp_path / "corrupt")
    whole = (corrupt / "model.pt").read_bytes()
    (corrupt / "model.pt").write_bytes(whole[: len(whole) // 2])
    pickle = changed(trained["pytorch"], tmp_path / "pickle")
    with zipfile.ZipFile(pickle / "model.pt", "w") as file:  # what torch.save makes of a whole module
        file.writestr("archive/data.pkl", b"\x80\x02c__main__\nNet\n.")
    for model in (corrupt, pickle):
        done = pipeline("check", model)
        assert done.returncode == 1
        assert "is neither TorchScript nor" in done.stderr
        assert "--allow-pickle" in done.stderr


@pytest.mark.slow
def test_an_image_that_does_not_go_with_the_model_is_refused(trained: Trained, tmp_path: Path) -> None:
    refusals = {
        "images/serving-tensorflow:1": "serves tensorflow, the model is pytorch; use REPOSITORY/serving-pytorch",
        "prediction/pytorch-cpu.1-12:latest": "has been withdrawn",
        "images/mine:1": "is not known; allowed: REPOSITORY/serving-pytorch",
    }
    for image, message in refusals.items():
        done = pipeline("run", trained["pytorch"], "-p", f"serving_image={image}", "--output", tmp_path / "out")
        assert done.returncode == 1
        assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_image_whose_grpc_answers_do_not_name_their_model_is_refused_a_canary(
    trained: Trained, tmp_path: Path
) -> None:
    model = changed(trained["tensorflow"], tmp_path / "model", payload_format="GRPC_TF_TENSORS")
    image = ("-p", "serving_image=prediction/tf2-cpu.2-15:latest")
    done = pipeline("run", model, *image, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "does not say in GRPC_TF_TENSORS which model gave an answer" in done.stderr
    assert "submit with canary_percent 100" in done.stderr
    assert not (tmp_path / "out").exists()


def test_parameters_are_read_by_type_and_refused_by_name(trained: Trained) -> None:
    done = pipeline("run", trained["pytorch"], "-p", "replicas=2")
    assert done.returncode == 1
    assert "--parameter replicas=2 is not NAME=VALUE with NAME one of staging, endpoint" in done.stderr
    done = pipeline("run", trained["pytorch"], "-p", "min_replicas=two")
    assert "min_replicas takes a value of type Integer" in done.stderr
    done = pipeline("run", trained["pytorch"], "-p", "canary_percent=0")
    assert "canary_percent is 0; allowed: 1 to 100" in done.stderr
    done = pipeline("run", trained["pytorch"], "-p", "model_uri=gs://other/model")
    assert "is not NAME=VALUE with NAME one of staging, endpoint" in done.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = pipeline("local", "--port", str(port), "--state", tmp_path / "state")
    assert done.returncode == 1
    assert not (tmp_path / "state").exists()
    assert f"port {port} is in use" in done.stderr


COMPILE = ("compile", "--repository", "REPOSITORY", "--tag", "TAG", "--output")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `compile` writes."""
    folder = tmp_path_factory.mktemp("compiled")
    done = pipeline(*COMPILE, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("pipeline_name", "required"), [("deploy", "model_uri"), ("retrain", "staging")])
def test_the_templates_are_the_golden_ones_and_explain_themselves(
    compiled: Path, framework: Framework, pipeline_name: str, required: str
) -> None:
    name = f"{pipeline_name}-{framework}.yaml"
    text = (compiled / name).read_text()
    assert text == (TEMPLATES / name).read_text(), "the DAG has changed: look at it, then `make templates`"
    template = yaml.safe_load(text)
    parameters = template["root"]["inputDefinitions"]["parameters"]
    assert all(parameter["description"] for parameter in parameters.values())
    assert [name for name, parameter in parameters.items() if not parameter.get("isOptional")] == [required]
    images = {e["container"]["image"] for e in template["deploymentSpec"]["executors"].values() if "container" in e}
    assert images == {"REPOSITORY/steps-vertex:TAG", f"REPOSITORY/steps-{framework}:TAG"}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_deploy_within_retrain_is_deploy_with_the_same_defaults(compiled: Path, framework: Framework) -> None:
    deploy, retrain = (
        yaml.safe_load((compiled / f"{name}-{framework}.yaml").read_text()) for name in ("deploy", "retrain")
    )
    inside = retrain["components"][f"comp-deploy-{framework}-to-earth-engine"]
    assert inside["dag"] == deploy["root"]["dag"]
    ours, theirs = (each["root"]["inputDefinitions"]["parameters"] for each in (deploy, retrain))
    shared = set(ours) & set(theirs) - {"staging"}
    assert set(ours) - shared == {"model_uri", "staging", "allow_pickle"}
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


def test_an_accelerator_without_a_custom_job_is_refused(tmp_path: Path) -> None:
    done = pipeline(*COMPILE, tmp_path / "out", "--train-accelerator", "NVIDIA_TESLA_T4")
    assert done.returncode == 1
    assert "--train-accelerator is of a CustomJob; give --train-on-vertex too" in done.stderr
    assert not (tmp_path / "out").exists()


def test_training_on_vertex_ai_is_a_custom_job_in_the_place_of_the_step(compiled: Path, tmp_path: Path) -> None:
    machine = ("--train-on-vertex", "--train-machine", "n1-standard-4", "--train-accelerator", "NVIDIA_TESLA_T4")
    done = pipeline(*COMPILE, tmp_path, *machine, "--train-accelerators", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "deploy-pytorch.yaml").read_text() == (compiled / "deploy-pytorch.yaml").read_text()
    here, there = (yaml.safe_load((folder / "retrain-pytorch.yaml").read_text()) for folder in (compiled, tmp_path))
    plain, job = (each["components"].pop("comp-train") for each in (here, there))
    program, launcher = (each["deploymentSpec"]["executors"].pop("exec-train") for each in (here, there))
    assert here == there
    # What the step takes and gives is the same, and so is its program, in the job's one pool of workers.
    assert plain["outputDefinitions"]["artifacts"] == job["outputDefinitions"]["artifacts"]
    assert plain["inputDefinitions"]["parameters"].items() <= job["inputDefinitions"]["parameters"].items()
    (pool,) = job["inputDefinitions"]["parameters"]["worker_pool_specs"]["defaultValue"]
    assert pool["machine_spec"] == {
        "machine_type": "n1-standard-4",
        "accelerator_type": "NVIDIA_TESLA_T4",
        "accelerator_count": 2,
    }
    assert pool["container_spec"]["image_uri"] == "REPOSITORY/steps-pytorch:TAG"
    assert pool["container_spec"]["command"] == program["container"]["command"]
    assert "google_cloud_pipeline_components.container.v1.custom_job.launcher" in launcher["container"]["command"]


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_sdk_takes_the_templates(framework: Framework) -> None:
    from google.cloud import aiplatform

    job = aiplatform.PipelineJob(
        display_name="from the console",
        template_path=str(TEMPLATES / f"deploy-{framework}.yaml"),
        pipeline_root="gs://bucket/root",
        parameter_values={"model_uri": "gs://bucket/model", "canary_percent": 5},
        project="p",
        location="us-central1",
        credentials=AnonymousCredentials(),
    )
    assert job.runtime_config.parameter_values["canary_percent"] == 5
    aiplatform.PipelineJob(
        display_name="from the console",
        template_path=str(TEMPLATES / f"retrain-{framework}.yaml"),
        pipeline_root="gs://bucket/root",
        parameter_values={"staging": "gs://bucket/staging", "margin": 0.01},
        project="p",
        location="us-central1",
        credentials=AnonymousCredentials(),
    )
    with pytest.raises(ValueError, match="no_such"):
        aiplatform.PipelineJob(
            display_name="wrong",
            template_path=str(TEMPLATES / f"deploy-{framework}.yaml"),
            pipeline_root="gs://bucket/root",
            parameter_values={"no_such": 1},
            project="p",
            location="us-central1",
            credentials=AnonymousCredentials(),
        )


@pytest.mark.parametrize(
    "command",
    ["", "check", "run", "compile", "plan", "submit", "retrain", "schedule", "status", "rollback", "doctor", "local"],
)
def test_every_command_explains_itself(command: str) -> None:
    done = pipeline(*filter(None, [command]), "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout or "usage" in done.stdout
