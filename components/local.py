"""The local Vertex AI for a rehearsal: one that is started and stopped again, or one that runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal

from components.earthengine.errors import LocalError
from components.vertex import EMULATOR
from containers import guard
from containers.ports import free_ports

PROJECT, LOCATION = "local", "us-central1"
BUCKET = "local"  # is there from the start
REPOSITORY, TAG = "local", "rehearsal"  # of the images that `make images` builds
Runner = Literal["process", "docker"]
_STORAGE = "STORAGE_EMULATOR_HOST"
_ANSWER_SECONDS = 10
_STOP_SECONDS = 20


@contextmanager
def local_vertex(state: Path, runner: Runner = "process") -> Iterator[None]:
    """A local Vertex AI and Cloud Storage for the block, which the environment then points at.

    Args:
        state: folder for its state and logs.
        runner: whether models and steps are processes, or containers of their images.

    Raises:
        LocalError: it does not start.
    """
    port, storage_port, grpc_port = free_ports(3)
    # The guard ends it when this process is gone, however it went.
    command = guard.command([sys.executable, "-m", "containers.vertex_local", "--state", str(state)])
    command += ["--port", str(port), "--storage-port", str(storage_port), "--grpc-port", str(grpc_port)]
    command += ["--runner", runner]
    outside = {name: os.environ.pop(name, None) for name in (EMULATOR, _STORAGE)}
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
        os.environ[_STORAGE] = f"http://127.0.0.1:{storage_port}"
        yield
    finally:
        for name, value in outside.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _stop(process)


def check_running() -> None:
    """See that the environment names a local Vertex AI that answers.

    Raises:
        LocalError: it does not.
    """
    import requests

    asked = {
        EMULATOR: f"v1/projects/{PROJECT}/locations/{LOCATION}/models",
        _STORAGE: f"storage/v1/b/{BUCKET}",  # one of another project has a bucket of another name
    }
    for name, path in asked.items():
        if not os.environ.get(name):
            raise LocalError(
                f"{name} is not set, and --running takes the local Vertex AI that it names; export what that one "
                "printed when it started, or leave --running out"
            )
        address = os.environ[name].removeprefix("http://").rstrip("/")
        try:
            requests.get(f"http://{address}/{path}", timeout=_ANSWER_SECONDS).raise_for_status()
        except requests.RequestException as error:
            raise LocalError(
                f"{name} is {os.environ[name]}, where no local Vertex AI of project {PROJECT} answers ({error}); "
                "start it without GOOGLE_CLOUD_PROJECT, or leave --running out"
            ) from error


def check_images(images: Iterable[str]) -> None:
    """See that Docker has all these images.

    Raises:
        LocalError: it lacks some, does not answer, or may not be asked.
    """
    import docker
    from docker.errors import DockerException, ImageNotFound

    from containers.vertex_local import daemon

    missing = []
    try:
        with closing(docker.from_env()) as client:
            for image in images:
                try:
                    client.images.get(image)
                except ImageNotFound:
                    missing.append(image)
    except (DockerException, OSError) as error:
        raise LocalError(daemon.why_not(error)) from error
    if missing:
        raise LocalError(
            f"{', '.join(missing)}: no such image on this machine; build them with make images, docker pull them, or "
            "name others with --repository and --tag"
        )


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
