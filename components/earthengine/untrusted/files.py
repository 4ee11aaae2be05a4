"""Ordinary files: no pipe or device, which would be read for ever, and no link that leads out of the directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def regular(path: Path) -> int:
    """Bytes of an ordinary file.

    Raises:
        ValueError: it is something else, such as a pipe, a device or a folder.
        OSError: it does not exist or cannot be asked for.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"it is {_kind(status.st_mode)}, not a file")
    return status.st_size


def stays_inside(directory: Path, path: Path) -> None:
    """See that a file, or a folder and all in it, lies in a directory for real and is made of files and folders alone.

    A path that does not exist is none of this function's.

    Raises:
        ValueError: a link leads out of the directory or in a circle, or something is neither file nor folder.
    """
    real = Path(os.path.realpath(directory))
    _check(real, path, path.name)
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            for name in (*folders, *names):
                found = Path(folder, name)
                _check(real, found, str(found.relative_to(path.parent)))


def _check(real: Path, path: Path, name: str) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise ValueError(f"{name} is a link to {str(path.readlink())[:200]}, which does not exist") from None
        return
    except OSError as error:  # a circle of links
        raise ValueError(f"{name} cannot be followed ({error.strerror})") from None
    if not Path(os.path.realpath(path)).is_relative_to(real):
        raise ValueError(f"{name} leads out of the directory by a link; put the file itself there")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"{name} is {_kind(mode)}, not a file")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a device")
