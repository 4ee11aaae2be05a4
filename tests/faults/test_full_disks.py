"""Every writer on disks that are too small for it, and on one that is read-only: told as that, and nothing left."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components import storage
from components.archive import archive_model
from components.built_images import Images
from components.challenger import train_challenger
from components.conclude import Conclusion
from components.contest import Contest
from components.dags import compile_deploy
from components.disk import check_room, disk_error, shown
from components.earthengine.contract import Framework, ModelContract
from components.earthengine.errors import DiskError, ModelError
from components.evaluation import Evaluation
from components.export import export_model
from components.frameworks import ONNX_NAME
from components.gate import decide
from components.golden import Golden
from components.land_cover import METRICS_NAME, train_land_cover
from components.pages import write_decision
from components.pictures import save_pictures
from components.preflight import check_archive
from components.report import write_call, write_report
from components.sample import SAMPLE_NAME
from components.vertex import Vertex
from components.whole import whole_folder, write_text
from tests.conftest import FRAMEWORKS, Figure, WriteModel
from tests.faults.disks import PAGE, Disk, mounted
from tests.serving.conftest import Start, start

__all__ = ["start"]

ROOT = Path(__file__).parents[2]
WRITERS = [
    *(f"{step} {framework}" for step in ("export", "archive", "train", "sample model") for framework in FRAMEWORKS),
    *("large model", "template", "pictures", "decision", "report", "call", "fetch"),
]

Write = Callable[[Path], object]
"""Writes a file or a folder at a path."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk") as made:
        yield made


@pytest.fixture(scope="module")
def writers(
    trained: dict[Framework, Path],
    archives: dict[Framework, Path],
    emulator: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Write]:
    """What steps and commands write for others to read."""
    folder = tmp_path_factory.mktemp("writers")
    found: dict[str, Write] = {}
    for framework, source in trained.items():
        # Without its scene, so that most of what export writes is the model.
        model, exported = folder / f"{framework}-model", folder / f"{framework}-exported"
        shutil.copytree(source, model, ignore=shutil.ignore_patterns(SAMPLE_NAME, METRICS_NAME))
        export_model(model, exported)
        found[f"export {framework}"] = partial(export_model, model)
        found[f"archive {framework}"] = partial(archive_model, exported)
        found[f"sample model {framework}"] = partial(train_land_cover, framework=framework)
        found[f"train {framework}"] = partial(_train, framework)
    golden, contract = Golden.load(archives["pytorch"]), ModelContract.read(archives["pytorch"])
    evaluation = Evaluation("challenger", {"accuracy": 0.9}, 10)
    decision = decide(Contest(("accuracy",), "a table of many rows, " * 2000, evaluation, None), 0)
    nothing = Conclusion(False, False, "preflight: the model fails " * 2000, None, (), {}, ())
    found["large model"] = _save_large
    found["pictures"] = partial(_draw, contract, golden)
    found["template"] = partial(compile_deploy, "pytorch", Images("images", "1"))
    found["decision"] = partial(write_decision, decision)
    found["report"] = lambda path: write_report(Vertex("local", "us-central1"), None, nothing, path)
    found["call"] = lambda path: write_call(None, nothing, path)
    found["fetch"] = partial(_fetch, emulator, archives["tensorflow"])
    return found


def _train(framework: Framework, path: Path) -> None:
    train_challenger(framework, "", "samples", "", 0.3, 0, path / "model", path / "held-out")


def _save_large(path: Path) -> None:
    from components.frameworks.torchscript import save_torchscript

    with whole_folder(path) as aside:
        save_torchscript(torch.jit.script(torch.nn.Linear(500, 500)), aside / "model.pt")


def _draw(contract: ModelContract, golden: Golden, path: Path) -> None:
    assert golden.scene
    with whole_folder(path) as aside:
        save_pictures(contract, golden.tiles, golden.outputs, golden.scene, aside)


