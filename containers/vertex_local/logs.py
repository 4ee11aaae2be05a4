"""The end of a program's log, which says why the program ended."""

import re
from pathlib import Path

OF_CONTAINER = "the container "
"""How the last line of a container's log begins where it tells why the container ended, or did not run."""


def last_lines(log: Path, count: int = 12) -> str:
    """The end of a log file, without blank lines."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64 * 1024))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in lines if line.strip()][-count:])


_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?::\s|$)")


def reason(log: Path) -> str:
    """Why a program ended, from its log: what became of its container, its last traceback's exception, or its end."""
    text = last_lines(log, 400)
    last = text.rpartition("\n")[2]
    if last.startswith(OF_CONTAINER):
        return last
    _, found, trace = text.rpartition(_TRACEBACK)
    if found:
        lines = trace.splitlines()
        for number, line in enumerate(lines):
            if _EXCEPTION.match(line):
                return "\n".join(lines[number : number + 12])
    return "\n".join(text.splitlines()[-5:])
