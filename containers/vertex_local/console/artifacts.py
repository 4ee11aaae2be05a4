"""The files of artifacts: where they lie on this machine, and how a page may show them."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# By the end of a file's name. What is not here is for downloading only.
_PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}
_TEXTS = {".md", ".txt", ".log", ".json", ".yaml", ".yml", ".csv"}
_HTML, _TEXT, _UNKNOWN = "text/html", "text/plain", "application/octet-stream"
# kfp gives these no ending: the artifact's type says what is in the file.
_TYPES = {"system.HTML": _HTML, "system.Markdown": _TEXT}
# A folder with more files is shown up to here; a page is not a file manager.
_MOST_FILES = 200
_LONGEST_TEXT = 32 * 1024


@dataclass(frozen=True)
class File:
    """A file of an artifact; its name is relative to a folder, empty where the artifact is the file."""

    path: Path
    name: str
    media_type: str
    size: int

    @property
    def is_picture(self) -> bool:
        return self.media_type.startswith("image/")

    @property
    def is_report(self) -> bool:
        return self.media_type == _HTML

    def text(self) -> str:
        """The beginning of a text file; nothing of another."""
        if self.media_type != _TEXT:
            return ""
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            return file.read(_LONGEST_TEXT).decode(errors="replace")
        return ""  # a step has taken it away


@dataclass(frozen=True)
class Content:
    """What an artifact's URI stands for on this machine: one file, or a folder of them."""

    files: tuple[File, ...]
    is_folder: bool
    more: bool = False

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def file(self, name: str) -> File | None:
        """The file of that name; the name is compared, not opened."""
        return next((file for file in self.files if file.name == name), None)


class Shelf:
    """The two directories that artifacts of pipelines lie in; nothing outside them is read."""

    def __init__(self, pipeline_root: Path, storage: Path) -> None:
        """Takes the directory of steps' outputs, and that of Cloud Storage's buckets."""
        self._storage = storage.resolve()
        self._roots = (pipeline_root.resolve(), self._storage)

    def find(self, artifact: Any) -> Content | None:
        """The files of an aiplatform_v1.Artifact; none where it lies elsewhere or is not there yet."""
        # A step may write links in a circle or names of any length, and takes files away while they are looked at.
        with contextlib.suppress(OSError, RuntimeError):
            return self._find(artifact)
        return None

    def _find(self, artifact: Any) -> Content | None:
        path = self._path(artifact.uri)
        if path is None or not self._is_inside(path):
            return None
        if path.is_file():
            return Content((_file(path, "", artifact.schema_title),), is_folder=False)
        if not path.is_dir():
            return None
        files: list[File] = []
        for member in _members(path):
            if len(files) == _MOST_FILES:
                return Content(tuple(files), is_folder=True, more=True)
            with contextlib.suppress(OSError, RuntimeError):
                if self._is_inside(member) and member.is_file():
                    files.append(_file(member, str(member.relative_to(path)), ""))
        return Content(tuple(files), is_folder=True)

    def _path(self, uri: str) -> Path | None:
        # "\0" is in no path, and raises in every call that takes one.
        if "\0" in uri:
            return None
        if uri.startswith("gs://"):
            # fake-gcs-server keeps an object as the file of its name.
            return self._storage / uri.removeprefix("gs://").strip("/")
        return Path(uri) if uri.startswith("/") else None

    def _is_inside(self, path: Path) -> bool:
        resolved = path.resolve()
        return any(resolved != root and resolved.is_relative_to(root) for root in self._roots)


def _members(folder: Path) -> Iterator[Path]:
    for directory, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(directory, name) for name in sorted(names))


def _file(path: Path, name: str, schema_title: str) -> File:
    ending = path.suffix.lower()
    media_type = _TYPES.get(schema_title) or _PICTURES.get(ending) or (_TEXT if ending in _TEXTS else _UNKNOWN)
    if ending in (".html", ".htm"):
        media_type = _HTML
    return File(path, name, media_type, path.stat().st_size)
