"""Gzip with a bound on what it unpacks to, so that a few bytes do not fill the memory."""

from __future__ import annotations

import gzip
from pathlib import Path

from components.earthengine.errors import DataError
from components.earthengine.untrusted.zips import MAX_RATIO

# What any file may unpack to, however well it packs: masked pixels and equal rows pack as well as gzip can.
FREE_BYTES = 128 << 20
_PIECE = 1 << 20


class BoundedGzip(gzip.GzipFile):
    """A file that is read by `read` alone.

    Raises:
        DataError: by `read`, when it has unpacked to more than `MAX_RATIO` times its size.
    """

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path, "rb")
        self._name = name
        self._allowed = max(FREE_BYTES, MAX_RATIO * path.stat().st_size)
        self._unpacked = 0

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        content = super().read(size)
        self._unpacked += len(content)
        if self._unpacked > self._allowed:
            raise DataError(
                f"{self._name} unpacks to more than {self._allowed:,} bytes, {MAX_RATIO} times its size; export it in "
                "several files, or not packed"
            )
        return content


def check_unpacked(path: Path, name: str) -> None:
    """Unpack a file to nowhere, for a reader that has no bound of its own.

    Raises:
        DataError: it unpacks to too much.
        OSError, EOFError, zlib.error: it is damaged.
    """
    with BoundedGzip(path, name) as file:
        while file.read(_PIECE):
            pass
