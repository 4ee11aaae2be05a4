"""Bills of materials, held against what the programs inside of an image say of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from docker import DockerClient
from docker.errors import ImageNotFound
from packaging.utils import canonicalize_name

from containers.sbom import bill_of
from tests.containers.conftest import BUILD_S, image_of

pytestmark = pytest.mark.containers

ROOT = Path(__file__).parents[2]
IMAGES = (ROOT / "containers" / "images.txt").read_text().split()
BASE = "python:3.11-slim"
LIST = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"

PACKAGES = {
    "expression": ("License-Expression: MIT", {"license": {"id": "MIT"}}),
    "either": ("License-Expression: Apache-2.0 OR MIT", {"expression": "Apache-2.0 OR MIT"}),
    "named": ("License: Apache 2.0\nClassifier: License :: OSI Approved", {"license": {"name": "Apache 2.0"}}),
    "text": (
        "License: Permission is hereby granted,\n  free of charge\nClassifier: License :: OSI Approved :: BSD License",
        {"license": {"name": "BSD License"}},
    ),
    "none": ("License: UNKNOWN", None),
}


@pytest.fixture(scope="module")
def image(docker: DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image with packages of ours, and a Python that its base has compiled, as that of Docker's own library."""
    folder = tmp_path_factory.mktemp("image")
    for name, (licence, _) in PACKAGES.items():
        information = folder / "site-packages" / f"Our_{name}-1.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: Our.{name}\nVersion: 1.0+cpu\n{licence}\n\nLong: 1\n"
        )
    (folder / "Dockerfile").write_text(
        f"FROM {BASE}\nENV PYTHON_VERSION=3.11.14\nCOPY site-packages /opt/venv/lib/python3.11/site-packages\n"
    )
    tag = f"sbom-test:{uuid.uuid4().hex}"
    subprocess.run(["docker", "build", "--quiet", "--tag", tag, str(folder)], check=True, capture_output=True)
    yield tag
    with suppress(ImageNotFound):
        docker.images.remove(tag, force=True)


def run(docker: DockerClient, image: str, *command: str) -> str:
    """What a program inside of an image prints."""
    printed: bytes = docker.containers.run(
        image, list(command[1:]), entrypoint=command[0], remove=True, network_mode="none"
    )
    return printed.decode()


def listed(bill: dict[str, Any], kind: str) -> set[tuple[str, str]]:
    """Name and version of what is listed of a kind."""
    purls = (each["purl"] for each in bill["components"] if each["purl"].startswith(f"pkg:{kind}/"))
    parts = (purl.partition("?")[0].rpartition("/")[2].partition("@") for purl in purls)
    return {(unquote(name), unquote(version)) for name, _, version in parts}


def distributions(docker: DockerClient, image: str, python: str) -> set[tuple[str, str]]:
    """Name and version of the distributions that a Python inside of an image finds."""
    pairs = (each.split("==") for each in run(docker, image, python, "-c", LIST).split())
    return {(canonicalize_name(name), version) for name, version in pairs}


def packages(docker: DockerClient, image: str) -> set[tuple[str, str]]:
    """Name and version of an image's Debian packages."""
    pairs = run(docker, image, "dpkg-query", "--show", "--showformat=${Package} ${Version}\n").splitlines()
    return {(name, version) for name, version in map(str.split, pairs)}


def checked(docker: DockerClient, image: str) -> dict[str, Any]:
    """The bill of an image, once CycloneDX's own schema allows it."""
    text = bill_of(docker, image)
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert fault is None
    bill: dict[str, Any] = json.loads(text)
    return bill


def test_all_that_the_programs_inside_know_is_listed(docker: DockerClient, image: str) -> None:
    bill = checked(docker, image)
    assert listed(bill, "deb") == packages(docker, image)
    ours = {(f"our-{name}", "1.0+cpu") for name in PACKAGES}
    found = listed(bill, "pypi")
    assert found >= ours | distributions(docker, image, "python3")
    assert {each for each in found if each[0].startswith("our-")} == ours
    assert listed(bill, "generic") == {("python", "3.11.14")}
    version = run(docker, image, "sh", "-c", ". /etc/os-release; echo $VERSION_ID").strip()
    assert f"distro=debian-{version}" in next(
        each["purl"] for each in bill["components"] if each["name"] == "base-files"
    )


def test_the_image_is_what_is_described(docker: DockerClient, image: str) -> None:
    bill = checked(docker, image)
    described, identity = bill["metadata"]["component"], docker.images.get(image).id
    assert (bill["specVersion"], described["type"]) == ("1.6", "container")
    assert (described["name"], described["version"]) == ("sbom-test", identity)
    everything = {each["bom-ref"] for each in bill["components"]}
    [depends] = [each["dependsOn"] for each in bill["dependencies"] if each["ref"] == identity]
    assert set(depends) == everything


@pytest.mark.parametrize("name", PACKAGES)
def test_licences(docker: DockerClient, image: str, name: str) -> None:
    [component] = [each for each in checked(docker, image)["components"] if each["name"] == f"Our.{name}"]
    expected = PACKAGES[name][1]
    assert component.get("licenses", []) == ([expected] if expected else [])


def test_the_same_image_gives_the_same_bill_and_leaves_no_container(docker: DockerClient, image: str) -> None:
    before = docker.containers.list(all=True)  # one that was killed may have left some
    assert bill_of(docker, image) == bill_of(docker, image)
    assert docker.containers.list(all=True) == before


def command(folder: Path, *images: str, **environment: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "containers.sbom", str(folder), *images]
    return subprocess.run(
        arguments, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_command(docker: DockerClient, image: str, tmp_path: Path) -> None:
    done = command(tmp_path / "sbom", image)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/sbom/sbom-test.cdx.json\n"
    assert (tmp_path / "sbom" / "sbom-test.cdx.json").read_text() == bill_of(docker, image) + "\n"


def test_an_image_that_is_missing_is_named_and_nothing_is_written(image: str, tmp_path: Path) -> None:
    done = command(tmp_path / "sbom", image, "local/none:v1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "local/none:v1" in done.stderr
    assert "build them with `make images`" in done.stderr
    assert not (tmp_path / "sbom").exists()


def test_a_daemon_that_does_not_answer_is_named(tmp_path: Path) -> None:
    done = command(tmp_path / "sbom", "local/none:v1", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sbom: Docker does not answer: ")
    assert done.stderr.endswith("start it, or set DOCKER_HOST\n")
    assert not (tmp_path / "sbom").exists()


@pytest.mark.timeout(BUILD_S)
@pytest.mark.parametrize("name", IMAGES)
def test_our_images(docker: DockerClient, name: str) -> None:
    bill = checked(docker, image := image_of(name))
    assert listed(bill, "deb") == packages(docker, image)
    inside = distributions(docker, image, "/opt/venv/bin/python")
    assert inside
    assert inside <= listed(bill, "pypi")
