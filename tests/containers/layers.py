"""What an image is made of: its history, its environment, and every file, also those that a later layer removes."""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from docker import DockerClient


@dataclass(frozen=True)
class Saved:
    """An image as `docker save` writes it."""

    config: dict[str, Any]
    _layers: tuple[str, ...]
    _archive: tarfile.TarFile

    def files(self) -> Iterator[tuple[str, IO[bytes]]]:
        """Path and content of each file, layer by layer; a content is to be read before the next is asked for."""
        for name in self._layers:
            layer = self._archive.extractfile(name)
            assert layer
            with tarfile.open(fileobj=layer, mode="r|*", bufsize=1 << 20) as files:
                for member in files:
                    content = files.extractfile(member) if member.isfile() else None
                    if content:
                        yield member.name, content

    @property
    def told(self) -> str:
        """What the image tells of itself: its environment and labels, and the commands that made it."""
        return json.dumps(self.config)


@contextmanager
def saved(docker: DockerClient, image: str) -> Iterator[Saved]:
    """An image and its layers."""
    with tempfile.TemporaryFile() as file:
        for chunk in docker.images.get(image).save():
            file.write(chunk)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            [manifest] = _json(archive, "manifest.json")
            yield Saved(_json(archive, manifest["Config"]), tuple(manifest["Layers"]), archive)


def _json(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    assert file
    return json.load(file)
