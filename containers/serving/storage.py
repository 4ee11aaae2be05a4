"""Brings a model's artifact from Cloud Storage; a path on this machine is left where it is."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from components.earthengine.errors import StorageError
from containers.serving.model import ARCHIVE

SCHEME = "gs://"

# Each call to Cloud Storage is tried again for so long after a failure that may pass: 408, 429, 5xx, a lost connection.
_RETRY_S = 120.0
_CHUNK_BYTES = 1 << 20


def fetch(uri: str, directory: Path) -> Path:
    """Where the artifact lies on this machine, after its download to `directory` if it is a gs:// URI.

    Of a PyTorch artifact only the archive is brought. Every object is held against the size and the sum that
    Cloud Storage keeps of it; STORAGE_EMULATOR_HOST is honoured.

    Raises:
        StorageError: there is no such artifact, it cannot be read, or it changes meanwhile.
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
            found = {blob.name: blob for blob in client.list_blobs(bucket, prefix=prefix or None, retry=retry)}
            start = f"{prefix}/" if prefix else ""
            if prefix in found and prefix.endswith(".mar"):
                chosen, start = [prefix], prefix.removesuffix(prefix.rpartition("/")[2])
            elif start + ARCHIVE in found:
                chosen = [start + ARCHIVE]
            else:
                # Objects whose names end in a slash are folders that the console made.
                chosen = [name for name in found if name.startswith(start) and not name.endswith("/")]
            if not chosen:
                raise StorageError(f"{uri} holds no objects; give the folder of an exported model")
            for name in chosen:
                target = directory / name.removeprefix(start)
                if not target.resolve().is_relative_to(directory.resolve()):
                    raise StorageError(f"{SCHEME}{bucket}/{name} would be written outside of {directory}; rename it")
                target.parent.mkdir(parents=True, exist_ok=True)
                _bring(found[name], target, retry)
    except (GoogleAPIError, GoogleAuthError, RequestException, OSError) as error:
        raise StorageError(
            f"{uri} cannot be read ({error}); check that it exists and that this service account may read it"
        ) from error
    return directory / chosen[0].removeprefix(start) if len(chosen) == 1 else directory


def _bring(blob: Any, target: Path, retry: Any) -> None:
    """Download an object as it was listed, and check it."""
    import google_crc32c
    from google.api_core.exceptions import NotFound, PreconditionFailed

    uri = f"{SCHEME}{blob.bucket.name}/{blob.name}"
    # As listed; a download puts what its own answer says in their place.
    expected = blob.size, blob.crc32c
    try:
        # The client's own check passes over a download that was cut off and resumed, so it is made below.
        blob.download_to_filename(str(target), if_generation_match=blob.generation, checksum=None, retry=retry)
    except (NotFound, PreconditionFailed) as error:
        raise StorageError(f"{uri} was changed while it was read; deploy again when its upload has ended") from error
    crc, size = google_crc32c.Checksum(), 0
    with target.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc.update(chunk)
            size += len(chunk)
    found = size, base64.b64encode(crc.digest()).decode()
    if found != expected:
        raise StorageError(f"{uri} arrived damaged: size and CRC32C are {found}; expected {expected}: deploy again")
