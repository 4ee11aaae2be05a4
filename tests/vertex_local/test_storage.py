"""The Cloud Storage that the emulator starts is kept running, whatever goes wrong on the way."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from containers.vertex_local import storage, unfinished
from containers.vertex_local.errors import StartError

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


def test_the_server_of_an_emulator_before_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = f"import fcntl, time; f = open({str(tmp_path / 'storage.lock')!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
    before = subprocess.Popen(
        [sys.executable, "-c", f"{hold} print(flush=True); time.sleep(600)"], stdout=subprocess.PIPE
    )

    async def begin() -> None:
        async with storage.alone(tmp_path):
            pass

    async def scenario() -> None:
        beginning = asyncio.create_task(begin())
        await asyncio.sleep(0.5)
        assert not beginning.done()
        before.kill()
        await beginning

    try:
        assert before.stdout
        before.stdout.readline()
        with monkeypatch.context() as patch:
            patch.setattr(storage, "_GONE_S", 0.1)
            with pytest.raises(StartError, match=f"before still runs over {tmp_path / 'storage'}: end it"):
                asyncio.run(begin())
        asyncio.run(scenario())
    finally:
        before.kill()
        before.communicate()
