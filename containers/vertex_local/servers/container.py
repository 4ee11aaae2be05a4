"""Runs a container that ends when this does: ``python container.py NAME OPTION... IMAGE ARGUMENT...``.

A killed `docker run` leaves its container running, which the Docker daemon has started. This program removes it,
whichever way it ends itself; only SIGKILL it cannot heed, and the guard sends that last.
"""

import contextlib
import signal
import subprocess
import sys
from types import FrameType
from typing import Never

# SIGTERM reaches `docker run` too, which passes it on to the server; this is the server's time to end by itself.
_GRACE_S = 1.5


def main(name: str, arguments: list[str]) -> int:
    """Runs the container to its end; the exit status is its own, or docker's 125 where there was none to run."""
    signal.signal(signal.SIGTERM, _exit)
    client = subprocess.Popen(["docker", "run", "--rm", "--name", name, *arguments])  # noqa: S603, S607
    try:
        return client.wait()
    except SystemExit:
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(_GRACE_S)
        raise
    finally:
        client.kill()
        client.wait()
        remove = ["docker", "rm", "--force", name]
        subprocess.run(remove, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)  # noqa: S603


def _exit(number: int, _: FrameType | None) -> Never:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
