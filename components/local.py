"""Starts the local Vertex AI for a rehearsal, and stops it again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.earthengine.errors import LocalError
from components.vertex import EMULATOR

PROJECT, LOCATION = "local", "us-central1"
BUCKET = "local"  # is there from the start
REPOSITORY, TAG = "local", "rehearsal"  # images by whose names the local Vertex AI knows what to start
_STOP_SECONDS = 20


@contextmanager
def local_vertex(state: Path) -> Iterator[None]:
    """A local Vertex AI and Cloud Storage for the block, which the environment then points at.

    Args:
        state: folder for its state and logs.

    Raises:
        LocalError: it does not start.
    """
    port, storage_port = _free_ports()
    command = [sys.executable, "-m", "containers.vertex_local", "--state", str(state)]
    command += ["--port", str(port), "--storage-port", str(storage_port)]
    outside = {name: os.environ.pop(name, None) for name in (EMULATOR, "STORAGE_EMULATOR_HOST")}
    environment = {**os.environ, "GOOGLE_CLOUD_PROJECT": PROJECT}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    try:
        _wait_until_it_answers(process)
        os.environ[EMULATOR] = f"127.0.0.1:{port}"
        os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{storage_port}"
        yield
    finally:
        for name, value in outside.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        process.terminate()
        try:
            process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _wait_until_it_answers(process: subprocess.Popen[str]) -> None:
    """It prints a line as soon as it answers, and on stderr why it ends."""
    assert process.stdout is not None  # noqa: S101 -- asked for above
    if not process.stdout.readline():
        raise LocalError(f"the local Vertex AI did not start: {process.communicate()[1].strip()}")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
