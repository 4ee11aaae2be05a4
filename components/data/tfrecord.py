"""TFRecord: the records of a file, each of which its checksums hold together.

A record is its length (uint64), the length's checksum, the bytes, and their checksum, all little-endian; a
checksum is a masked CRC-32C (TensorFlow's guide "TFRecord and tf.train.Example", "TFRecords format details").
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from itertools import count
from pathlib import Path

import google_crc32c

from components.data.packed import BoundedGzip
from components.earthengine.errors import DataError

_LENGTH, _CHECKSUM = 8, 4  # bytes
_GZIP = b"\x1f\x8b"
_PIECE = 16 << 20  # bytes asked for at once: a length that lies takes no memory
# Of one record: a patch of 1024 x 1024 pixels of 15 bands. Earth Engine's are of some megabytes.
MAX_RECORD_BYTES = 64 << 20


def read_records(path: Path, name: str) -> Iterator[bytes]:
    """The records of a TFRecord file, packed with gzip or not, one after the other.

    Args:
        path: the file.
        name: what errors call it.

    Raises:
        DataError: the file is not there, is empty, ends early, or a checksum is wrong.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_LENGTH + _CHECKSUM)
            file.seek(0)
            if not head:
                raise DataError(f"{name} is empty; export it again")
            # The length of a record can look like gzip's first bytes, but not its checksum beside it.
            if head.startswith(_GZIP) and not _intact(head):
                with BoundedGzip(path, name) as unpacked:
                    yield from _records(unpacked, name, " of what it unpacks to")
            else:
                yield from _records(file, name, "")
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}; correct the address") from error


def _records(file: BufferedIOBase, name: str, of: str) -> Iterator[bytes]:
    offset = 0
    for number in count():
        where = f"{name}: record {number} at byte {offset}{of}"
        head = _read(file, _LENGTH + _CHECKSUM, where)
        if not head:
            return
        if len(head) < _LENGTH + _CHECKSUM:
            raise DataError(f"{where} ends within its length; the file is cut off: export it again")
        if not _intact(head):
            raise DataError(
                f"{where} has a length whose checksum is wrong; it is damaged or no TFRecord: export it again"
            )
        length = int.from_bytes(head[:_LENGTH], "little")
        content = _read(file, length + _CHECKSUM, where)
        if len(content) < length + _CHECKSUM:
            raise DataError(
                f"{where} ends after {len(content)} of {length + _CHECKSUM} bytes; the file is cut off: export it again"
            )
        if not _intact(content):
            raise DataError(f"{where} has {length} bytes whose checksum is wrong; it is damaged: export it again")
        yield content[:length]
        offset += _LENGTH + _CHECKSUM + len(content)


def _read(file: BufferedIOBase, size: int, where: str) -> bytes:
    """The next bytes, fewer only at the file's end."""
    pieces = []
    try:
        while size and (piece := file.read(min(size, _PIECE))):
            pieces.append(piece)
            size -= len(piece)
            if len(pieces) > MAX_RECORD_BYTES // _PIECE:
                raise DataError(
                    f"{where} has more than the {MAX_RECORD_BYTES:,} bytes that are read of one; export less"
                )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{where} cannot be unpacked: {error}; the file is cut off or damaged: export it again"
        ) from error
    return b"".join(pieces)


def _intact(checked: bytes) -> bool:
    """Whether the checksum that ends some bytes is that of the bytes before it."""
    crc: int = google_crc32c.value(checked[:-_CHECKSUM])
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return masked == int.from_bytes(checked[-_CHECKSUM:], "little")
