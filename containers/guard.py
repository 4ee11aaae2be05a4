"""Runs a command that ends when its parent does: start what ``command`` gives, in a session of its own, stdin a pipe.

Who starts it, the emulator or a step that serves a model, holds the other end of the pipe and never writes. When that
process is gone, however it went, the pipe closes and the guard ends its process group: the command and everything that
the command has started.
They are asked first: what runs in a container ends only if its program removes the container.
A pipe does what PR_SET_PDEATHSIG does, for grandchildren as well, and not on Linux only.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

_GRACE_S = 5.0


def command(words: Sequence[str]) -> list[str]:
    """The command line that runs ``words`` under a guard."""
    return [sys.executable, "-I", "-S", __file__, *words]


def main(words: list[str]) -> int:
    """Runs a command to its end; the exit status is the command's, 128 + N when signal N ended it."""
    child = os.fork()
    if child == 0:
        _become(words)
    # SIGTERM goes to the whole group: it is for the command, whose exit status the guard waits for. Only now: what is
    # ignored before the fork the command would ignore as well.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orphaned = threading.Event()
    threading.Thread(target=_end_group_when_parent_is_gone, args=[orphaned], daemon=True).start()
    _, status = os.waitpid(child, 0)
    os.killpg(0, signal.SIGTERM)  # whatever the command has left behind; the guard itself ignores it
    if orphaned.is_set():
        os.killpg(0, signal.SIGKILL)  # else the emulator does
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(words: list[str]) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    try:
        os.execvp(words[0], words)  # noqa: S606
    except OSError as fault:
        os.write(2, f"{words[0]}: {fault.strerror}\n".encode())
        os._exit(127)


def _end_group_when_parent_is_gone(orphaned: threading.Event) -> None:
    while os.read(0, 1):
        pass
    orphaned.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(_GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
