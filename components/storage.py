"""Files and folders in Cloud Storage: found, fetched, and staged without sending what is there already."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from google.api_core import exceptions

from components.calls import again
from components.disk import telling_of_disk
from components.earthengine.errors import StorageError
from components.objects import CHUNK, Content, address, bring, changed, read, send
from components.vertex import explained, storage_client
from components.whole import is_aside, whole_folder

if TYPE_CHECKING:
    from google.cloud import storage


@dataclass(frozen=True)
class Staged:
    """A folder that lies in Cloud Storage.

    Attributes:
        uri: where.
        objects: the content and the generation of each file, by object name.
        sent: how many of them were sent; the others were there already.
    """

    uri: str
    objects: dict[str, tuple[Content, int]]
    sent: int


def fetch(uri: str, folder: Path) -> Path:
    """The folder at a URI, on this machine: downloaded from gs://, else the path itself.

    Args:
        uri: `gs://bucket/prefix` or a path.
        folder: where to download to; it is there when all of it is.

    Raises:
        StorageError: the bucket or the folder does not exist, cannot be read, changes meanwhile, or has names that no
            files can have.
        DiskError: the disk is full, or may not be written.
    """
    if not uri.startswith("gs://"):
        if not Path(uri).is_dir():
            raise StorageError(f"{uri} is not a folder; give the folder that holds model.yaml, or its gs:// address")
        return Path(uri)
    bucket, prefix = split(uri)
    with explained(f"read {uri}", StorageError):
        blobs = _files(_list(bucket, prefix))
        if not blobs:
            raise StorageError(f"{uri} holds no files; give the folder that holds model.yaml")
        listed = {blob.name: blob.generation for blob in blobs}
        with whole_folder(folder, sum(blob.size for blob in blobs)) as aside:
            for blob in blobs:
                path = aside / blob.name.removeprefix(prefix)
                if not path.resolve().is_relative_to(aside.resolve()):
                    raise StorageError(f"{uri} holds {blob.name}, which leads out of the folder; remove that object")
                bring(blob, path)
            now = {blob.name: blob.generation for blob in _files(_list(bucket, prefix))}
            if differing := sorted(dict(listed.items() ^ now.items())):
                raise changed(f"gs://{bucket.name}/{differing[0]}")
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
        StorageError: the bucket or the object does not exist, cannot be read, or changes meanwhile.
        DiskError: the disk is full, or may not be written.
    """
    if not uri.startswith("gs://"):
        yield Path(uri)
        return
    bucket, name = split(uri, folder=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"object-{Path(name).name}"
        with explained(f"read {uri}", StorageError), telling_of_disk(path):
            blob = bucket.get_blob(name, retry=again)
            if blob is None:
                _list(bucket, name)  # tells a missing bucket from a missing object
                raise StorageError(f"{uri} does not exist; correct the address")
            bring(blob, path)
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


def stage(folder: Path, uri: str) -> Staged:
    """Upload the files of a folder to `gs://bucket/prefix`, save those that are there with the same bytes.

    What an upload that was broken off has left there is completed. What a killed process has left aside is no file of
    the folder.

    Raises:
        StorageError: the folder holds no files, the bucket does not exist or cannot be written, another process writes
            other bytes there, or what arrived is not what was read.
    """
    bucket, prefix = split(uri)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not is_aside(path.relative_to(folder)))
    if not paths:
        raise StorageError(f"{folder} holds no files, so there is nothing to send to {uri}; give the folder of a model")
    objects, sent = {}, 0
    with explained(f"write {uri}", StorageError):
        there = {blob.name: blob for blob in _list(bucket, prefix)}
        for path in paths:
            content = Content.of(path)
            name = prefix + path.relative_to(folder).as_posix()
            blob = there.get(name) or bucket.blob(name)
            if name not in there or Content.of(blob) != content:
                # Only the version that was looked at is replaced: 0 says that none may be there.
                generation = blob.generation if name in there else 0
                blob = bucket.blob(name, chunk_size=CHUNK)
                if not send(blob, path, content, generation):
                    raise StorageError(
                        f"{address(blob)} is written by another process too, with other bytes; "
                        "run again when that has ended"
                    )
                sent += 1
            objects[name] = content, blob.generation
    return Staged(uri, objects, sent)


def check_staged(staged: Staged) -> None:
    """See that a folder in Cloud Storage holds what was staged there, as it was then, and nothing else.

    Raises:
        StorageError: a file is missing or has been replaced, or there is one that was not staged.
    """
    bucket, prefix = split(staged.uri)
    with explained(f"read {staged.uri}", StorageError):
        found = {blob.name: (Content.of(blob), blob.generation) for blob in _files(_list(bucket, prefix))}
    for name, as_sent in staged.objects.items():
        if found.get(name) != as_sent:
            now = "replaced" if name in found else "deleted"
            raise StorageError(
                f"gs://{bucket.name}/{name} was {now} since it was staged, so nothing is registered; run again when "
                "whoever writes there has ended"
            )
    if strange := sorted(found.keys() - staged.objects.keys()):
        raise StorageError(
            f"gs://{bucket.name}/{strange[0]} was not staged with the others: nothing else belongs into a folder that "
            "is named by what it holds, as the model would be served with it; remove it and run again"
        )


def count_files(uri: str) -> int:
    """How many files lie in the folder `gs://bucket/prefix`.

    Raises:
        StorageError: the bucket does not exist or cannot be read.
    """
    bucket, prefix = split(uri)
    with explained(f"read {uri}", StorageError):
        return len(_files(_list(bucket, prefix)))


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
            return read(bucket.blob(name)).decode()
        except exceptions.NotFound:
            _list(bucket, name)  # tells a missing bucket from a missing object
            return None


def write_text(uri: str, text: str) -> None:
    """Write an object, in place of the one that is there, if any.

    Raises:
        StorageError: the bucket does not exist or cannot be written, or another process writes there too.
    """
    bucket, name = split(uri, folder=False)
    content = text.encode()
    with explained(f"write {uri}", StorageError):
        there = bucket.get_blob(name, retry=again)
        if not send(bucket.blob(name), content, Content.of(content), there.generation if there else 0):
            raise StorageError(f"{uri} is written by another process too; see which run it is of, and run one alone")


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
        return list(bucket.list_blobs(prefix=prefix, delimiter=delimiter, retry=again))
    except exceptions.NotFound:
        raise StorageError(
            f"the bucket gs://{bucket.name} does not exist; create it in the region of the endpoint: "
            f"gcloud storage buckets create gs://{bucket.name} --location=REGION"
        ) from None


def _files(blobs: Iterable[storage.Blob]) -> list[storage.Blob]:
    """Without the objects whose names end in a slash, which are folders that the console made."""
    return [blob for blob in blobs if not blob.name.endswith("/")]
