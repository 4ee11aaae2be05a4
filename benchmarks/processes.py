"""Processes that take part in a measurement, each with its children in a session of its own.

While one is measured the others are stopped (SIGSTOP): the threads of OpenMP and ONNX Runtime spin on
after their work, and a JVM collects garbage.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

_START_S = 120
_END_S = 20


class Group:
    """A running command and all that it started; as a context, ended on leaving.

    Args:
        command: the command and its arguments.
        log: the file that what it prints is added to.
        environment: variables beside this process's own.
        folder: the folder that it runs in.
        piped: its standard input and output are pipes to this process; only its errors are logged.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        piped: bool = False,
    ) -> None:
        self._command = command
        self._log = log
        with log.open("ab") as opened:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else opened,
                stderr=opened,
                text=True,
                env={**os.environ, **(environment or {})},
                cwd=folder,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def pause(self) -> None:
        """Stop it until `resume`; it must be idle."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def resident_bytes(self) -> int:
        """Memory of all its processes that is in use now."""
        return sum(_resident_bytes(member) for member in self._members())

    def wait_until(self, ready: Callable[[], bool], every_s: float) -> None:
        """Wait until it is ready.

        Raises:
            RuntimeError: it ended before, or was not ready in time; the text has the end of its log.
        """
        end = time.monotonic() + _START_S
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(self.complaint("it did not become ready"))
            time.sleep(every_s)

    def complaint(self, what: str) -> str:
        """What is wrong with it, with the end of its log."""
        return f"{' '.join(self._command)}: {what}\n{self._log.read_text(errors='replace')[-3000:]}"

    def end(self) -> None:
        """End it and all that it started."""
        self.resume()
        os.killpg(self.process.pid, signal.SIGTERM)
        end = time.monotonic() + _END_S
        while self._members() and time.monotonic() < end:
            self.process.poll()
            time.sleep(0.05)
        if self._members():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def _members(self) -> list[int]:
        """Its processes that are not over."""
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and self._has(entry)]

    def _has(self, entry: Path) -> bool:
        try:
            # After the name, which stands in brackets: state, parent, group (proc_pid_stat(5)).
            state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return int(group) == self.process.pid and state != "Z"


def _resident_bytes(process: int) -> int:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024


@dataclass(frozen=True)
class Count:
    """Calls of one turn: how many were answered, how many failed, and the seconds that they took."""

    calls: int
    errors: int
    seconds: float


class Worker(Group):
    """A program of this package that measures when it is told to: see `take_turns`."""

    def __init__(self, module: str, arguments: Sequence[str], log: Path) -> None:
        super().__init__([sys.executable, "-m", f"benchmarks.{module}", *arguments], log, piped=True)
        self._exchange("")

    def measure(self, seconds: float) -> Count:
        """Make it work for about so many seconds."""
        return Count(**json.loads(self._exchange(f"{seconds}\n")))

    def _exchange(self, line: str) -> str:
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError(self.complaint("it has no pipes"))
        self.process.stdin.write(line)
        self.process.stdin.flush()
        if answer := self.process.stdout.readline():
            return answer
        raise RuntimeError(self.complaint("it ended"))


def take_turns(work: Callable[[float], Count]) -> None:
    """The other end of `Worker`: says that it is ready, then works for each number of seconds it reads."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(work(float(line)))), flush=True)


def repeated(call: Callable[[], object]) -> Callable[[float], Count]:
    """Work for `take_turns`: one call after the other until the time is over."""

    def work(seconds: float) -> Count:
        begin = time.perf_counter()
        calls = 0
        while time.perf_counter() < begin + seconds:
            call()
            calls += 1
        return Count(calls, 0, time.perf_counter() - begin)

    return work
