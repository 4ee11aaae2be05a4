"""Zips: the directory of an archive is held against bounds before any entry is read.

What is then unpacked of an entry is at most the size that the directory declares, so that it is enough to bound
those: by PyTorch's reader, by numpy, which reads piece by piece, and here by `read`.
"""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from components.earthengine.untrusted.files import regular

# Entries of an archive; PyTorch writes one a tensor, of which large models have some thousand.
MAX_ENTRIES = 100_000
# Deflate can shrink 1032 times, which only a bomb does; text shrinks 5 to 20 times, weights and pixels hardly ten.
MAX_RATIO = 100
# An archive that takes no more than this is nobody's bomb, however well it shrinks: a scene of masked pixels.
FREE_BYTES = 64 << 20

_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_ENCRYPTED = 1

# What zipfile raises for entries that are not what the directory says.
FAULTS = (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)


@contextmanager
def opened(source: Path | IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """A zip whose directory is within the bounds.

    Raises:
        ValueError: it is no zip, or an entry's name, kind or size is none that is allowed.
        OSError: it cannot be read.
    """
    size = regular(source) if isinstance(source, Path) else source.seek(0, 2)
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(str(error)) from None
    with archive:
        _check(archive.infolist(), size)
        yield archive


def read(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of an entry.

    Python 3.11's `ZipFile.read` unpacks an entry to its end and then cuts it to the size that is declared.

    Raises:
        KeyError: there is none of this name.
        Exception: one of `FAULTS`, where it is not what the directory says.
    """
    entry = archive.getinfo(name)
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def _check(entries: list[zipfile.ZipInfo], size: int) -> None:
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"it has {len(entries)} entries; at most {MAX_ENTRIES} are read")
    # PyTorch's reader takes offsets from the first byte on and zipfile from where the archive seems to begin: with
    # something before it the two would read different entries.
    if entries and min(entry.header_offset for entry in entries) != 0:
        raise ValueError("it does not begin with its first entry")
    seen: set[str] = set()
    for entry in entries:
        _check_entry(entry)
        # Without regard to case, as PyTorch's reader looks for names.
        if (name := entry.filename.lower()) in seen:
            raise ValueError(f"it has the entry {entry.filename[:200]} twice")
        seen.add(name)
    if sum(entry.compress_size for entry in entries) > size:
        raise ValueError("its entries lie over one another")
    declared, allowed = sum(entry.file_size for entry in entries), max(FREE_BYTES, MAX_RATIO * size)
    if declared > allowed:
        raise ValueError(
            f"its entries declare {declared:,} bytes, {declared // max(size, 1):,} times the archive's {size:,}; at "
            f"most {allowed:,} ({MAX_RATIO} times, or {FREE_BYTES:,}) are read"
        )


def _check_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    if leads_out(name):
        raise ValueError(f"the entry {name[:200]!r} leads out of the archive")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise ValueError(f"the entry {name[:200]} is a link")
    if entry.flag_bits & _ENCRYPTED:
        raise ValueError(f"the entry {name[:200]} is encrypted")
    if entry.compress_type not in _METHODS:
        raise ValueError(
            f"the entry {name[:200]} is packed by method {entry.compress_type}; {' or '.join(_METHODS.values())} are "
            "read"
        )
    if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
        raise ValueError(f"the entry {name[:200]} is stored, but declares {entry.file_size} bytes of what it takes")


def leads_out(name: str) -> bool:
    """Whether a name in an archive is of a place outside of the folder that it would be unpacked to."""
    return (
        not name
        or "\0" in name
        or "\\" in name
        or name.startswith("/")
        or bool(PureWindowsPath(name).drive)
        or ".." in PurePosixPath(name).parts
    )
