"""Files in a real Cloud Storage on this machine, behind a proxy that breaks calls and changes bytes."""

from __future__ import annotations

import gc
import gzip
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from google.cloud.storage import Blob, Bucket

from components import objects, storage
from components.earthengine.errors import ContractError, ModelError, PipelineError, StorageError
from components.model_directory import fetch_model
from components.objects import Content, send
from components.vertex import storage_client
from tests.conftest import Figure, WriteModel
from tests.faults.proxy import Break, Call, Cut, Fault, Flip, Hold, Policy, Proxy, Reset, proxied

pytestmark = [
    pytest.mark.slow,
    # The client does not close a connection that was cut off.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FILES = {
    "model.yaml": b"name: small\n" * 200,
    "model.mar": bytes(range(256)) * 400,
    "variables/part": b"weights" * 400,
}
"""Of files that are sent in one request."""


@pytest.fixture
def uri(request: pytest.FixtureRequest) -> str:
    """A folder in the bucket for a test alone."""
    return f"gs://models/{zlib.crc32(request.node.nodeid.encode())}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    return tmp_path / "folder"


@pytest.fixture
def line(emulator: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way to Cloud Storage."""
    port = urlsplit(emulator).port
    assert port
    with proxied(port) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{proxy.address}")
        yield proxy
    gc.collect()  # connections that were cut off complain now, not in a later test


def put(emulator: str, uri: str, content: bytes) -> None:
    """Write an object past the proxy, as somebody else does."""
    name = uri.removeprefix("gs://models/").replace("/", "%2F")
    httpx.post(f"{emulator}/upload/storage/v1/b/models/o?uploadType=media&name={name}", content=content)


def delete(emulator: str, uri: str) -> None:
    name = uri.removeprefix("gs://models/").replace("/", "%2F")
    httpx.delete(f"{emulator}/storage/v1/b/models/o/{name}").raise_for_status()


def is_upload(call: Call, name: str = "model.mar") -> bool:
    return call.method in {"POST", "PUT"} and "/upload/" in call.path and name.encode() in call.body


def is_download(call: Call, name: str = "model.mar") -> bool:
    return call.method == "GET" and "alt=media" in call.path and unquote(call.path).split("?")[0].endswith(name)


def is_listing(call: Call) -> bool:
    return call.method == "GET" and "prefix=" in call.path


def once(fault: Fault, meets: Callable[[Call], bool]) -> Policy:
    """The first call of its kind meets a fault."""
    met: list[Call] = []

    def policy(call: Call) -> Fault | None:
        if met or not meets(call):
            return None
        met.append(call)
        return fault

    return policy


def brought(uri: str, folder: Path) -> dict[str, bytes]:
    there = storage.fetch(uri, folder)
    return {path.relative_to(there).as_posix(): path.read_bytes() for path in there.rglob("*") if path.is_file()}


def test_what_is_staged_is_what_is_brought(line: Proxy, uri: str, folder: Path, tmp_path: Path) -> None:
    staged = storage.stage(folder, uri)
    assert staged.sent == 3
    storage.check_staged(staged)
    again = storage.stage(folder, uri)
    assert (again.sent, again.objects) == (0, staged.objects)
    assert brought(uri, tmp_path / "brought") == FILES
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "brought"}


@pytest.mark.parametrize("fault", [Reset(), Reset("after"), Break()], ids=str)
def test_an_upload_that_is_broken_off_is_sent_again(
    line: Proxy, uri: str, folder: Path, tmp_path: Path, fault: Fault
) -> None:
    line.policy = once(fault, is_upload)
    storage.check_staged(storage.stage(folder, uri))
    line.policy = lambda _: None
    assert brought(uri, tmp_path / "brought") == FILES


def test_a_large_upload_that_is_broken_off_goes_on(line: Proxy, uri: str, folder: Path, tmp_path: Path) -> None:
    large = bytes(range(256)) * (33 << 12)  # two chunks
    (folder / "model.mar").write_bytes(large)
    seen: list[Call] = []
    faults: dict[int, Fault] = {1: Break(), 3: Reset(), 4: Break()}

    def policy(call: Call) -> Fault | None:
        if call.method == "PUT":
            seen.append(call)
            return faults.get(len(seen))
        return None

    line.policy = policy
    storage.check_staged(storage.stage(folder, uri))
    assert len(seen) >= 5
    assert brought(uri, tmp_path / "brought") == FILES | {"model.mar": large}


def test_a_folder_that_is_left_partial_is_completed(
    line: Proxy, emulator: str, uri: str, folder: Path, tmp_path: Path
) -> None:
    put(emulator, f"{uri}/model.yaml", FILES["model.yaml"])
    put(emulator, f"{uri}/model.mar", FILES["model.mar"][:1000])
    staged = storage.stage(folder, uri)
    assert staged.sent == 2
    storage.check_staged(staged)
    assert brought(uri, tmp_path / "brought") == FILES


@pytest.mark.parametrize("size", [10_000, 9 << 20])
def test_a_flipped_bit_of_an_upload_is_noticed_and_mended_by_the_next(
    line: Proxy, uri: str, folder: Path, tmp_path: Path, size: int
) -> None:
    marked = b"model.mar" + bytes(size)
    (folder / "model.mar").write_bytes(marked)
    line.policy = once(Flip(), lambda call: is_upload(call) and b"model.mar\0\0\0" in call.body)
    with pytest.raises(StorageError, match=r"model\.mar arrived damaged|does not match|could not write"):
        storage.stage(folder, uri)
    line.policy = lambda _: None
    storage.check_staged(storage.stage(folder, uri))
    assert brought(uri, tmp_path / "brought") == FILES | {"model.mar": marked}


def test_a_file_that_changes_while_it_is_sent_is_noticed(line: Proxy, uri: str, folder: Path) -> None:
    path = folder / "model.mar"
    for changed_to in (b"another of that size".ljust(len(FILES["model.mar"])), b"shorter"):
        path.write_bytes(FILES["model.mar"])
        content = Content.of(path)
        path.write_bytes(changed_to)
        blob = storage_client().bucket("models").blob(f"{uri.rpartition('/')[2]}/{len(changed_to)}")
        with pytest.raises(StorageError, match="its file changed while it was sent"):
            send(blob, path, content, 0)


def test_a_file_that_becomes_shorter_while_it_is_sent_is_noticed(line: Proxy, uri: str, folder: Path) -> None:
    (folder / "model.mar").write_bytes(bytes(9 << 20))
    line.policy = once(Hold(), lambda call: "uploadType=resumable" in call.path)
    with ThreadPoolExecutor(1) as pool:
        staging = pool.submit(storage.stage, folder, uri)
        assert line.held.wait(10)
        (folder / "model.mar").write_bytes(b"short")
        line.release()
        with pytest.raises(StorageError, match=r"model\.mar changed while it was sent to gs://"):
            staging.result(30)


def test_two_that_write_other_bytes_are_told(line: Proxy, emulator: str, uri: str, folder: Path) -> None:
    line.policy = once(Hold(), is_upload)
    with ThreadPoolExecutor(1) as pool:
        staging = pool.submit(storage.stage, folder, uri)
        assert line.held.wait(10)
        put(emulator, f"{uri}/model.mar", b"other bytes")
        line.release()
        with pytest.raises(StorageError, match=r"model\.mar is written by another process too, with other bytes"):
            staging.result(30)


def test_two_that_write_the_same_bytes_both_succeed(line: Proxy, emulator: str, uri: str, folder: Path) -> None:
    line.policy = once(Hold(), is_upload)
    with ThreadPoolExecutor(1) as pool:
        staging = pool.submit(storage.stage, folder, uri)
        assert line.held.wait(10)
        put(emulator, f"{uri}/model.mar", FILES["model.mar"])
        line.release()
        storage.check_staged(staging.result(30))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda emulator, uri: delete(emulator, f"{uri}/model.mar"), r"model\.mar was deleted since it was staged"),
        (lambda emulator, uri: put(emulator, f"{uri}/model.mar", b"x"), r"model\.mar was replaced since it was staged"),
        # With the same bytes too: who writes there is no process of ours.
        (
            lambda emulator, uri: put(emulator, f"{uri}/model.mar", FILES["model.mar"]),
            r"model\.mar was replaced since it was staged",
        ),
        (lambda emulator, uri: put(emulator, f"{uri}/of/others", b"x"), r"of/others was not staged with the others"),
    ],
)
def test_a_staged_folder_that_is_changed_is_not_registered(
    line: Proxy, emulator: str, uri: str, folder: Path, change: Callable[[str, str], None], said: str
) -> None:
    staged = storage.stage(folder, uri)
    change(emulator, uri)
    with pytest.raises(StorageError, match=said):
        storage.check_staged(staged)


def test_folders_that_the_console_makes_are_no_files(
    line: Proxy, emulator: str, uri: str, folder: Path, tmp_path: Path
) -> None:
    put(emulator, f"{uri}/variables/", b"")
    storage.check_staged(storage.stage(folder, uri))
    assert brought(uri, tmp_path / "brought") == FILES


READ: dict[str, Callable[[str, Path], object]] = {
    "fetch": storage.fetch,
    "local_file": lambda uri, _: _read_local(f"{uri}/model.mar"),
    "read_text": lambda uri, _: storage.read_text(f"{uri}/model.mar"),
}


def _read_local(uri: str) -> bytes:
    with storage.local_file(uri) as path:
        return path.read_bytes()


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("faults", [[Flip()], [Cut(), Flip()]], ids=str)
def test_a_flipped_bit_of_a_download_is_noticed(
    line: Proxy, uri: str, folder: Path, tmp_path: Path, read: str, faults: list[Fault]
) -> None:
    """Also where the client's own check passes over a download that was cut off and resumed."""
    (folder / "model.mar").write_bytes(b"text" * 1000)
    storage.stage(folder, uri)
    left: Iterator[Fault] = iter(faults)
    line.policy = lambda call: next(left, None) if is_download(call) else None
    with pytest.raises(StorageError, match=r"model\.mar arrived damaged: 4000 bytes of CRC32C \S+, expected are 4000"):
        READ[read](uri, tmp_path / "brought")
    assert {path.name for path in tmp_path.iterdir()} == {"folder"}


@pytest.mark.parametrize("read", READ)
def test_a_download_that_is_cut_off_goes_on(line: Proxy, uri: str, folder: Path, tmp_path: Path, read: str) -> None:
    (folder / "model.mar").write_bytes(b"text" * 1000)
    storage.stage(folder, uri)
    line.policy = once(Cut(), is_download)
    READ[read](uri, tmp_path / "brought")


def repeated_once(call: Callable[..., object]) -> Callable[..., object]:
    """The least that `retry` can be: one more attempt."""

    def repeated(*arguments: object) -> object:
        try:
            return call(*arguments)
        except OSError:
            return call(*arguments)

    return repeated


def test_of_a_large_download_each_chunk_is_repeated_by_itself(
    line: Proxy, uri: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = bytes(range(256)) * (3 << 10) + b"end"  # three chunks and a bit
    (folder / "model.mar").write_bytes(large)
    storage.stage(folder, uri)
    monkeypatch.setattr(objects, "CHUNK", 256 << 10)
    monkeypatch.setattr(objects, "again", repeated_once)
    seen: list[Call] = []

    def policy(call: Call) -> Fault | None:
        if not is_download(call):
            return None
        seen.append(call)
        return Reset() if len(seen) in {2, 4} else None

    line.policy = policy
    assert brought(uri, tmp_path / "brought") == FILES | {"model.mar": large}
    assert len(seen) == 4 + 2
    assert all("ifGenerationMatch=" in call.path for call in seen)


def test_a_large_download_that_arrives_damaged_is_noticed(
    line: Proxy, uri: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.mar").write_bytes(bytes(600 << 10))
    storage.stage(folder, uri)
    monkeypatch.setattr(objects, "CHUNK", 256 << 10)
    line.calls.clear()
    line.policy = lambda _: Flip() if len([call for call in line.calls if is_download(call)]) == 2 else None
    with pytest.raises(
        StorageError, match=r"model\.mar arrived damaged: 614400 bytes of CRC32C \S+, expected are 614400"
    ):
        storage.fetch(uri, tmp_path / "brought")
    assert len([call for call in line.calls if is_download(call)]) == 3


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "a/b"], r"no file can have the name of gs://models/\d+/a/b \(File exists\); rename that object, or"),
        (["a", "a/b/c"], r"no file can have the name of gs://models/\d+/a/b/c \(Not a directory\); rename that"),
        (["x" * 256], r"no file can have the name of gs://models/\d+/x+ \(File name too long\); rename that object"),
    ],
)
def test_names_that_no_files_can_have_are_told(
    line: Proxy,
    emulator: str,
    uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    said: str,
) -> None:
    for number in range(len(names)):
        put(emulator, f"{uri}/{number}", b"x")
    listed = storage._list

    def renamed(bucket: Bucket, prefix: str) -> list[Blob]:
        # The emulator, which keeps objects in files, cannot have such names either.
        blobs = listed(bucket, prefix)
        for blob, name in zip(blobs, names, strict=True):
            blob.name = prefix + name
        return blobs

    monkeypatch.setattr(storage, "_list", renamed)
    with pytest.raises(StorageError, match=f"^{said}"):
        storage.fetch(uri, tmp_path / "brought")
    assert not any(tmp_path.iterdir())


