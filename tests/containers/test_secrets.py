"""No secret in any layer: none of those that lie about where images are built, and none that looks like one."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from docker import DockerClient
from docker.errors import ImageNotFound

from tests.containers.conftest import BUILD_S, image_of
from tests.containers.layers import Saved, saved

pytestmark = pytest.mark.containers

ROOT = Path(__file__).parents[2]
IMAGES = (ROOT / "containers" / "images.txt").read_text().split()

# Where credentials lie in practice; {} stands for the secret.
PLANTED = {
    ".env": "TOKEN={}",
    ".netrc": "machine pypi.example login me password {}",
    ".pypirc": "[pypi]\npassword = {}",
    ".git/config": '[remote "origin"]\n\turl = https://me:{}@git.example/x.git',
    ".docker/config.json": '{{"auths": {{"registry.example": {{"auth": "{}"}}}}}}',
    "pip.conf": "[global]\nindex-url = https://me:{}@pypi.example/simple",
    "id_rsa": "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----",
    "key.pem": "{}",
    "steps-1a2b3c4d5e6f.json": '{{"type": "service_account", "private_key": "{}"}}',
    "credentials.json": "{}",
    "application_default_credentials.json": '{{"refresh_token": "{}"}}',
    "secrets.yaml": "token: {}",
    "notes.txt": "the password is {}",
}
# Of names that nobody foresaw; the builder is sent these.
UNFORESEEN = {"password": "{}", "kubeconfig": "users: [{{user: {{token: {}}}}}]"}
FOLDERS = ("", "components", "components/earthengine", "containers/serving", "containers/vertex_local/project", "build")

PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\s|\\n)+(?:[A-Za-z0-9+/=:,-]|\s|\\n){64}")
WITH_PASSWORD = re.compile(rb"[a-z]+://[^\s/:@\"']+:[^\s/:@\"']+@")
# Where pip and git are told of servers, and where pip writes down where a package came from.
CONFIGURATION = re.compile(
    r"(^|/)(\.?pip\.conf|pip\.ini|\.netrc|\.pypirc|\.git/config|direct_url\.json|.*\.list|.*\.sources)$"
)
# More than any file of text that tells a secret; keys are shorter still.
MOST = 4 << 20


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A copy of what images are built from."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "components", "containers", ".dockerignore"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    for name in tracked:
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def tag(docker: DockerClient) -> Iterator[str]:
    """The name of an image, which is removed afterwards."""
    name = f"secrets-test:{uuid.uuid4().hex}"
    yield name
    with suppress(ImageNotFound):
        docker.images.remove(name, force=True)


def build(context: Path, tag: str, dockerfile: str) -> None:
    (context / "Dockerfile").write_text(dockerfile)
    done = subprocess.run(
        ["docker", "build", "--quiet", "--tag", tag, str(context)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def planted_in(image: Saved, values: dict[str, bytes]) -> set[str]:
    """Where each of the planted values that an image tells comes from."""
    found = {place for place, value in values.items() if value.decode() in image.told}
    for _, content in image.files():
        text = content.read()
        found |= {place for place, value in values.items() if value in text}
    return found


def plant(context: Path, files: dict[str, str]) -> dict[str, bytes]:
    """Writes files with a secret each to every folder; the secrets by where they lie."""
    values = {}
    for folder in FOLDERS:
        for name, text in files.items():
            path = context / folder / name
            value = secrets.token_hex(32)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(value))
            values[f"{folder}/{name}"] = value.encode()
    return values


def look_like_secrets(image: Saved) -> list[str]:
    """The files of an image that hold what looks like a secret, and where its environment and history do."""
    found = ["what it tells of itself"] if _is_secret("", image.told.encode()) else []
    return found + [name for name, content in image.files() if _is_secret(name, content.read(MOST))]


def _is_secret(name: str, content: bytes) -> bool:
    if b"\0" in content:  # a library, such as GnuTLS's, whose tests of itself have keys
        return False
    told_of_servers = not name or CONFIGURATION.search(name)
    return bool(PRIVATE_KEY.search(content) or (told_of_servers and WITH_PASSWORD.search(content)))


def test_nothing_planted_where_images_are_built_reaches_a_layer(docker: DockerClient, context: Path, tag: str) -> None:
    """All that the builder is sent is copied: no Dockerfile can copy more."""
    values = plant(context, PLANTED)
    build(context, tag, "FROM scratch\nCOPY . /\n")
    with saved(docker, tag) as image:
        names = {name for name, _ in image.files()}
        assert {"components/steps.py", "containers/serving/app.py", "containers/requirements/trigger.txt"} <= names
        assert planted_in(image, values) == set()


@pytest.mark.timeout(BUILD_S)
def test_nothing_of_an_unforeseen_name_reaches_an_image(docker: DockerClient, context: Path, tag: str) -> None:
    values = plant(context, PLANTED | UNFORESEEN)
    build(context, tag, (ROOT / "containers" / "steps" / "Dockerfile").read_text())
    with saved(docker, tag) as image:
        assert "opt/app/components/steps.py" in {name for name, _ in image.files()}
        assert planted_in(image, values) == set()


def test_a_planted_secret_is_found_even_where_a_later_layer_removes_it(
    docker: DockerClient, tmp_path: Path, tag: str
) -> None:
    """What the tests here look with does see."""
    values = {place: secrets.token_hex(32) for place in ("file", "removed", "environment", "label", "command")}
    (tmp_path / "file").write_text(values["file"])
    (tmp_path / "removed").write_text(values["removed"])
    build(
        tmp_path,
        tag,
        "FROM python:3.11-slim\nCOPY file removed /\nRUN rm /removed\n"
        f"ENV TOKEN={values['environment']}\nLABEL token={values['label']}\nRUN echo {values['command']} > /dev/null\n",
    )
    with saved(docker, tag) as image:
        found = planted_in(image, {place: value.encode() for place, value in values.items()})
    assert found == set(values)


@pytest.mark.parametrize(
    ("name", "text", "seen"),
    [
        ("key", "-----BEGIN RSA PRIVATE KEY-----\n{body}\n{body}\n-----END RSA PRIVATE KEY-----\n", True),
        ("key.json", '{{"private_key": "-----BEGIN PRIVATE KEY-----\\n{body}\\n{body}\\n"}}', True),
        ("code.py", 'MARKER = b"-----BEGIN RSA PRIVATE KEY-----"\nEND = b"-----END RSA PRIVATE KEY-----"\n', False),
        ("etc/pip.conf", "[global]\nextra-index-url = https://me:{body}@pypi.example/simple\n", True),
        ("etc/pip.conf", "[global]\nfind-links = /srv/wheels\nindex-url = https://pypi.org/simple\n", False),
        ("docs.md", "such as https://user:password@host.example\n", False),
    ],
)
def test_what_looks_like_a_secret_is_seen(
    docker: DockerClient, tmp_path: Path, tag: str, name: str, text: str, seen: bool
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text.format(body="MIIEowIBAAKCAQEA" * 4))
    build(tmp_path, tag, f"FROM scratch\nCOPY {name} /{name}\n")
    with saved(docker, tag) as image:
        assert look_like_secrets(image) == ([name] if seen else [])


@pytest.mark.timeout(BUILD_S)
@pytest.mark.parametrize("name", IMAGES)
def test_no_layer_holds_what_looks_like_a_secret(docker: DockerClient, name: str) -> None:
    with saved(docker, image_of(name)) as image:
        assert look_like_secrets(image) == []
