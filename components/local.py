"""Starts the local Vertex AI for a rehearsal, and stops it again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
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
    port, storage_port, grpc_port = _free_ports()
    # The guard ends it when this process is gone, however it went.
    command = [sys.executable, "-m", "containers.vertex_local.guard"]
    command += [sys.executable, "-m", "containers.vertex_local", "--state", str(state)]
    command += ["--port", str(port), "--storage-port", str(storage_port), "--grpc-port", str(grpc_port)]
    outside = {name: os.environ.pop(name, None) for name in (EMULATOR, "STORAGE_EMULATOR_HOST")}
    environment = {**os.environ, "GOOGLE_CLOUD_PROJECT": PROJECT}
    state.mkdir(parents=True, exist_ok=True)
    log = state / "stderr.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
    try:
        if not process.stdout or not process.stdout.readline():  # it prints a line as soon as it answers
            raise LocalError(f"the local Vertex AI did not start: {log.read_text().strip()}")
        os.environ[EMULATOR] = f"127.0.0.1:{port}"
        os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{storage_port}"
        yield
    finally:
        for name, value in outside.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _stop(process)


def logs_of(state: Path, job: str) -> Path:
    """The folder of a job's logs, one a step, in the state of a local Vertex AI."""
    _, project, _, location, _, job_id = job.split("/")
    return state / "jobs" / project / location / job_id


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.communicate(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _free_ports() -> tuple[int, ...]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return tuple(one.getsockname()[1] for one in sockets)