def test_a_folder_without_files_is_not_staged(line: Proxy, uri: str, tmp_path: Path) -> None:
    (tmp_path / "empty" / "below").mkdir(parents=True)
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(
            StorageError, match=rf"^{folder} holds no files, so there is nothing to send to {uri}; give"
        ):
            storage.stage(folder, uri)


def test_what_a_killed_process_has_left_is_not_staged(line: Proxy, uri: str, folder: Path, tmp_path: Path) -> None:
    (folder / ".0123abcd-variables").mkdir()
    (folder / ".0123abcd-variables" / "part").write_bytes(b"wei")
    storage.stage(folder, uri)
    assert brought(uri, tmp_path / "brought") == FILES


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gate.json", "application/json"),
        ("model.yaml", "text/plain; charset=utf-8"),
        ("fault.txt", "text/plain; charset=utf-8"),
    ],
)
def test_a_text_is_stored_as_what_it_is(line: Proxy, uri: str, name: str, kind: str) -> None:
    storage.write_text(f"{uri}/{name}", "{}")
    blob = storage_client().bucket("models").get_blob(f"{uri.removeprefix('gs://models/')}/{name}")
    assert blob.content_type == kind


@pytest.mark.parametrize("size", [1000, 9 << 20])
def test_the_service_is_told_the_sum_and_nothing_is_deleted(line: Proxy, uri: str, folder: Path, size: int) -> None:
    """Neither what arrives damaged nor, in its place, what another process has written there since."""
    (folder / "model.mar").write_bytes(b"model.mar" + bytes(size))
    line.policy = once(Flip(), lambda call: is_upload(call) and b"model.mar\0\0\0" in call.body)
    with pytest.raises(StorageError, match=r"model\.mar arrived damaged, or its file changed while it was sent"):
        storage.stage(folder, uri)
    assert not [call for call in line.calls if call.method == "DELETE"]
    sums = Content.of(folder / "model.mar").crc32c.encode()
    assert any(sums in call.body for call in line.calls if call.method == "POST")


