"""Files and folders in Cloud Storage: found, fetched, and staged without sending what is there already."""

from __future__ import annotations

import base64
import glob
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from google.api_core import exceptions

from components.earthengine.errors import StorageError
from components.vertex import explained, storage_client

if TYPE_CHECKING:
    from google.cloud import storage

_CHUNK = 32 << 20  # bytes in memory at once; a multiple of 256 KiB, as resumable uploads want


def fetch(uri: str, folder: Path) -> Path:
    """The folder at a URI, on this machine: downloaded from gs://, else the path itself.

    Args:
        uri: `gs://bucket/prefix` or a path.
        folder: where to download to.

    Raises:
        StorageError: the bucket or the folder does not exist, or cannot be read.
    """
    if not uri.startswith("gs://"):
        if not Path(uri).is_dir():
            raise StorageError(f"{uri} is not a folder; give the folder that holds model.yaml, or its gs:// address")
        return Path(uri)
    bucket, prefix = split(uri)
    with explained(f"read {uri}", StorageError):
        blobs = [blob for blob in _list(bucket, prefix) if not blob.name.endswith("/")]
        if not blobs:
            raise StorageError(f"{uri} holds no files; give the folder that holds model.yaml")
        for blob in blobs:
            path = folder / blob.name.removeprefix(prefix)
            if not path.resolve().is_relative_to(folder.resolve()):
                raise StorageError(f"{uri} holds {blob.name}, which leads out of the folder; remove that object")
            path.parent.mkdir(parents=True, exist_ok=True)
            blob.download_to_filename(path, checksum="crc32c")
    return folder


def find_files(uri: str, endings: tuple[str, ...]) -> list[str]:
    """The addresses of the files in the folder at a URI; where there is no such folder, of those that begin with it.

    Args:
        uri: `gs://bucket/name` or a path; what ends in a slash is a folder.
        endings: of the files that are looked for.

    Raises:
        StorageError: the bucket does not exist or cannot be read.
    """
    if not uri.startswith("gs://"):
        path = Path(uri)
        is_folder = path.is_dir() or uri.endswith("/")
        paths = path.rglob("*") if is_folder else path.parent.glob(f"{glob.escape(path.name)}*")
        return sorted(str(each) for each in paths if each.name.endswith(endings) and each.is_file())
    bucket, name = split(uri, folder=False)
    with explained(f"read {uri}", StorageError):
        names = sorted(blob.name for blob in _list(bucket, name) if blob.name.endswith(endings))
    inside = [each for each in names if each.startswith(f"{name}/" if name else "")]
    return [f"gs://{bucket.name}/{each}" for each in (inside if inside or uri.endswith("/") else names)]


def find_beside(uri: str, ending: str) -> list[str]:
    """The addresses of the files with an ending that lie in the same folder as the file at a URI.

    Raises:
        StorageError: the bucket does not exist or cannot be read.
    """
    if not uri.startswith("gs://"):
        folder = uri[: uri.rfind("/") + 1]
        return sorted(f"{folder}{path.name}" for path in Path(folder).glob(f"*{ending}"))
    bucket, name = split(uri, folder=False)
    folder = name[: name.rfind("/") + 1]
    with explained(f"read {uri}", StorageError):
        names = sorted(blob.name for blob in _list(bucket, folder, "/") if blob.name.endswith(ending))
    return [f"gs://{bucket.name}/{each}" for each in names]


