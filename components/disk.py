"""What a disk refuses, told as that, whichever way those who write to it tell it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.earthengine.errors import DiskError

_REASONS = {
    errno.EDQUOT: "this user's share of the disk is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
}
# The others are said of what is only read, too.
_OF_WRITING_ONLY = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@contextmanager
def telling_of_disk(path: Path, aside: Path | None = None) -> Iterator[None]:
    """Raise what a disk refuses in the block as that.

    Args:
        path: the file or the folder that the block is to make.
        aside: where it is written at first.

    Raises:
        DiskError: the disk is full or may not be written, whatever the block raised for it.
    """
    try:
        yield
    except Exception as error:  # also a DiskError of something within what the block makes
        if refused := disk_error(error, path, aside):
            raise refused from error
        raise


def disk_error(error: BaseException, path: Path, aside: Path | None = None) -> DiskError | None:
    """The error of a disk that stands behind another, if one does.

    Args:
        error: what was raised; TensorFlow raises errors of its own, with the system's texts.
        path: what was to be made.
        aside: where it was written at first.
    """
    cause: BaseException | None = error
    while cause is not None:
        if number := _number(cause, {path, aside or path}):
            return DiskError(f"{path} cannot be written: {_reason(number, path)}")
        cause = cause.__cause__ or cause.__context__
    return None


def check_room(path: Path, needed: int) -> None:
    """See that a disk has room for so many bytes.

    Args:
        path: what is to be made.
        needed: bytes.

    Raises:
        DiskError: it has not.
    """
    free = shutil.disk_usage(_there(path)).free
    if needed > free:
        raise DiskError(
            f"{path} has no room for {shown(needed)}: {shown(free)} are free; make room, or write elsewhere"
        )


def shown(size: int) -> str:
    """Bytes in decimal units, with a digit after the point."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size} bytes"


def _number(error: BaseException, written: set[Path]) -> int | None:
    """The errno of a disk that an error is of, if any."""
    if isinstance(error, OSError) and error.errno:  # shutil's gathers others in a text
        is_of_writing = error.errno in _OF_WRITING_ONLY or _is_of(error.filename, written)
        return error.errno if error.errno in {errno.ENOSPC, *_REASONS} and is_of_writing else None
    text = str(error)
    return next((number for number in _OF_WRITING_ONLY if os.strerror(number) in text), None)


def _is_of(name: object, written: set[Path]) -> bool:
    """Whether a file is in what is written, or is a folder that this lies in."""
    if not isinstance(name, str | bytes | os.PathLike):
        return False
    file = Path(os.fsdecode(name))
    return any(file.is_relative_to(place) or place.is_relative_to(file) for place in written)


def _reason(number: int, path: Path) -> str:
    if number == errno.ENOSPC:
        total, _, free = shutil.disk_usage(_there(path))
        return f"the disk is full: {shown(free)} of {shown(total)} are free without it; make room, or write elsewhere"
    return f"{_REASONS[number]}; write elsewhere, or have it opened for writing"


def _there(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())