@pytest.mark.parametrize("held", [is_download, lambda call: is_download(call, "variables/part")])
@pytest.mark.parametrize(
    "change",
    [
        lambda emulator, uri: put(emulator, f"{uri}/model.mar", b"newer"),
        lambda emulator, uri: put(emulator, f"{uri}/model.mar", FILES["model.mar"]),
        lambda emulator, uri: delete(emulator, f"{uri}/model.mar"),
        lambda emulator, uri: put(emulator, f"{uri}/new", b"added"),
    ],
    ids=["replaced", "replaced by the same", "deleted", "added"],
)
def test_a_bucket_that_changes_while_it_is_read_is_noticed(
    line: Proxy,
    emulator: str,
    uri: str,
    folder: Path,
    tmp_path: Path,
    held: Callable[[Call], bool],
    change: Callable[[str, str], None],
) -> None:
    storage.stage(folder, uri)
    line.policy = once(Hold(), held)
    (tmp_path / "brought").mkdir()
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(storage.fetch, uri, tmp_path / "brought")
        assert line.held.wait(10)
        change(emulator, uri)
        line.release()
        with pytest.raises(StorageError, match=r"(model\.mar|new) was changed while it was read; run again when"):
            fetching.result(30)
    assert not any((tmp_path / "brought").iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "brought"}


