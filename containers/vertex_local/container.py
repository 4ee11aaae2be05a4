"""Runs a container to its end, and removes it: ``python -m containers.vertex_local.container OPTIONS IMAGE WORD...``.

OPTIONS is a JSON object of what the Docker SDK's ``containers.create`` takes beside the image and the words of its
command. What the container writes goes to stdout, and the exit status is its own.

The Docker daemon has started the container, so it would outlive whoever asked for it. This program removes it,
whichever way it ends itself; only SIGKILL it cannot heed, and the guard sends that last.
"""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Never

import docker
from docker.errors import DockerException, ImageNotFound
from docker.models.containers import Container

from .daemon import text_of
from .logs import OF_CONTAINER

# The container's time to end by itself when this program is asked to end; Docker counts whole seconds.
_GRACE_S = 1
# As of `docker run` where there was no container to run.
_NOT_RUN = 125
# For an answer of a daemon that has much to do; a container may run, and be silent, as long as it likes.
_ANSWER_S = 600
# The kernel may tell a moment after the end that it was for want of memory.
_MOMENT_S, _POLL_S = 1, 0.1
_KILLED = 128 + signal.SIGKILL
_SIGNALS = {128 + number: number.name for number in signal.Signals}
# What the SDK raises: its own errors, and those of the connection.
_FAULTS = (DockerException, OSError)


def command(options: Mapping[str, Any], image: str, words: Sequence[str]) -> list[str]:
    """The command line of this program."""
    return [sys.executable, "-m", "containers.vertex_local.container", json.dumps(options), image, *words]


def main(options: Mapping[str, Any], image: str, words: Sequence[str]) -> int:
    """Runs the container to its end; the exit status is its own, or 125 where there was none to run."""
    signal.signal(signal.SIGTERM, _exit)
    try:
        with contextlib.closing(docker.from_env(timeout=_ANSWER_S)) as client:
            _bring(client, image)
            with _created(client, options, image, words) as container:
                return _run(container)
    except _FAULTS as fault:
        _say(f"cannot run: {text_of(fault)}")
        return _NOT_RUN


def _bring(client: docker.DockerClient, image: str) -> None:
    """Pulls an image that is not on this machine."""
    try:
        client.images.get(image)
    except ImageNotFound:
        try:
            client.images.pull(image)
        except _FAULTS as fault:
            raise DockerException(
                f"image {image} is not on this machine and cannot be pulled ({text_of(fault)}):"
                " build it with make images, or docker pull it"
            ) from fault


@contextlib.contextmanager
def _created(
    client: docker.DockerClient, options: Mapping[str, Any], image: str, words: Sequence[str]
) -> Iterator[Container]:
    """A container, removed in the end together with its volumes."""
    # Else a signal could come when Docker has made the container and this program does not know of it yet.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    container = client.containers.create(image, list(words) or None, **options)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        yield container
    except SystemExit:
        with contextlib.suppress(*_FAULTS):
            container.stop(timeout=_GRACE_S)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(*_FAULTS):
            container.remove(v=True, force=True)


def _run(container: Container) -> int:
    """Copies the container's output to stdout; its exit status when it has ended."""
    output = container.attach(stream=True)
    container.start()
    chunk = b""
    for chunk in output:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    status: int = container.wait()["StatusCode"]
    told = _cause(container, status) if status else ""
    if status and not (told or chunk):
        told = f"ended with exit status {status} and wrote nothing"
    if told:
        _say(told, chunk)
    return status


def _cause(container: Container, status: int) -> str:
    """What has ended a container that failed, where it was not its own program."""
    if _ran_out_of_memory(container, status):
        limit = container.attrs["HostConfig"]["Memory"]
        return "ran out of memory" + (f": its limit is {limit / 2**20:.0f} MiB" if limit else " of this machine")
    return f"was ended by {_SIGNALS[status]}" if status in _SIGNALS else ""


def _ran_out_of_memory(container: Container, status: int) -> bool:
    deadline = time.monotonic() + (_MOMENT_S if status == _KILLED else 0)
    while True:
        container.reload()
        if container.attrs["State"]["OOMKilled"]:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)


def _say(what: str, after: bytes = b"") -> None:
    """Writes a line of what became of the container, whose output ends with ``after``."""
    begin = "\n" if after and not after.endswith(b"\n") else ""
    sys.stdout.write(f"{begin}{OF_CONTAINER}{what}\n")
    sys.stdout.flush()


def _exit(number: int, _: FrameType | None) -> Never:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:]))
