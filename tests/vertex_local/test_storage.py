"""The Cloud Storage that the emulator starts is kept running, whatever goes wrong on the way."""

import asyncio
from pathlib import Path

import pytest

from containers.vertex_local import storage, unfinished

from .conftest import free_ports, until

pytestmark = pytest.mark.slow


def test_a_start_that_fails_in_any_way_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    async def complete(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyError("generation")

    async def scenario() -> None:
        async with storage.alone(tmp_path) as lock:
            server = storage._Server(tmp_path, free_ports(), lock)
            await server.start()
            monkeypatch.setattr(unfinished, "complete", complete)
            keeper = asyncio.create_task(server.keep())
            assert server._process
            await server._process.stop()
            await asyncio.to_thread(until, lambda: len(calls) == 2, 10)
            assert not keeper.done()
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await server.stop()

    asyncio.run(scenario())