def test_an_object_that_is_encoded_is_refused(line: Proxy, emulator: str, uri: str, tmp_path: Path) -> None:
    blob = storage_client().bucket("models").blob(uri.removeprefix("gs://models/") + "/model.yaml")
    blob.content_encoding = "gzip"
    blob.upload_from_string(gzip.compress(b"name: small"))
    with pytest.raises(StorageError, match=r"model\.yaml is stored with the content encoding gzip; upload it without"):
        storage.fetch(uri, tmp_path / "brought")


def test_two_that_write_one_text_are_told(line: Proxy, emulator: str, uri: str) -> None:
    storage.write_text(f"{uri}/text", "first")
    line.policy = once(Hold(), lambda call: is_upload(call, "text"))
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(storage.write_text, f"{uri}/text", "second")
        assert line.held.wait(10)
        put(emulator, f"{uri}/text", b"of another")
        line.release()
        with pytest.raises(StorageError, match="text is written by another process too"):
            writing.result(30)
    assert storage.read_text(f"{uri}/text") == "of another"


@pytest.mark.parametrize("fault", [Reset(), Reset("after"), Break()], ids=str)
def test_a_text_whose_answer_is_lost_is_written_once(line: Proxy, uri: str, fault: Fault) -> None:
    storage.write_text(f"{uri}/text", "first")
    line.policy = once(fault, lambda call: is_upload(call, "text"))
    storage.write_text(f"{uri}/text", "second")
    assert storage.read_text(f"{uri}/text") == "second"


