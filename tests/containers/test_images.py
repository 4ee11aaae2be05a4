"""Every image: what it is made of, and that it starts where it may write nothing but /tmp."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from docker import DockerClient
from packaging.utils import canonicalize_name

from components.earthengine.contract import Framework
from tests.conftest import FRAMEWORKS
from tests.containers.conftest import BUILD_S, ROOT, Run, ended, image_of, until_healthy

IMAGES = (ROOT / "containers" / "images.txt").read_text().split()
TRIGGER = {
    "GOOGLE_CLOUD_PROJECT": "local",
    "GOOGLE_CLOUD_LOCATION": "us-central1",
    "MODEL_BUCKET": "local",
    "MODEL_PREFIX": "models/",
    "TEMPLATES": "gs://local/templates",
    "CALLERS": "public",
}
pytestmark = [pytest.mark.containers, pytest.mark.timeout(BUILD_S)]


@pytest.mark.parametrize("name", IMAGES)
def test_is_built_of_what_is_locked(docker: DockerClient, run: Run, name: str) -> None:
    image = docker.images.get(image_of(name))
    config = image.attrs["Config"]
    assert config["User"] == "65532:65532"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.title"] == name
    assert labels["org.opencontainers.image.version"] == "rehearsal"
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert labels["org.opencontainers.image.revision"] == revision.stdout.strip()
    program = "import importlib.metadata, json; found = importlib.metadata.distributions(); "
    program += "print(json.dumps([[each.metadata['Name'], each.version] for each in found]))"
    installed = json.loads(ended(run(name, ["-c", program], entrypoint="python")))
    assert {canonicalize_name(each): version for each, version in installed} == _pins(name)


@pytest.mark.parametrize("name", IMAGES)
def test_has_no_compiler_package_or_installer(run: Run, name: str) -> None:
    look = "command -v gcc cc g++ make; find /opt/venv /opt/app /root /home /var /tmp -name '*.whl' 2>/dev/null; true"
    assert ended(run(name, ["-c", look], entrypoint="sh")) == ""
    ended(run(name, ["-c", "import importlib.util as u; assert not u.find_spec('pip')"], entrypoint="python"))


@pytest.mark.parametrize("name", IMAGES)
def test_its_user_changes_nothing_of_it(run: Run, name: str) -> None:
    program = (
        "id -u; touch /tmp/x; for at in / /opt/app /opt/venv; do if touch $at/x 2>/dev/null; then echo $at; fi; done"
    )
    assert ended(run(name, ["-ec", program], entrypoint="sh", read_only=False)) == "65532\n"


@pytest.mark.parametrize("name", ["steps-vertex", "steps-pytorch", "steps-tensorflow"])
def test_a_steps_image_runs_what_kubeflow_starts(run: Run, name: str) -> None:
    assert "--component_module_path" in ended(run(name), seconds=20)


@pytest.mark.parametrize("name", ["steps-vertex", "steps-pytorch", "steps-tensorflow"])
def test_a_steps_image_has_all_that_its_steps_import(run: Run, name: str) -> None:
    # Of those that need no framework, all; the others are imported by the pipeline that runs in containers.
    modules = ["archive", "upload", "deploy", "verify", "release", "conclude", "report", "gate", "pages", "storage"]
    program = "".join(f"import components.{module}; " for module in modules)
    program += "import google_cloud_pipeline_components.types.artifact_types, google.cloud.aiplatform_v1.types"
    ended(run(name, ["python3", "-c", program]), seconds=40)


def test_the_local_vertex_ai_starts(run: Run) -> None:
    container = run("vertex-local", ["--state", "/tmp/state"])  # noqa: S108
    until_healthy(container, 20)
    assert "export VERTEX_EMULATOR_HOST=127.0.0.1:8901" in container.logs().decode()


def test_the_trigger_starts(run: Run) -> None:
    until_healthy(run("trigger", environment=TRIGGER), 20)


def test_a_trigger_that_lacks_a_setting_says_which(run: Run) -> None:
    container = run("trigger", environment={name: value for name, value in TRIGGER.items() if name != "MODEL_BUCKET"})
    assert container.wait(timeout=60)["StatusCode"] != 0
    assert "MODEL_BUCKET is not set" in container.logs().decode()


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_server_starts(run: Run, archives: dict[Framework, Path], framework: Framework) -> None:
    mounted = {str(archives[framework]): {"bind": "/model", "mode": "ro"}}
    container = run(f"serving-{framework}", volumes=mounted, environment={"AIP_STORAGE_URI": "/model"})
    until_healthy(container, {"pytorch": 8, "tensorflow": 12}[framework] * 3)  # a test is no benchmark
    container.stop(timeout=20)
    assert container.wait()["StatusCode"] == 0


def _pins(name: str) -> dict[str, str]:
    """The versions that an image's lock file names."""
    folder = ROOT / "containers" / "requirements"
    [path] = [folder / f"{stem}.txt" for stem in (name, f"{name}-cpu") if (folder / f"{stem}.txt").exists()]
    pins = [line.removesuffix(" \\").split("==") for line in path.read_text().splitlines() if line[:1].isalnum()]
    return {name: version for name, version in pins}  # noqa: C416  mypy
