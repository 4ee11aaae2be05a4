"""The images, built as `make images` builds them, and containers of them as strict as a cluster can be."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient
from docker.models.containers import Container

from components import local

ROOT = Path(__file__).parents[2]
# A read-only root, no capability, and no user of the image's choice but its own.
STRICT: dict[str, Any] = {"read_only": True, "tmpfs": {"/tmp": ""}, "cap_drop": ["ALL"], "detach": True}  # noqa: S108
STRICT |= {"security_opt": ["no-new-privileges"]}
# Half an hour is what all of them take on two cores where nothing has been built yet.
BUILD_S = 1800

Run = Callable[..., Container]


@cache
def image_of(name: str) -> str:
    """The image of that name, built if it is not of this tree."""
    make = ["make", name, f"REPOSITORY={local.REPOSITORY}", f"TAG={local.TAG}"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return f"{local.REPOSITORY}/{name}:{local.TAG}"


@pytest.fixture
def run(docker: DockerClient) -> Iterator[Run]:
    """Starts a container of an image; all of them are removed with the test."""
    started: list[Container] = []

    def running(name: str, command: list[str] | None = None, **options: Any) -> Container:
        started.append(docker.containers.run(image_of(name), command, **STRICT | options))
        return started[-1]

    yield running
    for container in started:
        container.remove(force=True, v=True)


def ended(container: Container, seconds: float = 60) -> str:
    """What a container has written, when it has ended well."""
    status = container.wait(timeout=seconds)["StatusCode"]
    said: str = container.logs().decode()
    assert status == 0, said
    return said


def until_healthy(container: Container, seconds: float) -> float:
    """Waits until Docker finds a container healthy; for how long, in seconds."""
    begin = time.monotonic()
    while (state := _state(container))["Health"]["Status"] != "healthy":
        assert state["Running"], container.logs().decode()
        assert time.monotonic() - begin < seconds, (state["Health"], container.logs().decode())
        time.sleep(0.05)
    return time.monotonic() - begin


def _state(container: Container) -> dict[str, Any]:
    container.reload()
    state: dict[str, Any] = container.attrs["State"]
    return state
