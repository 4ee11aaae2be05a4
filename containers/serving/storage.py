"""Brings a model's artifact from Cloud Storage; a path on this machine is left where it is."""

from __future__ import annotations

import base64
import errno
import os
import shutil
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from components.earthengine.errors import DiskError, StorageError
from containers.serving.model import ARCHIVE

SCHEME = "gs://"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# These are said of what is only read, too, such as the account's key.
_CLOSED = {errno.EACCES, errno.EPERM}
# What a file system says of names that it cannot have, alone or beside others.
_NAMES = {errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR}

# Each call to Cloud Storage is tried again for so long after a failure that may pass: 408, 429, 5xx, a lost connection.
_RETRY_S = 120.0
# In memory at once; a larger object is brought in as many calls.
_CHUNK_BYTES = 32 << 20


def fetch(uri: str, directory: Path) -> Path:
    """Where the artifact lies on this machine, after its download to `directory` if it is a gs:// URI.

    Of a PyTorch artifact only the archive is brought. Every object is held against the size and the sum that
    Cloud Storage keeps of it; STORAGE_EMULATOR_HOST is honoured.

    Raises:
        StorageError: there is no such artifact, it cannot be read, or it changes meanwhile.
        DiskError: the directory's disk has no room for it, or may not be written.
    """
    if not uri.startswith(SCHEME):
        return Path(uri)
    # Takes half a second, which a path needs not pay.
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage
    from google.cloud.storage.retry import DEFAULT_RETRY
    from requests.exceptions import RequestException

    # For its traces the client asks for the bucket itself; that needs a permission which reading objects does not.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    retry = DEFAULT_RETRY.with_timeout(_RETRY_S).with_delay(initial=0.2)
    bucket, _, prefix = uri.removeprefix(SCHEME).rstrip("/").partition("/")
    try:
        # With STORAGE_EMULATOR_HOST set the client is anonymous by itself.
        with storage.Client() as client:
            listing = partial(client.list_blobs, bucket, prefix=prefix or None, retry=retry)
            found = {blob.name: blob for blob in listing()}
            targets = {name: directory / path for name, path in _chosen(found, prefix).items()}
            if not targets:
                raise StorageError(f"{uri} holds no objects; give the folder of an exported model")
            for name, target in targets.items():
                if not target.resolve().is_relative_to(directory.resolve()):
                    raise StorageError(f"{SCHEME}{bucket}/{name} would be written outside of {directory}; rename it")
            _check_room(directory, uri, (found[name] for name in targets))
            listed = {name: found[name].generation for name in targets}
            for name, target in targets.items():
                _bring(found[name], target, retry)
            found = {blob.name: blob for blob in listing()}
            now = {name: found[name].generation for name in _chosen(found, prefix)}
            if differing := sorted(dict(listed.items() ^ now.items())):
                raise _changed(f"{SCHEME}{bucket}/{differing[0]}")
    except (GoogleAPIError, GoogleAuthError, RequestException, OSError) as error:
        if isinstance(error, OSError) and (
            error.errno in _FULL or (error.errno in _CLOSED and _is_in(error.filename, directory))
        ):
            raise DiskError(
                f"{directory} cannot hold {uri} ({error.strerror}); set TMPDIR to where there is room"
            ) from error
        raise StorageError(
            f"{uri} cannot be read ({error}); check that it exists and that this service account may read it"
        ) from error
    return next(iter(targets.values())) if len(targets) == 1 else directory


def _chosen(found: Collection[str], prefix: str) -> dict[str, str]:
    """The names of the objects that are brought, of those that were found, and their paths on this machine."""
    start = f"{prefix}/" if prefix else ""
    if prefix in found and prefix.endswith(".mar"):
        return {prefix: prefix.rpartition("/")[2]}
    if start + ARCHIVE in found:
        return {start + ARCHIVE: ARCHIVE}
    # Objects whose names end in a slash are folders that the console made.
    return {name: name.removeprefix(start) for name in found if name.startswith(start) and not name.endswith("/")}


def _is_in(file: object, directory: Path) -> bool:
    return isinstance(file, str | os.PathLike) and Path(file).is_relative_to(directory)


def _check_room(directory: Path, uri: str, blobs: Iterable[Any]) -> None:
    needed, free = sum(blob.size for blob in blobs), shutil.disk_usage(directory).free
    if needed > free:
        raise DiskError(
            f"{directory} has no room for {uri}: {needed:,} bytes are needed, {free:,} are free; set TMPDIR to where "
            "there is more"
        )


def _bring(blob: Any, target: Path, retry: Any) -> None:
    """Download an object as it was listed, and check it.

    As components/objects.py does: of components the server has earthengine alone, which knows no Cloud Storage.
    """
    import google_crc32c
    from google.api_core.exceptions import NotFound, PreconditionFailed

    uri = f"{SCHEME}{blob.bucket.name}/{blob.name}"
    if blob.content_encoding:  # which the client undoes, so that neither size nor sum is the object's
        raise StorageError(f"{uri} is stored with the content encoding {blob.content_encoding}; upload it without one")
    # As listed; a download puts what its own answer says in their place.
    generation, expected = blob.generation, (blob.size, blob.crc32c)
    if blob.size > _CHUNK_BYTES:
        blob.chunk_size = _CHUNK_BYTES
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The client's own check passes over a download that was cut off and resumed, and over one in chunks.
        blob.download_to_filename(str(target), if_generation_match=generation, checksum=None, retry=retry)
    except (NotFound, PreconditionFailed) as error:
        raise _changed(uri) from error
    except OSError as error:
        if error.errno not in _NAMES:
            raise
        raise StorageError(
            f"no file can have the name of {uri} ({error.strerror}); rename that object, or the one whose name is the "
            "begin of it"
        ) from error
    if blob.generation != generation:
        raise _changed(uri)
    crc, size = google_crc32c.Checksum(), 0
    with target.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc.update(chunk)
            size += len(chunk)
    found = size, base64.b64encode(crc.digest()).decode()
    if found != expected:
        raise StorageError(f"{uri} arrived damaged: size and CRC32C are {found}; expected {expected}: deploy again")


def _changed(uri: str) -> StorageError:
    return StorageError(f"{uri} was changed while it was read; deploy again when its upload has ended")