def _fetch(emulator: str, archive: Path, path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", emulator)
        storage.stage(archive, "gs://models/full-disks")
        storage.fetch("gs://models/full-disks", path)


def refused(write: Write, path: Path, disk: Disk) -> str:
    """What a writer raises; all that is on the disk must be as it was."""
    before = contents(disk.path)
    with pytest.raises(DiskError) as caught:
        write(path)
    assert contents(disk.path) == before
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def full_at(write: Write, disk: Disk, points: int) -> int:
    """Let a writer meet its disk's end at so many points of what it writes, the last a page before its end."""
    path = disk.path / "made.yaml"
    write(path)
    total = disk.used
    kept = contents(disk.path)
    # A second one beside it, of which the first is to be left alone; it needs as much.
    sizes = {total * point // points // PAGE * PAGE for point in range(points)} | {total - PAGE}
    for size in sizes:
        disk.resize(total + max(size, PAGE))
        told = refused(write, disk.path / "again.yaml", disk)
        assert re.search(r"again\.yaml.*(the disk is full: .* are free|no room for .* are free).*; make room", told), (
            told
        )
    assert refused(write, path, disk)  # over the one that is there, which stays
    assert contents(disk.path) == kept
    disk.resize(2 * total + 16 * PAGE)
    write(disk.path / "again.yaml")  # now there is room
    return len(sizes) + 1


@pytest.mark.parametrize("name", [name for name in WRITERS if not name.startswith("sample model")])
def test_a_disk_that_fills_up_is_told_and_nothing_is_left(
    writers: dict[str, Write], disk: Disk, name: str, figure: Figure
) -> None:
    tried = full_at(writers[name], disk, 1 if "tensorflow" in name else 2)
    figure(f"full disks: {name}, told clearly and nothing left", f"{tried} of {tried}", f"{tried} of {tried}")


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_up_at_any_point(writers: dict[str, Write], disk: Disk, name: str, figure: Figure) -> None:
    tried = full_at(writers[name], disk, 60 if "tensorflow" not in name else 20)
    figure(f"full disks: {name}, told clearly and nothing left", f"{tried} of {tried}", f"{tried} of {tried}")


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_cannot_be_written_is_told(writers: dict[str, Write], disk: Disk, name: str) -> None:
    disk.close()
    told = refused(writers[name], disk.path / "made.yaml", disk)
    assert re.search(r"made\.yaml.* cannot be written: the file system is read-only; write elsewhere", told)


def test_a_folder_that_this_user_may_not_write_is_told() -> None:
    with TemporaryDirectory() as name:  # pytest's own are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        with pytest.raises(DiskError) as caught:
            _as_nobody(folder / "file")
        assert str(caught.value) == (
            f"{folder}/file cannot be written: this user may not write there; write elsewhere, or have it opened for "
            "writing"
        )
        assert not any(folder.iterdir())


def _as_nobody(path: Path) -> None:
    """Write a file as another user."""
    try:
        os.seteuid(65534)
    except PermissionError:
        pytest.skip("this user may not act as another")
    try:
        if not os.access(path.parent, os.X_OK, effective_ids=True):
            pytest.skip(f"the user nobody cannot come to {path.parent}")
        write_text(path, "")
    finally:
        os.seteuid(0)


def test_what_cannot_be_read_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    error = PermissionError(13, "Permission denied", str(tmp_path / "model" / "net.pt"))
    assert disk_error(error, tmp_path / "out") is None
    assert disk_error(PermissionError(13, "Permission denied", str(tmp_path / "out" / "x")), tmp_path / "out")
    assert disk_error(ModelError("it has no weights"), tmp_path) is None


@given(st.integers(0, 2**62))
def test_bytes_are_shown_as_they_are(size: int) -> None:
    number, unit = shown(size).split()
    factor = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    assert abs(float(number.replace(",", "")) * factor - size) <= factor * 0.05 + size * 1e-9


def test_room_is_asked_for_before_anything_is_written(disk: Disk) -> None:
    disk.resize(1 << 20)
    check_room(disk.path / "not" / "there", 1 << 20)
    with pytest.raises(DiskError, match=r"there has no room for 1\.0 MB: 1\.0 MB are free; make room"):
        check_room(disk.path / "not" / "there", (1 << 20) + 1)


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (["pipeline.py", "compile", "--repository", "images", "--output"], 10 * PAGE),
        (["-m", "components.land_cover"], 2 * PAGE),
    ],
)
def test_a_command_tells_it_in_a_line(disk: Disk, command: list[str], size: int) -> None:
    disk.resize(size)
    done = subprocess.run(
        [sys.executable, *command, disk.path / "made"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert re.search(r"error:? .*/disk/made cannot be written: the disk is full", line)
    assert done.stdout == ""
    assert not any(disk.path.iterdir())


def test_a_command_whose_folder_is_a_file_tells_it_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    command = [sys.executable, "pipeline.py", "compile", "--repository", "images", "--output", f"{tmp_path}/file"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error {tmp_path}/file is a file and no folder; remove it, or write elsewhere\n"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_a_server_whose_disk_is_too_small_for_its_model_ends(
    start: Start, archives: dict[Framework, Path], emulator: str, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    storage.stage(archives["tensorflow"], "gs://models/served-from-a-full-disk")
    total = sum(path.stat().st_size for path in archives["tensorflow"].rglob("*") if path.is_file())
    sizes = (PAGE, total // 2, total // PAGE * PAGE + PAGE)  # of which the last has room by the sizes, but not in pages
    for size in sizes:
        disk.resize(size)
        server = start("--model", "gs://models/served-from-a-full-disk", TMPDIR=str(disk.path))
        status, log = server.end()
        assert status == 1
        assert re.fullmatch(
            rf"serving: error: {disk.path}/serving-\w+ (has no room for|cannot hold) gs://models/served-from-a-full-disk"
            r"(: [\d,]+ bytes are needed, [\d,]+ are free| \(No space left on device\)); set TMPDIR to where there is "
            r"(more|room)",
            log.splitlines()[-1],
        )
        assert not any(disk.path.iterdir())


@pytest.mark.slow
def test_preflight_needs_no_disk(archives: dict[Framework, Path], disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.resize(PAGE)
    (disk.path / "full").write_bytes(bytes(PAGE))
    monkeypatch.setenv("TMPDIR", str(disk.path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert "golden tiles are answered" in check_archive(archives["pytorch"])


def test_a_file_is_as_it_was_where_the_disk_is_full(disk: Disk) -> None:
    write_text(disk.path / "file", "old")
    disk.resize(2 * PAGE)
    assert "the disk is full" in refused(lambda path: write_text(path, "new" * PAGE), disk.path / "file", disk)
    assert (disk.path / "file").read_text() == "old"


def test_arrays_of_a_full_disk_are_told(disk: Disk) -> None:
    disk.resize(4 * PAGE)

    def write(path: Path) -> None:
        with whole_folder(path) as aside:
            np.savez(aside / "x.npz", x=np.zeros(8 * PAGE))

    assert "the disk is full: 16.4 kB of 16.4 kB are free" in refused(write, disk.path / "made", disk)


def test_a_disk_that_has_room_without_onnx_alone_is_told_too(disk: Disk, write_model: WriteModel) -> None:
    """A model that does not convert to ONNX is exported without; one that finds no room is not."""
    network = torch.nn.Conv2d(2, 1, 201, padding="same")
    model = write_model(lambda path: torch.jit.script(network).save(str(path)))
    export_model(model, disk.path / "made")
    onnx, total = (disk.path / "made" / ONNX_NAME).stat().st_size, disk.used
    disk.resize(2 * total - onnx // 2)
    assert "the disk is full" in refused(partial(export_model, model), disk.path / "again", disk)
