"""What is wrong with the Docker daemon, in one line with the way out."""

import os
from collections.abc import Iterator

from docker.errors import APIError

_SOCKET = "unix:///var/run/docker.sock"


def text_of(fault: BaseException) -> str:
    """What Docker says, in one line."""
    text = str(fault.explanation) if isinstance(fault, APIError) and fault.explanation else str(fault)
    return " ".join(text.split())


def why_not(fault: BaseException) -> str:
    """Why nothing can be run by the daemon, from what the Docker SDK raises."""
    address = os.environ.get("DOCKER_HOST") or _SOCKET
    if isinstance(fault, APIError):
        return (
            f"--runner docker needs what the Docker daemon at {address} refuses: {text_of(fault)}; see the daemon's log"
        )
    *_, cause = _causes(fault)
    if isinstance(cause, PermissionError):
        return (
            f"--runner docker may not open Docker's socket {address}: be root or of the socket's group; with compose,"
            " DOCKER_GID=$(stat -c %g /var/run/docker.sock) docker compose up"
        )
    return (
        f"--runner docker needs a Docker daemon, and none answers at {address}: {cause};"
        " start the daemon, or point DOCKER_HOST at it"
    )


def _causes(fault: BaseException | None) -> Iterator[BaseException]:
    """A fault, and what it came of; last what came first."""
    while fault:
        yield fault
        fault = fault.__cause__ or fault.__context__
