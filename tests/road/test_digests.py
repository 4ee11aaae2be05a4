"""Images by their digests: what is compiled, submitted and scheduled names each so, or nothing is made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.cloud.aiplatform_v1.types import PipelineJob

from components import local
from components.earthengine.contract import Framework
from components.schedule import delete_schedule
from components.schedules import list_schedules
from components.vertex import Vertex
from tests.conftest import FRAMEWORKS
from tests.road.conftest import pipeline, upload_folder

TEMPLATES = Path(__file__).parents[1] / "templates"
NAMES = ("steps-vertex", *(f"{kind}-{framework}" for framework in FRAMEWORKS for kind in ("steps", "serving")))
DIGESTS = {name: f"sha256:{number:064x}" for number, name in enumerate(NAMES, 1)}


@pytest.fixture
def digests(tmp_path: Path) -> Path:
    """A file as `make push` writes it."""
    path = tmp_path / "digests.json"
    path.write_text(json.dumps(DIGESTS | {"trigger": f"sha256:{0:064x}"}))
    return path


def images_in(part: Any) -> Iterator[str]:
    """Every image in a template: of steps, of CustomJobs, and the one that serves."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if key in {"image", "image_uri"}:
            yield value
        elif key == "serving_image" and "defaultValue" in value:
            yield value["defaultValue"]
        else:
            yield from images_in(value)


@pytest.mark.parametrize("more", [(), ("--train-on-vertex",)])
def test_templates_name_every_image_by_its_digest(digests: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    to = ("compile", "--repository", "REPOSITORY", "--tag", "TAG", "--output")
    for name, options in (("tags", ()), ("digests", ("--digests", str(digests)))):
        done = pipeline(*to, tmp_path / name, *more, *options)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "digests").iterdir()) == sorted(
        path.name for path in TEMPLATES.glob("*.yaml")
    )
    for path in (tmp_path / "digests").iterdir():
        framework = path.stem.rpartition("-")[2]
        expected = {name: f"REPOSITORY/{name}@{digest}" for name, digest in DIGESTS.items() if "-" in name}
        # The program that starts a CustomJob is Google's, in an image that Google's package names.
        named = {uri for uri in images_in(yaml.safe_load(path.read_text())) if not uri.startswith("gcr.io/ml-pipeline")}
        assert named == {expected[name] for name in ("steps-vertex", f"steps-{framework}", f"serving-{framework}")}
        # Nothing else differs.
        text = (tmp_path / "tags" / path.name).read_text()
        for name, uri in expected.items():
            text = text.replace(f"REPOSITORY/{name}:TAG", uri)
        assert yaml.safe_load(path.read_text()) == yaml.safe_load(text)


@pytest.mark.slow
def test_a_submitted_run_carries_digests_to_the_registered_model(
    vertex: Vertex, trained: dict[Framework, Path], digests: Path, tmp_path: Path
) -> None:
    uri = upload_folder(trained["pytorch"], "digests")
    wanted = ("--project", local.PROJECT, "--repository", "images", "--digests", digests)
    done = pipeline("submit", uri, *wanted, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    [job] = vertex.pipelines.list_pipeline_jobs(parent=vertex.parent)
    submitted = PipelineJob.to_dict(vertex.pipelines.get_pipeline_job(name=job.name))
    assert set(images_in(submitted["pipeline_spec"])) == {
        f"images/{name}@{DIGESTS[name]}" for name in ("steps-vertex", "steps-pytorch", "serving-pytorch")
    }
    [model] = vertex.models.list_models(parent=vertex.parent)
    assert model.container_spec.image_uri == f"images/serving-pytorch@{DIGESTS['serving-pytorch']}"


FILES = {
    "missing": (None, "cannot be read as JSON: "),
    "not JSON": ("sha256:", "cannot be read as JSON: "),
    "not a mapping": ("[]", "holds a list, not a mapping"),
    "not a digest": ('{"trigger": "latest"}', "'trigger' is 'latest'; allowed: sha256: and 64 digits"),
}


@pytest.mark.parametrize("case", FILES)
def test_compile_refuses_a_bad_file_and_writes_nothing(tmp_path: Path, case: str) -> None:
    content, told = FILES[case]
    file = tmp_path / "digests.json"
    if content is not None:
        file.write_text(content)
    done = pipeline("compile", "--repository", "images", "--digests", file, "--output", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error --digests {file}" in done.stderr
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lacking", NAMES)
def test_compile_refuses_digests_that_lack_an_image_and_writes_nothing(tmp_path: Path, lacking: str) -> None:
    file = tmp_path / "digests.json"
    file.write_text(json.dumps({name: digest for name, digest in DIGESTS.items() if name != lacking}))
    done = pipeline("compile", "--repository", "images", "--digests", file, "--output", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error --digests names no image {lacking}, only " in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("submit", "MODEL"),
        ("plan", "MODEL"),
        ("retrain", "--contract", "MODEL"),
        ("schedule", "--contract", "MODEL", "--cron", "0 3 * * 1"),
    ],
    ids=lambda command: command[0],
)
def test_no_command_makes_anything_without_all_digests(
    vertex: Vertex, trained: dict[Framework, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    uri = upload_folder(trained["pytorch"], "lacking")
    file = tmp_path / "digests.json"
    monkeypatch.setenv("IMAGE_DIGESTS", str(file))
    before = len(list(vertex.pipelines.list_pipeline_jobs(parent=vertex.parent)))
    wanted = [uri if each == "MODEL" else each for each in command]
    for digests, told in (
        ("[]", f"error --digests {file} holds a list"),
        (json.dumps({"steps-vertex": DIGESTS["steps-vertex"]}), "error --digests names no image steps-pytorch, only"),
    ):
        file.write_text(digests)
        done = pipeline(*wanted, "--project", local.PROJECT, "--repository", "images")
        assert (done.returncode, done.stdout) == (1, "")
        assert told in done.stderr
    assert len(list(vertex.pipelines.list_pipeline_jobs(parent=vertex.parent))) == before
    assert not list_schedules(vertex)


@pytest.mark.slow
def test_a_schedule_carries_digests(vertex: Vertex, trained: dict[Framework, Path], digests: Path) -> None:
    uri = upload_folder(trained["pytorch"], "scheduled")
    wanted = ("--project", local.PROJECT, "--repository", "images", "--digests", digests)
    done = pipeline("schedule", "--cron", "0 3 1 1 *", "--contract", uri, *wanted)
    assert done.returncode == 0, done.stderr
    [schedule] = list_schedules(vertex)
    message = vertex.schedules.get_schedule(name=schedule.resource)
    job = PipelineJob.to_dict(message.create_pipeline_job_request.pipeline_job)
    assert set(images_in(job["pipeline_spec"])) == {
        f"images/{name}@{DIGESTS[name]}" for name in ("steps-vertex", "steps-pytorch", "serving-pytorch")
    }
    delete_schedule(vertex, schedule.name)
