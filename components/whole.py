"""Artifacts are written aside, and put in their places when they are complete: where writing fails nothing is left.

A file, and a folder that was not there or was empty, is put there by one rename: there is all of it or nothing. Into a
folder that holds something, one file after the other is; so it is on Vertex AI, that is in Cloud Storage through its
FUSE mount, which renames files but no folders that hold something (cloud.google.com/storage/docs/cloud-storage-fuse,
"Limitations"). A process that is killed in the midst of that leaves some of the new files; run again it completes them.

What is written aside lies on the same file system, under a name that begins with a dot, so that the rename copies
nothing. Its writer holds a lock on it; without one it is of a process that was killed, and the next that writes the
same artifact removes it.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE

from components.disk import check_room, telling_of_disk
from components.earthengine.errors import DiskError

_ASIDE = re.compile(r"\.[0-9a-f]{8}-(.+)", re.DOTALL)


@contextmanager
def whole_folder(folder: Path, needed: int = 0) -> Iterator[Path]:
    """A folder aside for the block to fill, which then becomes the folder; where the block fails nothing is left.

    In a folder that holds something already the new files take the places of those of their names, one after the other;
    others stay.

    Args:
        folder: the folder to make.
        needed: bytes that the block will write, where that is known.

    Raises:
        DiskError: the disk is full or may not be written, whatever the block raised for it; or a file lies there.
    """
    folder = folder.resolve()  # what a link leads to is replaced, and the link stays
    if folder.exists() and not folder.is_dir():
        raise DiskError(f"{folder} is a file and no folder; remove it, or write elsewhere")
    must_be_inside = folder.is_mount() or (folder.exists() and not os.access(folder.parent, os.W_OK))
    with _aside(folder if must_be_inside else folder.parent, folder) as aside:
        check_room(folder, needed)
        # Where others may not look into the folder, they may not look aside either.
        if folder.exists() and (mode := S_IMODE(folder.stat().st_mode)) != S_IMODE(aside.stat().st_mode):
            aside.chmod(mode)
        yield aside
        for path in aside.rglob("*"):
            if path.is_file():
                _sync(path)
        _move(aside, folder)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path aside for the block to write a file to, which then is renamed; where the block fails nothing is left.

    A device or a pipe, such as /dev/stdout, is written itself.

    Raises:
        DiskError: the disk is full or may not be written, whatever the block raised for it; or a folder lies there.
    """
    if path.is_dir():
        raise DiskError(f"{path} is a folder; give the path of a file")
    if path.exists() and not path.is_file():
        with telling_of_disk(path):
            yield path
        return
    path = path.resolve()
    with _aside(path.parent, path) as aside:
        yield aside / path.name
        _sync(aside / path.name)
        (aside / path.name).replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 whole.

    Raises:
        DiskError: the disk is full or may not be written.
    """
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def is_aside(path: Path) -> bool:
    """Whether a file or a folder lies in what was written aside."""
    return any(_ASIDE.fullmatch(part) for part in path.parts)


@contextmanager
def _aside(parent: Path, target: Path) -> Iterator[Path]:
    """A new folder for the block to write what is to become the target; it is removed with what is left in it."""
    aside = parent / f".{secrets.token_hex(4)}-{target.name}"
    with telling_of_disk(target, aside), _made(parent):
        for path in parent.iterdir():
            if (found := _ASIDE.fullmatch(path.name)) and found[1] == target.name:
                _remove_left(path)
        aside.mkdir()
        try:
            with _locked(aside):
                yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder for the block; it ends with the process."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(opened)


def _remove_left(aside: Path) -> None:
    """Remove what a process that was killed has left."""
    with suppress(OSError), _locked(aside):  # another process writes it, or has removed it
        shutil.rmtree(aside)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder, and those above it, for the block; where it fails those that were made go again."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DiskError(f"{folder} is no folder: it or what is above it is a file; write elsewhere") from error
    try:
        yield
    except BaseException:
        for each in missing:
            with suppress(OSError):  # another process has put something there
                each.rmdir()
        raise


def _sync(path: Path) -> None:
    """See that a file's content is on the disk; else after a power cut its name could stand for a file without it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _move(aside: Path, folder: Path) -> None:
    if aside.parent != folder:
        try:
            aside.rename(folder)  # an empty folder is replaced
        except OSError:
            folder.mkdir(exist_ok=True)  # it holds something; or on Cloud Storage FUSE
        else:
            return
    for path in sorted(aside.rglob("*")):
        target = folder / path.relative_to(aside)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            path.replace(target)