@contextmanager
def local_file(uri: str) -> Iterator[Path]:
    """The file at a URI, on this machine while the block runs: downloaded from gs://, else the path itself.

    Raises:
        StorageError: the bucket or the object does not exist, or cannot be read.
    """
    if not uri.startswith("gs://"):
        yield Path(uri)
        return
    bucket, name = split(uri, folder=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"object-{Path(name).name}"
        with explained(f"read {uri}", StorageError):
            try:
                bucket.blob(name).download_to_filename(path, checksum="crc32c")
            except exceptions.NotFound:
                _list(bucket, name)  # tells a missing bucket from a missing object
                raise StorageError(f"{uri} does not exist; correct the address") from None
        yield path


def staging_folder(staging: str, model_uri: str) -> str:
    """The folder that models are staged to: the one given, else one in the bucket of the trained model.

    Raises:
        StorageError: none is given and the model does not lie in a bucket.
    """
    if staging:
        return staging
    bucket = model_uri.removeprefix("gs://").partition("/")[0]
    if not model_uri.startswith("gs://") or not bucket:
        raise StorageError(f"{model_uri} lies in no bucket; give the parameter staging, gs://bucket/folder")
    return f"gs://{bucket}/earth-engine-models"


def stage(folder: Path, uri: str) -> int:
    """Upload the files of a folder to `gs://bucket/prefix`, save those that are there with the same bytes.

    Returns:
        How many files were sent.

    Raises:
        StorageError: the bucket does not exist or cannot be written.
    """
    bucket, prefix = split(uri)
    sent = 0
    with explained(f"write {uri}", StorageError):
        there = {blob.name: blob for blob in _list(bucket, prefix)}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = prefix + path.relative_to(folder).as_posix()
            if name in there and there[name].size == path.stat().st_size and there[name].crc32c == _crc32c(path):
                continue
            blob = bucket.blob(name, chunk_size=_CHUNK)
            # Only the version that was looked at is replaced: 0 says that none may be there.
            generation = there[name].generation if name in there else 0
            blob.upload_from_filename(path, checksum="crc32c", if_generation_match=generation)
            sent += 1
    return sent


def count_files(uri: str) -> int:
    """How many files lie in the folder `gs://bucket/prefix`.

    Raises:
        StorageError: the bucket does not exist or cannot be read.
    """
    bucket, prefix = split(uri)
    with explained(f"read {uri}", StorageError):
        return sum(not blob.name.endswith("/") for blob in _list(bucket, prefix))


def read_text(uri: str) -> str | None:
    """The text of the object at a URI, or of the file at a path; None where there is none.

    Raises:
        StorageError: the bucket does not exist or cannot be read.
    """
    if not uri.startswith("gs://"):
        return Path(uri).read_text(encoding="utf-8") if Path(uri).is_file() else None
    bucket, name = split(uri, folder=False)
    with explained(f"read {uri}", StorageError):
        try:
            return str(bucket.blob(name).download_as_text())
        except exceptions.NotFound:
            _list(bucket, name)  # tells a missing bucket from a missing object
            return None


def write_text(uri: str, text: str) -> None:
    """Write an object."""
    bucket, name = split(uri, folder=False)
    with explained(f"write {uri}", StorageError):
        bucket.blob(name).upload_from_string(text, content_type="application/json")


def split(uri: str, *, folder: bool = True) -> tuple[storage.Bucket, str]:
    """The bucket and the object name of a gs:// URI; a folder's name ends in a slash.

    Raises:
        StorageError: it is no gs:// URI.
    """
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not uri.startswith("gs://") or not bucket:
        raise StorageError(f"{uri!r} is not an address in Cloud Storage; write gs://bucket/folder")
    name = name.strip("/")
    return storage_client().bucket(bucket), f"{name}/" if folder and name else name


def _list(bucket: storage.Bucket, prefix: str, delimiter: str | None = None) -> list[storage.Blob]:
    """The objects whose names begin so; with a delimiter those alone that do not have it in the rest of the name."""
    try:
        return list(bucket.list_blobs(prefix=prefix, delimiter=delimiter))
    except exceptions.NotFound:
        raise StorageError(
            f"the bucket gs://{bucket.name} does not exist; create it in the region of the endpoint: "
            f"gcloud storage buckets create gs://{bucket.name} --location=REGION"
        ) from None


def _crc32c(path: Path) -> str:
    """The base64 CRC32C of a file, as Cloud Storage keeps it."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum.update(chunk)
    return base64.b64encode(checksum.digest()).decode()
