"""Pushes images and keeps their digests: ``python -m containers.push FILE IMAGE...``.

FILE gets a JSON object from each image's name to the digest that the registry answered with, by which templates name
images whose tags may move. Who may push is known to Docker: `gcloud auth configure-docker` tells it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException
from rich.console import Console
from rich.progress import Progress
from urllib3.exceptions import HTTPError

from components.disk import telling_of_disk
from components.earthengine.errors import DiskError
from components.whole import write_text

# The last line of a push, of every version of Docker.
_DIGEST = re.compile(r": digest: (sha256:[0-9a-f]{64}) size: ")
# A registry that takes a layer of gigabytes is silent for minutes.
_ANSWER_S = 600


class PushError(Exception):
    """An image was not pushed."""


def main() -> int:
    """Pushes the images one after another; 1, and no FILE, where one could not be."""
    parser = argparse.ArgumentParser(prog="python -m containers.push", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="for the digests, in JSON")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="REPOSITORY/NAME:TAG, on this machine")
    arguments = parser.parse_args()
    # Digests of what was pushed before must not be taken for these.
    try:
        with telling_of_disk(arguments.file):
            arguments.file.unlink(missing_ok=True)
        with closing(docker.from_env(timeout=_ANSWER_S)) as client, Progress(console=Console(stderr=True)) as progress:
            digests = {_name_of(image): push(client, image, progress) for image in arguments.images}
        write_text(arguments.file, json.dumps(digests, indent=2) + "\n")
    except (PushError, DiskError) as error:
        return _refused(str(error))
    except (DockerException, RequestException, HTTPError) as error:
        return _refused(f"Docker does not answer: {error}; start it, or set DOCKER_HOST")
    print(arguments.file)  # noqa: T201
    return 0


def _refused(text: str) -> int:
    print(f"push: error: {text}", file=sys.stderr)  # noqa: T201
    return 1


def push(client: docker.DockerClient, image: str, progress: Progress) -> str:
    """Pushes one image; returns its digest, sha256:...

    Raises:
        PushError: it is not on this machine, or the registry does not take it.
    """
    repository, _, tag = image.rpartition(":")
    task = progress.add_task(_name_of(image), total=None)
    layers: dict[str, tuple[int, int]] = {}
    digest = ""
    for said in client.images.push(repository, tag, stream=True, decode=True):
        if fault := said.get("error"):
            raise PushError(
                f"{image} cannot be pushed: {fault}; build it with `make images`, and let Docker in, as with"
                " `gcloud auth configure-docker HOST`"
            )
        if detail := said.get("progressDetail"):
            layers[said["id"]] = (detail.get("current", 0), detail.get("total", 0))
            progress.update(task, **_sums(layers))
        if found := _DIGEST.search(said.get("status", "")):
            digest = found[1]
    if not digest:
        raise PushError(f"{image} was pushed, and Docker does not tell its digest; push it with another Docker")
    progress.update(task, total=1, completed=1)
    return digest


def _sums(layers: dict[str, tuple[int, int]]) -> dict[str, Any]:
    return {"completed": sum(done for done, _ in layers.values()), "total": sum(all_ for _, all_ in layers.values())}


def _name_of(image: str) -> str:
    return image.rpartition("/")[2].partition(":")[0]


if __name__ == "__main__":
    sys.exit(main())
