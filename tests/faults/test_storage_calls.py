"""What the steps do in Cloud Storage, with every call of it broken in every way, before a real fake-gcs-server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components import deadline, local, storage
from components.deadline import within
from components.earthengine.errors import StorageError
from tests.conftest import Figure
from tests.faults.proxy import Call, Fault, Proxy, Status, no_fault
from tests.faults.walks import FAULTS, world

pytestmark = pytest.mark.slow
BUCKET = f"gs://{local.BUCKET}"
# More than the client sends in one request (google.cloud.storage.blob, _MAX_MULTIPART_SIZE).
LARGE = 9 << 20


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with world(tmp_path_factory.mktemp("storage")) as found:
        yield found.proxies[1]


class Doing:
    """What is done in Cloud Storage, and what it finds: a folder staged, listed, fetched, a text written and read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "model").mkdir()
        (folder / "model" / "model.yaml").write_text("name: fields")
        (folder / "model" / "weights").write_bytes(bytes(range(256)))

    def all(self, name: str) -> dict[str, Callable[[], object]]:
        uri, target = f"{BUCKET}/{name}", self._folder / f"fetched-{name}"
        return {
            "stage": lambda: storage.stage(self._folder / "model", uri) and None,
            "count": lambda: storage.count_files(uri),
            "find": lambda: [each.removeprefix(uri) for each in storage.find_files(uri, (".yaml",))],
            "beside": lambda: [each.removeprefix(uri) for each in storage.find_beside(f"{uri}/x", ".yaml")],
            "fetch": lambda: {each.name: each.read_bytes() for each in storage.fetch(uri, target).iterdir()},
            "file": lambda: self._brought(f"{uri}/weights"),
            "write": lambda: storage.write_text(f"{uri}/told", "text"),
            "read": lambda: storage.read_text(f"{uri}/told"),
            "read nothing": lambda: storage.read_text(f"{uri}/nothing"),
        }

    def _brought(self, uri: str) -> bytes:
        with storage.local_file(uri) as path:
            return path.read_bytes()


@pytest.fixture(scope="module")
def doing(tmp_path_factory: pytest.TempPathFactory) -> Doing:
    return Doing(tmp_path_factory.mktemp("doing"))


def test_every_call_of_cloud_storage_broken_in_every_way(proxy: Proxy, doing: Doing, figure: Figure) -> None:
    healthy = {name: counted(proxy, no_fault, do) for name, do in doing.all("healthy").items()}
    injected = 0
    for fault in FAULTS:
        name = f"broken-{FAULTS.index(fault)}"
        for each, do in doing.all(name).items():
            found, calls_made = healthy[each]
            for number in range(1, calls_made + 1):
                if each == "stage":
                    empty(proxy, name)
                assert counted(proxy, at(number, fault), do)[0] == found, (each, number, fault)
                injected += 1
    calls_of_all = sum(made for _, made in healthy.values())
    assert injected == calls_of_all * len(FAULTS)
    figure(
        f"calls of Cloud Storage, {calls_of_all}, each broken in {len(FAULTS)} ways: right results", injected, injected
    )


@pytest.mark.parametrize("fault", [each for each in FAULTS if getattr(each, "when", "after") == "before"])
def test_a_large_file_whose_upload_breaks(proxy: Proxy, tmp_path: Path, fault: Fault) -> None:
    """Nothing is broken after the last bytes: fake-gcs-server knows an upload no more that has ended."""
    (tmp_path / "weights").write_bytes(bytes(range(256)) * (LARGE // 256))
    uri = f"{BUCKET}/large-{FAULTS.index(fault)}"
    broken: list[str] = []

    def policy(call: Call) -> Fault | None:
        met = call.method not in broken
        broken.append(call.method)
        return fault if met else None

    proxy.policy = policy
    assert storage.stage(tmp_path, uri).sent == 1
    assert {"GET", "POST", "PUT"} <= set(broken)
    with storage.local_file(f"{uri}/weights") as path:
        assert path.read_bytes() == (tmp_path / "weights").read_bytes()


def test_a_call_of_cloud_storage_that_fails_for_ever(
    proxy: Proxy, doing: Doing, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.policy = no_fault
    for do in doing.all("ever").values():
        do()
    empty(proxy, "ever/model.yaml")
    monkeypatch.setitem(deadline.SECONDS, "gate", 0.5)
    said = rf"could not (read|write) {BUCKET}/ever.*: \d+ attempts in [\d.]+ s \(step gate has 0.5 s\), the last: "
    for do in doing.all("ever").values():
        proxy.policy = lambda _: Status(503)
        with pytest.raises(StorageError, match=said), within("gate"):
            do()


def at(number: int, fault: Fault) -> Callable[[Call], Fault | None]:
    """The fault for a call of that number alone, from 1."""
    left = [number]

    def policy(_: Call) -> Fault | None:
        left[0] -= 1
        return None if left[0] else fault

    return policy


def counted(proxy: Proxy, policy: Callable[[Call], Fault | None], do: Callable[[], object]) -> tuple[object, int]:
    """What something finds, and the calls that it makes."""
    proxy.policy = policy
    proxy.calls.clear()
    return do(), len(proxy.calls)


def empty(proxy: Proxy, prefix: str) -> None:
    proxy.policy = no_fault
    bucket, _ = storage.split(BUCKET)
    for blob in list(bucket.list_blobs(prefix=prefix)):
        blob.delete()
