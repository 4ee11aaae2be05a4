"""Child processes of the emulator: each in a group of its own, none of which outlives it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from containers import guard

# A container is asked to end, and then removed, within this time.
_GRACE_S = 5.0
# The kernel takes a moment to end what SIGKILL has hit; a dead process that nobody reaps must not hold up the rest.
_KILLED_S, _POLL_S = 2.0, 0.01
# A worker's event is one line; an artifact's metadata may be longer than the default limit, 64 KiB.
_LINE_LIMIT = 16 * 1024 * 1024


class Process:
    """A command with everything that it starts."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self.log = log

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        *,
        pipe_stdout: bool = False,
        append: bool = False,
        holds: Sequence[int] = (),
    ) -> "Process":
        """Starts a command with stdout and stderr in ``log``, or with stdout as a pipe to read from.

        The files ``holds``, by their descriptors, stay open in it: a lock is held for as long as it lives.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab" if append else "wb") as output:
            starting = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    *guard.command(command),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE if pipe_stdout else output,
                    stderr=output,
                    env={**os.environ, **environment},
                    start_new_session=True,
                    limit=_LINE_LIMIT,
                    pass_fds=holds,
                )
            )
            try:
                process = await asyncio.shield(starting)
            except asyncio.CancelledError:
                # asyncio itself would kill the guard alone, and leave what that has started.
                await cls(await starting, log).stop()
                raise
        return cls(process, log)

    @property
    def stdout(self) -> asyncio.StreamReader:
        assert self._process.stdout is not None, "started without pipe_stdout"  # noqa: S101
        return self._process.stdout

    @property
    def exit_status(self) -> int | None:
        return self._process.returncode

    async def wait(self) -> int:
        return await self._process.wait()

    async def stop(self, grace_s: float = _GRACE_S) -> None:
        """Asks the group to end, and kills what is left of it after ``grace_s`` seconds; nothing of it is left then."""
        if self.exit_status is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_s)
        deadline = time.monotonic() + _KILLED_S
        while self._signal(signal.SIGKILL) and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> bool:
        """Sends a signal to the group; whether there was anything to send it to."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True
