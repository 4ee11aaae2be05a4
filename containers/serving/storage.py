"""Brings a model's artifact from Cloud Storage; a path on this machine is left where it is."""

from __future__ import annotations

from pathlib import Path

from components.earthengine.errors import StorageError
from containers.serving.model import ARCHIVE

SCHEME = "gs://"


def fetch(uri: str, directory: Path) -> Path:
    """Where the artifact lies on this machine, after its download to `directory` if it is a gs:// URI.

    Of a PyTorch artifact only the archive is brought. Every object is checked against the sum that
    Cloud Storage keeps, and tried again after a passing failure; STORAGE_EMULATOR_HOST is honoured.

    Raises:
        StorageError: there is no such artifact, or it cannot be read.
    """
    if not uri.startswith(SCHEME):
        return Path(uri)
    # Takes half a second, which a path needs not pay.
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage
    from google.resumable_media import DataCorruption
    from requests.exceptions import RequestException

    bucket, _, prefix = uri.removeprefix(SCHEME).rstrip("/").partition("/")
    try:
        # With STORAGE_EMULATOR_HOST set the client is anonymous by itself.
        with storage.Client() as client:
            found = {blob.name: blob for blob in client.list_blobs(bucket, prefix=prefix or None)}
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
                found[name].download_to_filename(str(target), checksum="auto")
    except (GoogleAPIError, GoogleAuthError, DataCorruption, RequestException, OSError) as error:
        raise StorageError(
            f"{uri} cannot be read ({error}); check that it exists and that this service account may read it"
        ) from error
    return directory / chosen[0].removeprefix(start) if len(chosen) == 1 else directory
