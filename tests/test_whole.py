from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.earthengine.errors import DiskError
from components.whole import whole_file, whole_folder, write_text


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_there_when_the_block_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with whole_folder(folder) as aside:
        (aside / "c").mkdir()
        (aside / "c" / "file").write_text("new")
        assert not folder.exists()
    assert contents(tmp_path) == {"a/b/c/file": "new"}


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    with whole_folder(folder) as aside:
        (aside / "file").write_text("new")
        assert not any(folder.iterdir())
    assert contents(tmp_path) == {"a/file": "new"}


@pytest.mark.parametrize("made_before", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, made_before: bool, error: type[BaseException]) -> None:
    folder = tmp_path / "a"
    if made_before:
        folder.mkdir()

    def fill() -> None:
        with whole_folder(folder) as aside:
            (aside / "file").touch()
            raise error

    with pytest.raises(error):
        fill()
    assert [path.name for path in tmp_path.rglob("*")] == (["a"] if made_before else [])


def test_what_was_there_before_stays_as_it_was_until_the_block_has_ended(tmp_path: Path) -> None:
    before = {"precious": "mine", "model": "old", "c/d": "old"}
    for name, text in before.items():
        write_text(tmp_path / name, text)

    def fill(*, fails: bool) -> None:
        with whole_folder(tmp_path) as aside:
            for name in ("model", "c/d", "c/e"):
                write_text(aside / name, "new")
            if fails:
                raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fill(fails=True)
    assert contents(tmp_path) == before
    fill(fails=False)
    assert contents(tmp_path) == {"precious": "mine", "model": "new", "c/d": "new", "c/e": "new"}


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with whole_folder(tmp_path / "link") as aside:
        (aside / "file").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == {"file": "new"}


def test_where_folders_cannot_be_renamed_files_are(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    with whole_folder(folder) as aside:
        write_text(aside / "c" / "file", "new")
        # As Cloud Storage FUSE, where a rename over a folder that holds something is refused.
        write_text(folder / "other", "of another process")
    assert contents(tmp_path) == {"a/c/file": "new", "a/other": "of another process"}


def test_a_file_is_there_when_the_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "a" / "page.html"
    for text in ("first", "second"):
        before = contents(tmp_path)
        with whole_file(path) as aside:
            aside.write_text(text)
            assert aside.suffix == ".html"
            assert contents(tmp_path).items() >= before.items()
        assert contents(tmp_path) == {"a/page.html": text}


def test_a_file_whose_block_fails_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fill() -> None:
        with whole_file(path) as aside:
            aside.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert contents(tmp_path) == {"file": "old"}


def test_files_and_folders_have_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with whole_folder(tmp_path / "a") as aside:
        (aside / "file").touch()
    write_text(tmp_path / "b", "")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "folder").stat().st_mode
    assert (tmp_path / "b").stat().st_mode == (tmp_path / "file").stat().st_mode
    assert os.listdir(tmp_path / "a") == ["file"]  # noqa: PTH208  hidden ones too


WRITE = """
import os, signal, sys
from pathlib import Path
from components.whole import whole_file, whole_folder

with whole_folder(Path(sys.argv[1])) as folder, whole_file(Path(sys.argv[2])) as file:
    (folder / "part").write_text("half")
    file.write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kept", [False, True])
def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(
    tmp_path: Path, kept: bool
) -> None:
    made, file = tmp_path / "made", tmp_path / "made.txt"
    if kept:
        write_text(made / "mine", "old")

    def left() -> list[str]:
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".*"))

    def write() -> None:
        with whole_folder(made) as aside:
            (aside / "part").write_text("all")
        write_text(file, "all")

    with subprocess.Popen(
        [sys.executable, "-c", WRITE, made, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout
        writer.stdout.readline()
        asides = left()
        assert len(asides) == 2
        assert all("/" not in name for name in asides), "they lie beside the artifacts, not in them"
        write()
        assert left() == asides
        writer.send_signal(signal.SIGKILL)
    assert left() == asides
    write()
    assert left() == []
    assert contents(tmp_path).items() >= {"made/part": "all", "made.txt": "all"}.items()


def test_what_others_call_alike_stays(tmp_path: Path) -> None:
    names = {".01234567-other", ".0123456-a", ".0123456g-a", ".01234567-a-b", ".01234567-b-a", "0.01234567-a"}
    for name in names:
        (tmp_path / name).mkdir()
    write_text(tmp_path / "a", "")
    assert {path.name for path in tmp_path.iterdir()} == names | {"a"}


def test_a_private_folder_stays_private(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(0o700)
    with whole_folder(tmp_path / "a") as aside:
        assert aside.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    write_text(tmp_path / "real" / "file", "old")
    (tmp_path / "link").symlink_to("real/file")
    (tmp_path / "dangling").symlink_to("real/new")
    for link in (tmp_path / "link", tmp_path / "dangling"):
        write_text(link, "new")
        assert link.is_symlink()
    assert contents(tmp_path / "real") == {"file": "new", "new": "new"}


def test_a_pipe_is_written_itself(tmp_path: Path) -> None:
    write = "from pathlib import Path; from components.whole import write_text; write_text(Path('/dev/stdout'), 'text')"
    assert subprocess.run([sys.executable, "-c", write], check=True, stdout=subprocess.PIPE, text=True).stdout == "text"
    os.mkfifo(tmp_path / "pipe")
    opened = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert os.read(opened, 10) == b"text"
    os.close(opened)
    assert (tmp_path / "pipe").is_fifo()


def test_what_is_of_another_kind_is_told(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "mine")
    (tmp_path / "folder").mkdir()

    def fill(folder: Path) -> None:
        with whole_folder(folder):
            pytest.fail("it begins")

    with pytest.raises(DiskError, match="/file is a file and no folder; remove it, or write elsewhere"):
        fill(tmp_path / "file")
    with pytest.raises(DiskError, match="/file is no folder: it or what is above it is a file"):
        fill(tmp_path / "file" / "a")
    with pytest.raises(DiskError, match="/file/a is no folder: it or what is above it is a file"):
        write_text(tmp_path / "file" / "a" / "b", "")
    with pytest.raises(DiskError, match="/folder is a folder; give the path of a file"):
        write_text(tmp_path / "folder", "")
    assert contents(tmp_path) == {"file": "mine"}
    assert not any((tmp_path / "folder").iterdir())
