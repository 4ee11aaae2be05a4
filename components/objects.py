"""One object in Cloud Storage, sent and brought whole: held against its size and CRC32C, and its generation."""

from __future__ import annotations

import base64
import errno
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from google.api_core import exceptions

from components.calls import again
from components.earthengine.errors import StorageError

if TYPE_CHECKING:
    from google.cloud import storage

# Bytes in memory at once; a multiple of 256 KiB, as resumable uploads want. The client repeats the requests of a larger
# object each by itself, so that how long all of it takes does not count.
CHUNK = 32 << 20

# What a file system says of names that it cannot have, alone or beside others.
_NAMES = {errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR}


@dataclass(frozen=True)
class Content:
    """What tells the bytes of an object or a file from others.

    Attributes:
        size: in bytes.
        crc32c: in base64, as Cloud Storage keeps it.
    """

    size: int
    crc32c: str

    @classmethod
    def of(cls, source: bytes | Path | storage.Blob) -> Self:
        """Of bytes, of a file, which is read, or of an object, as the service has told."""
        import google_crc32c

        checksum, size = google_crc32c.Checksum(), 0
        if isinstance(source, bytes):
            checksum.update(source)
            size = len(source)
        elif isinstance(source, Path):
            with source.open("rb") as file:
                while chunk := file.read(CHUNK):
                    checksum.update(chunk)
                    size += len(chunk)
        else:
            return cls(source.size, source.crc32c)
        return cls(size, base64.b64encode(checksum.digest()).decode())


def address(blob: storage.Blob) -> str:
    """The gs:// address of an object."""
    return f"gs://{blob.bucket.name}/{blob.name}"


def send(blob: storage.Blob, source: bytes | Path, content: Content, generation: int) -> bool:
    """Upload bytes or a file in place of one generation of an object; 0 stands for none.

    The service is told the sum, and says what it has stored. The client's own check would be of what it has read, which
    is something else where the file changes meanwhile; and it would delete the object, whoever has written it.

    Args:
        blob: the object; it knows its new generation then.
        source: what to send.
        content: of the source, taken before.
        generation: what may be replaced.

    Returns:
        Whether the object holds that now; not where somebody else has written other bytes there first.

    Raises:
        StorageError: the service has stored something else, which the next that is sent replaces.
    """
    # With the condition repeating is safe: an attempt after one whose answer was lost meets what that has stored.
    keys = {"checksum": None, "if_generation_match": generation, "retry": again}
    blob.crc32c = content.crc32c
    try:
        if isinstance(source, bytes):
            kind = "application/json" if blob.name.endswith(".json") else "text/plain; charset=utf-8"
            blob.upload_from_string(source, content_type=kind, **keys)
        else:
            blob.upload_from_filename(source, **keys)
    except exceptions.PreconditionFailed:
        blob.reload(retry=again)
        return Content.of(blob) == content
    except ValueError as error:  # the client's, of a file that has become shorter
        raise StorageError(f"{source!s} changed while it was sent to {address(blob)} ({error}); run again") from error
    if (stored := Content.of(blob)) != content:
        raise StorageError(
            f"{address(blob)} arrived damaged, or its file changed while it was sent: Cloud Storage has {stored.size} "
            f"bytes of CRC32C {stored.crc32c}, expected are {content.size} of {content.crc32c}; run again"
        )
    return True


def bring(blob: storage.Blob, path: Path) -> None:
    """Download an object as it was listed to a file, whose folder is made where it is missing.

    Raises:
        StorageError: it has been replaced or deleted since, what arrived is something else, or no file can have its
            name.
    """
    _check_encoding(blob)
    listed, generation = Content.of(blob), blob.generation  # a download puts what its own answer says in their place
    if listed.size > CHUNK:
        blob.chunk_size = CHUNK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The client's own check passes over a download that was cut off and resumed, and over one in chunks.
        blob.download_to_filename(path, if_generation_match=generation, checksum=None, retry=again)
    except (exceptions.NotFound, exceptions.PreconditionFailed) as error:
        raise changed(address(blob)) from error
    except OSError as error:
        if error.errno not in _NAMES:
            raise
        raise StorageError(
            f"no file can have the name of {address(blob)} ({error.strerror}); rename that object, or the one whose "
            "name is the begin of it"
        ) from error
    if blob.generation != generation:
        raise changed(address(blob))
    _check(blob, Content.of(path), listed)


def read(blob: storage.Blob) -> bytes:
    """The bytes of an object.

    Raises:
        NotFound: there is none.
        StorageError: what arrived is not what is stored.
    """
    content: bytes = blob.download_as_bytes(checksum=None, retry=again)
    _check_encoding(blob)
    found = Content.of(content)
    _check(blob, found, Content(found.size, blob.crc32c))  # the answer's headers tell the sum
    return content


def changed(what: str) -> StorageError:
    """The error of a bucket that changes while it is read."""
    return StorageError(f"{what} was changed while it was read; run again when whoever writes there has ended")


def _check_encoding(blob: storage.Blob) -> None:
    if blob.content_encoding:  # which the client undoes, so that neither size nor sum is the object's
        raise StorageError(
            f"{address(blob)} is stored with the content encoding {blob.content_encoding}; upload it without one"
        )


def _check(blob: storage.Blob, found: Content, expected: Content) -> None:
    if found != expected:
        raise StorageError(
            f"{address(blob)} arrived damaged: {found.size} bytes of CRC32C {found.crc32c}, expected are "
            f"{expected.size} of {expected.crc32c}; run again"
        )
