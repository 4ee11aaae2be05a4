"""What fake-gcs-server leaves behind when it is killed in the middle of a write, and how that is put right.

It writes an object's bytes aside, renames them into place, and writes the object's metadata last: as an extended
attribute of the file, or as a file beside it where the file system has no such attributes (``fs.go`` and
``metadata_*.go`` of its internal/backend, 1.54.0). One file without metadata makes every list of its bucket fail.

Nobody was told that such an upload had ended, but what it replaces is gone. So it is brought to its end: its bytes are
all there.
"""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import aiohttp

_ATTRIBUTE = "user.metadata"
_SUFFIX = ".metadata"
# As renameio, which it writes aside with, names files until they are renamed.
_ASIDE = re.compile(r"\..+[0-9]+")


def files(root: Path) -> list[tuple[str, str, Path]]:
    """Bucket, name and file of every object whose write was broken off; what was written aside is removed.

    No server may be running over ``root``, which has a folder for each bucket. Python can read a file's attributes on
    Linux alone: elsewhere nothing is found.
    """
    if sys.platform != "linux":
        return []
    with_attributes = _has_attributes(root)
    found = []
    for folder, _, names in os.walk(root):
        for path in (Path(folder, name) for name in names):
            bucket, _, name = path.relative_to(root).as_posix().partition("/")
            if name and _is_whole(path, with_attributes):
                continue
            if _ASIDE.fullmatch(path.name):
                path.unlink()
            elif name:  # else it is a bucket's own metadata, which is written in one step
                found.append((bucket, name, path))
    return found


async def complete(found: Sequence[tuple[str, str, Path]], client: aiohttp.ClientSession, url: str) -> None:
    """Uploads such objects to the server at ``url`` as they lie in its folder, which gives them their metadata.

    What a client has written or deleted by then stays as it is.
    """
    for bucket, name, path in found:
        parameters = {"uploadType": "media", "name": name}
        async with client.get(f"{url}/storage/v1/b/{bucket}/o/{quote(name, safe='')}") as answer:
            parameters["ifGenerationMatch"] = (await answer.json())["generation"] if answer.ok else "0"
        with contextlib.suppress(FileNotFoundError), path.open("rb") as content:  # only now: it is of that generation
            place = f"{url}/upload/storage/v1/b/{bucket}/o"
            headers = {"content-type": "application/octet-stream"}
            async with client.post(place, params=parameters, data=content, headers=headers) as answer:
                if answer.status != HTTPStatus.PRECONDITION_FAILED:
                    answer.raise_for_status()


def _has_attributes(root: Path) -> bool:
    """Whether the server keeps metadata in attributes; it asks for the root's likewise."""
    try:
        os.getxattr(root, _ATTRIBUTE)
    except OSError as fault:
        return fault.errno == errno.ENODATA
    return True


def _is_whole(path: Path, with_attributes: bool) -> bool:
    if with_attributes:
        return _ATTRIBUTE in os.listxattr(path)
    if path.name.endswith(_SUFFIX):
        return True
    metadata = path.with_name(path.name + _SUFFIX)
    # Metadata older than the bytes are those of what was replaced.
    return metadata.exists() and metadata.stat().st_mtime_ns >= path.stat().st_mtime_ns
