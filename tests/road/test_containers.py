"""The road in containers: every step in its own image, every deployed model in the serving image."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from docker import DockerClient

from components import local
from components.earthengine.contract import Framework, ModelContract
from components.earthengine.payloads import codec
from components.vertex import Vertex
from tests.conftest import FRAMEWORKS
from tests.containers.conftest import BUILD_S, image_of, until_healthy
from tests.road.conftest import ROOT, changed, pipeline, upload_folder
from tests.road.test_bad_models import crop_sample
from tests.road.test_pipeline import STEPS

pytestmark = [pytest.mark.containers, pytest.mark.timeout(BUILD_S)]


def images_of(docker: DockerClient, folder: Path) -> list[str]:
    """What the containers of a local Vertex AI run whose state is below a folder."""
    found = docker.containers.list(all=True, filters={"label": "vertex-local"}, ignore_removed=True)
    return [
        str(one.attrs["Config"]["Image"]) for one in found if Path(one.labels["vertex-local"]).is_relative_to(folder)
    ]


@pytest.fixture(autouse=True)
def _state_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has rehearsals keep their state below the test's own folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_run_walks_the_whole_road(
    docker: DockerClient, trained: dict[Framework, Path], tmp_path: Path, framework: Framework
) -> None:
    for name in ("steps-vertex", f"steps-{framework}", f"serving-{framework}"):
        image_of(name)
    done = pipeline("run", trained[framework], "--runner", "docker", "--output", tmp_path / "out", timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("✓")] == STEPS
    assert f'endpoint="projects/local/locations/us-central1/endpoints/land-cover-{framework}"' in done.stdout
    assert (tmp_path / "out" / f"land-cover-{framework}" / "landcover.png").exists()
    assert images_of(docker, tmp_path) == []


class Crashing(torch.nn.Module):
    """Ends its process by SIGFPE for tiles of huge values: the least integer divided by -1."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(4, 3, 1)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.convolution(given)
        if bool((given > 1e20).any()):
            minus_one = int(given.shape[0]) * 0 - 1
            answer = answer + float((-9223372036854775807 - 1) // minus_one)
        return answer


def test_a_model_that_crashes_is_told_and_served_again(
    docker: DockerClient, trained: dict[Framework, Path], tmp_path: Path
) -> None:
    for name in ("steps-vertex", "steps-pytorch", "serving-pytorch"):
        image_of(name)
    model = changed(trained["pytorch"], tmp_path / "model")
    torch.jit.script(Crashing().eval()).save(str(model / "model.pt"))
    crop_sample(model)
    contract = ModelContract.read(model)
    tiles = np.zeros((1, len(contract.bands), contract.tile[1], contract.tile[0]), np.float32)
    encode = codec(contract.payload_format).encode_request
    good, crashing = (encode(contract, given) for given in (tiles, tiles + np.float32(1e38)))
    with local.local_vertex(tmp_path / "state", "docker"):
        vertex = Vertex(local.PROJECT, local.LOCATION)
        uri = upload_folder(model, "crashing")
        submitted = ["--project", local.PROJECT, "--repository", local.REPOSITORY, "--tag", local.TAG]
        done = pipeline("submit", uri, *submitted, "--output", tmp_path / "out", timeout=300)
        assert done.returncode == 0, done.stderr
        url = f"{vertex.host}/v1/{vertex.parent}/endpoints/{contract.name}:predict"
        assert httpx.post(url, content=good, timeout=60).status_code == 200
        crashed = httpx.post(url, content=crashing, timeout=60)
        assert crashed.status_code == 500
        assert "SIGFPE" in crashed.text
        assert httpx.post(url, content=good, timeout=60).status_code == 200


def test_a_step_that_fails_ends_the_run(docker: DockerClient, trained: dict[Framework, Path], tmp_path: Path) -> None:
    for name in ("steps-vertex", "steps-pytorch", "serving-pytorch"):
        image_of(name)
    model = changed(trained["pytorch"], tmp_path / "model")
    (model / "model.pt").write_bytes(b"no model")
    done = pipeline("run", model, "--runner", "docker", "--output", tmp_path / "out", timeout=300)
    assert done.returncode == 1
    assert "model.pt" in done.stderr
    assert "✗ failed export" in done.stdout
    assert list((tmp_path / "out" / "land-cover-pytorch" / "logs").glob("export-*.log"))
    assert images_of(docker, tmp_path) == []


@pytest.fixture
def composed(docker: DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The local Vertex AI in its image, as `docker compose up` starts it, which the environment points at."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    if not plugin and shutil.which("docker-compose") is None:
        pytest.skip("there is neither docker compose nor docker-compose: apt-get install docker-compose")
    compose = [*(["docker", "compose"] if plugin else ["docker-compose"]), "--file", str(ROOT / "compose.yaml")]
    for port in (8901, 8902, 8903):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port}, which compose.yaml has the local Vertex AI listen on, is in use")
    image_of("vertex-local")
    path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    (tmp_path / ".vertex-local").mkdir()
    user = os.getuid() or 1000  # root's tests see that it need not be root
    os.chown(tmp_path / ".vertex-local", user, user if os.getuid() == 0 else os.getgid())
    monkeypatch.setenv("VERTEX_EMULATOR_HOST", "127.0.0.1:8901")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:8902")
    environment = os.environ | {"PWD": str(tmp_path), "COMPOSE_PROJECT_NAME": "road"}
    environment |= {"DOCKER_SOCKET": path, "DOCKER_GID": str(Path(path).stat().st_gid), "USER_ID": str(user)}

    def call(*arguments: str) -> None:
        done = subprocess.run([*compose, *arguments], cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()

    try:
        call("up", "--detach")
        [container] = docker.containers.list(filters={"label": "com.docker.compose.project=road"})
        until_healthy(container, 60)
        yield tmp_path
    finally:
        call("down")


def test_run_on_a_local_vertex_ai_in_its_image(
    docker: DockerClient, composed: Path, trained: dict[Framework, Path]
) -> None:
    for name in ("steps-vertex", "steps-pytorch", "serving-pytorch"):
        image_of(name)
    done = pipeline("run", trained["pytorch"], "--running", "--output", composed / "out", timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("✓")] == STEPS
    # It lasts, and so does what was deployed.
    assert images_of(docker, composed) == [f"{local.REPOSITORY}/serving-pytorch:{local.TAG}"]


def test_an_image_that_is_missing_is_told_before_anything_is_started(
    docker: DockerClient, trained: dict[Framework, Path], tmp_path: Path
) -> None:
    done = pipeline("run", trained["pytorch"], "--runner", "docker", "--tag", "none", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "local/steps-vertex:none" in done.stderr
    assert "make images" in done.stderr
    assert not (tmp_path / "out").exists()