MODEL = {"model.yaml", "net.py", "saved/saved_model.pb", "saved/variables/variables.index"} | {
    f"saved/variables/variables.data-0000{shard}-of-00002" for shard in range(2)
}


@pytest.mark.parametrize("missing", sorted(MODEL))
def test_a_model_whose_upload_is_under_way_is_told(
    line: Proxy, emulator: str, uri: str, tmp_path: Path, write_model: WriteModel, missing: str
) -> None:
    contract = write_model(model={"file": "saved", "code": "net.py:build"}) / "model.yaml"
    for name in MODEL - {missing}:
        put(emulator, f"{uri}/{name}", contract.read_bytes() if name == "model.yaml" else name.encode())
    expected = (
        (ContractError, "model.yaml")
        if missing == "model.yaml"
        else (ModelError, f"holds model.yaml but not {missing}, ")
    )
    with pytest.raises(expected[0], match=expected[1]):
        fetch_model(uri, tmp_path / "brought")
    put(emulator, f"{uri}/{missing}", contract.read_bytes() if missing == "model.yaml" else b"")
    assert fetch_model(uri, tmp_path / "again") == tmp_path / "again"


def test_a_model_without_its_folder_is_told(
    line: Proxy, emulator: str, uri: str, tmp_path: Path, write_model: WriteModel
) -> None:
    put(emulator, f"{uri}/model.yaml", (write_model() / "model.yaml").read_bytes())
    with pytest.raises(ModelError, match=rf"{uri} holds model.yaml but not net.pt, .* complete it, and run again"):
        fetch_model(uri, tmp_path / "brought")


def test_faults_of_bytes_are_all_noticed(
    line: Proxy, emulator: str, uri: str, folder: Path, tmp_path: Path, figure: Figure
) -> None:
    """Whatever happens to an upload, what is taken for the model is all of it or an error."""
    wrong = told = 0
    faults: list[Fault] = [Reset(), Reset("after"), Break(), Flip()]
    names = list(FILES)
    tried = [(fault, name) for fault in faults for name in names]
    for number, (fault, name) in enumerate(tried):
        line.policy = once(fault, partial(is_upload, name=f"{number}/{name}"))
        try:
            storage.check_staged(storage.stage(folder, f"{uri}/{number}"))
        except PipelineError:
            told += 1
            continue
        line.policy = lambda _: None
        wrong += brought(f"{uri}/{number}", tmp_path / str(number)) != FILES
    figure("faults of uploads: taken for a model and not all of it", 0, f"{wrong} of {len(tried)}")
    assert not wrong
    assert told == len(names), "a flipped bit is told; what is broken off is sent again"
