"""`make push` to a real registry: the digests that it keeps are those by which the images can be had."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from docker import DockerClient

from containers.ports import free_ports

pytestmark = pytest.mark.containers
NAMES = ["steps-vertex", "trigger"]
# Of Docker's own image store, and of containerd's.
MANIFESTS = ["application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json"]
CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


def push(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "containers.push", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a registry answers on this machine."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("there is no docker-registry on PATH: apt-get install docker-registry")
    folder = tmp_path_factory.mktemp("registry")
    [port] = free_ports(1)
    (folder / "config.yml").write_text(CONFIG.format(folder=folder / "data", port=port))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        while not answers(f"http://127.0.0.1:{port}/v2/"):
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def images(docker: DockerClient, registry: str) -> Iterator[list[str]]:
    """Two images of a file each, that are not in the registry yet."""
    made = []
    for name in NAMES:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            entry = tarfile.TarInfo("name")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
        docker.api.import_image_from_data(content.getvalue(), f"{registry}/{name}", "v1")
        made.append(f"{registry}/{name}:v1")
    yield made
    for image in docker.images.list():
        if any(name.startswith(registry) for name in (*image.tags, *image.attrs["RepoDigests"])):
            docker.images.remove(str(image.id), force=True)


def test_the_digests_are_the_registrys_own(
    registry: str, images: list[str], tmp_path: Path, docker: DockerClient
) -> None:
    done = push(tmp_path / "new" / "digests.json", *images)
    assert done.returncode == 0, done.stderr
    digests = json.loads((tmp_path / "new" / "digests.json").read_text())
    assert list(digests) == NAMES
    for name, digest in digests.items():
        manifest = httpx.head(
            f"http://{registry}/v2/{name}/manifests/v1",
            headers={"Accept": ", ".join(MANIFESTS)},
        )
        assert manifest.headers["docker-content-digest"] == digest
        docker.images.remove(f"{registry}/{name}:v1", force=True)
        assert docker.images.pull(f"{registry}/{name}@{digest}").attrs["RepoDigests"] == [f"{registry}/{name}@{digest}"]


def test_one_that_is_missing_leaves_no_digests(registry: str, images: list[str], tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_text("{}")
    done = push(tmp_path / "digests.json", *images, f"{registry}/serving-pytorch:v1")
    assert done.returncode == 1
    assert f"push: error: {registry}/serving-pytorch:v1 cannot be pushed" in done.stderr
    assert "make images" in done.stderr
    assert not (tmp_path / "digests.json").exists()


def test_a_registry_that_does_not_answer_is_told(docker: DockerClient, images: list[str], tmp_path: Path) -> None:
    [port] = free_ports(1)
    docker.images.get(images[0]).tag(f"127.0.0.1:{port}/trigger", "v1")
    done = push(tmp_path / "digests.json", f"127.0.0.1:{port}/trigger:v1")
    docker.images.remove(f"127.0.0.1:{port}/trigger:v1")
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert not (tmp_path / "digests.json").exists()
