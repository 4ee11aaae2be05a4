"""Artifacts come from a real Cloud Storage server on this machine."""

from __future__ import annotations

import errno
import gc
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

import httpx
import pytest

from components import storage
from components.earthengine.errors import DiskError, PipelineError, StorageError
from containers.serving import storage as serving_storage
from containers.serving.storage import fetch
from tests.serving.conftest import Start


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


class Troubled(ThreadingHTTPServer):
    """Cloud Storage behind a line with troubles: each path's first requests fail, the next pass to the emulator."""

    def __init__(self, emulator: str, troubles: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Line)
        self.emulator = emulator
        self.troubles = troubles
        self.seen: dict[str, int] = {}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Line(BaseHTTPRequestHandler):
    server: Troubled

    def do_GET(self) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        path = self.path.partition("?")[0]
        number = self.server.seen[path] = self.server.seen.get(path, -1) + 1
        trouble = self.server.troubles[number] if number < len(self.server.troubles) else ""
        if trouble == "503":
            self.send_error(503)
            return
        answer = httpx.get(self.server.emulator + self.path, headers=headers)
        # An object's JSON says where its content is.
        content = answer.content.replace(self.server.emulator.encode(), self.server.url.encode())
        if trouble == "changed" and "alt=media" in self.path:
            put(self.server.emulator, "line/model.mar", b"newer")
            answer = httpx.get(self.server.emulator + self.path, headers=headers)
            # As Cloud Storage does; the emulator passes over it.
            if parse_qs(self.path)["ifGenerationMatch"] != [answer.headers["x-goog-generation"]]:
                self.send_error(412)
                return
        if trouble == "damaged" and "alt=media" in self.path:
            content = content[:-1] + b"?"
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "content-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if trouble == "cut" and "alt=media" in self.path:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  as it is called there
        pass


@pytest.fixture
def line(emulator: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Troubled]]:
    """Puts an archive of 3 MB in the bucket, and the line with these troubles before the emulator."""
    servers: list[Troubled] = []

    def open_line(*troubles: str) -> Troubled:
        put(emulator, "line/model.mar", ARCHIVE_BYTES)
        server = Troubled(emulator, list(troubles))
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        return server

    yield open_line
    for server in servers:
        server.shutdown()
        server.server_close()
    gc.collect()  # connections that were cut off complain now, not in a later test


ARCHIVE_BYTES = bytes(range(256)) * 12_000


@pytest.mark.parametrize("read", [fetch, storage.fetch])
def test_the_bucket_itself_is_not_asked_for(
    line: Callable[..., Troubled], tmp_path: Path, read: Callable[[str, Path], Path]
) -> None:
    server = line()
    read("gs://models/line", tmp_path)
    asked = {path for path in server.seen if "/b/models/o" not in path}
    assert not asked, "a service account that may only read objects would be refused"


# The client does not close a connection that was cut off.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("troubles", [["503", "503"], ["cut"], ["cut", "503"]])
def test_what_passes_is_tried_again(line: Callable[..., Troubled], tmp_path: Path, troubles: list[str]) -> None:
    server = line(*troubles)
    assert fetch("gs://models/line", tmp_path).read_bytes() == ARCHIVE_BYTES
    assert server.seen["/download/storage/v1/b/models/o/line%2Fmodel.mar"] == len(troubles)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_was_cut_off_is_checked_as_a_whole(line: Callable[..., Troubled], tmp_path: Path) -> None:
    line("cut", "damaged")
    with pytest.raises(
        StorageError, match=r"gs://models/line/model.mar arrived damaged: size and CRC32C are \(3072000, "
    ):
        fetch("gs://models/line", tmp_path)


def test_a_change_meanwhile_is_noticed(line: Callable[..., Troubled], tmp_path: Path) -> None:
    line("changed")
    with pytest.raises(StorageError, match=r"gs://models/line/model\.mar was changed while it was read"):
        fetch("gs://models/line", tmp_path)


def test_a_large_object_is_brought_in_chunks(
    line: Callable[..., Troubled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("containers.serving.storage._CHUNK_BYTES", 1 << 20)
    server = line("", "", "503")
    assert fetch("gs://models/line", tmp_path).read_bytes() == ARCHIVE_BYTES
    assert server.seen["/download/storage/v1/b/models/o/line%2Fmodel.mar"] == 3  # of three chunks the last twice


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/new"])
def test_a_folder_that_changes_meanwhile_is_noticed(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put(bucket, f"changing-{name[0]}/saved_model.pb", b"graph")
    bring = serving_storage._bring

    def brought(*arguments: Any) -> None:
        bring(*arguments)
        put(bucket, f"changing-{name[0]}/{name}", b"graph")

    monkeypatch.setattr(serving_storage, "_bring", brought)
    with pytest.raises(StorageError, match=rf"changing-./{name} was changed while it was read; deploy again when"):
        fetch(f"gs://models/changing-{name[0]}", tmp_path)


@pytest.mark.parametrize(
    ("file", "error", "said"),
    [
        ("in/model.mar", DiskError, r"/in cannot hold gs://models/line \(Permission denied\); set TMPDIR"),
        ("key.json", StorageError, r"gs://models/line cannot be read \(.*key\.json.*\); check that it exists and that"),
    ],
)
def test_a_key_that_cannot_be_read_is_no_fault_of_the_disk(
    line: Callable[..., Troubled],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    error: type[PipelineError],
    said: str,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / file))

    line()
    (tmp_path / "in").mkdir()
    monkeypatch.setattr(serving_storage, "_bring", refuse)
    with pytest.raises(error, match=said):
        fetch("gs://models/line", tmp_path / "in")


@pytest.mark.parametrize(("name", "said"), [("x" * 256, "File name too long"), ("", "Is a directory")])
def test_a_name_that_no_file_can_have_is_told(
    line: Callable[..., Troubled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    line()
    monkeypatch.setattr(serving_storage, "_chosen", lambda *_: {"line/model.mar": name})
    with pytest.raises(
        StorageError, match=rf"^no file can have the name of gs://models/line/model\.mar \({said}\); ren"
    ):
        fetch("gs://models/line", tmp_path)


def test_what_does_not_pass_ends(
    line: Callable[..., Troubled], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("containers.serving.storage._RETRY_S", 1.0)
    line(*["503"] * 100)
    with pytest.raises(StorageError, match="gs://models/line cannot be read"):
        fetch("gs://models/line", tmp_path)
