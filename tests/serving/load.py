"""Clients that send requests to a server on this machine and check every answer, in a process of their own.

    python -m tests.serving.load FOLDER HTTP_PORT GRPC_PORT CLIENTS SECONDS RATE

Half of them use HTTP, half gRPC. With a rate, of requests a second of all of them together, each client sends at
random moments of its own, whether its last requests are answered or not; with 0, as soon as it has its answer.
FOLDER is of `write_cases`. Prints a line for each request, as `Sent`.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np

from components.earthengine.contract import FILE_NAME, ModelContract, PayloadFormat
from components.earthengine.payloads import Outputs, Tiles, codec
from components.earthengine.payloads.predict_messages import GRPC_METHOD

_HTTP: PayloadFormat = "SERIALIZED_TF_TENSORS"
_GRPC: PayloadFormat = "GRPC_TF_TENSORS"
_TIMEOUT_S = 60
# Of what runs one and the same graph; another request's answer is further away (see `write_cases`).
_TOLERANCE = 1e-5

Call = Callable[[bytes], Awaitable[tuple[str, bytes]]]


@dataclass(frozen=True)
class Sent:
    """A request.

    Attributes:
        transport: http or grpc.
        at: when it was sent, on time.monotonic's clock.
        seconds: until its answer was there.
        outcome: right, wrong, the status of a refusal (429 or RESOURCE_EXHAUSTED), or what went wrong.
    """

    transport: str
    at: float
    seconds: float
    outcome: str

    @property
    def right(self) -> bool:
        return self.outcome == "right"

    @property
    def refused(self) -> bool:
        return self.outcome in {"429", "RESOURCE_EXHAUSTED"}

    @property
    def failed(self) -> bool:
        return not (self.right or self.refused)


def write_cases(
    folder: Path, contract: ModelContract, batches: Sequence[Tiles], predict: Callable[[Tiles], Outputs]
) -> None:
    """Write batches of tiles to be sent, each with its own answer."""
    folder.mkdir()
    (folder / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
    answers = [predict(tiles) for tiles in batches]
    for number, (tiles, answer) in enumerate(zip(batches, answers, strict=True)):
        for other in answers[:number]:
            far = [not np.allclose(answer[name], other[name], 0, 100 * _TOLERANCE) for name in answer]
            assert all(far), "an answer that is given to another request would not be noticed"
        named: dict[str, Any] = {f"answer_{name}": array for name, array in answer.items()}
        np.savez(folder / f"{number}.npz", tiles=tiles, **named)


@contextmanager
def clients(
    folder: Path, ports: tuple[int, int], number: int, seconds: float, rate: float = 0
) -> Iterator[Callable[[], list[Sent]]]:
    """Clients at work meanwhile; what is yielded waits for their end, and has what they sent."""
    words = [sys.executable, "-m", "tests.serving.load", str(folder), *map(str, ports), str(number), str(seconds)]
    with subprocess.Popen([*words, str(rate)], stdout=subprocess.PIPE, text=True) as process:

        def sent() -> list[Sent]:
            printed, _ = process.communicate()
            assert process.returncode == 0
            return [Sent(**json.loads(line)) for line in printed.splitlines()]

        try:
            yield sent
        finally:
            process.kill()


class _Client:
    """One client: a transport, connections of its own, and the requests that it chooses from."""

    def __init__(self, transport: str, call: Call, folder: Path, choose: random.Random) -> None:
        self.sent: list[Sent] = []
        self._transport = transport
        self._call = call
        self._choose = choose
        self._contract = ModelContract.read(folder)
        self._codec = codec(_GRPC if transport == "grpc" else _HTTP)
        self._cases: list[tuple[bytes, Outputs]] = []
        for path in sorted(folder.glob("*.npz")):
            with np.load(path) as case:
                answer = {name.removeprefix("answer_"): case[name] for name in case.files if name != "tiles"}
                self._cases.append((self._codec.encode_request(self._contract, case["tiles"]), answer))

    async def send_in_turn(self, end: float) -> None:
        """Send until then, a request as soon as the last one is answered."""
        while time.monotonic() < end:
            await self._send()

    async def send_at_random(self, rate: float, end: float) -> None:
        """Send so many requests a second until then, whenever they are answered."""
        async with asyncio.TaskGroup() as group:
            due = time.monotonic() + self._choose.expovariate(rate)
            while due < end:
                await asyncio.sleep(due - time.monotonic())
                group.create_task(self._send())
                due += self._choose.expovariate(rate)

    async def _send(self) -> None:
        body, expected = self._choose.choice(self._cases)
        at = time.monotonic()
        status, answer = await self._call(body)
        seconds = time.monotonic() - at
        outcome = self._judged(answer, expected) if status == "OK" else status
        self.sent.append(Sent(self._transport, at, seconds, outcome))

    def _judged(self, body: bytes, expected: Outputs) -> str:
        answer = self._codec.decode_response(self._contract, body)
        same = answer.keys() == expected.keys() and all(
            answer[name].shape == array.shape and np.allclose(answer[name], array, 0, _TOLERANCE)
            for name, array in expected.items()
        )
        return "right" if same else "wrong"


def _over_http(session: aiohttp.ClientSession, port: int) -> Call:
    async def call(body: bytes) -> tuple[str, bytes]:
        try:
            async with session.post(f"http://127.0.0.1:{port}/predict", data=body) as response:
                answer = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"lost: {error!r}", b""
        if response.status in (200, 429):
            return {200: "OK", 429: "429"}[response.status], answer
        return f"{response.status}: {answer.decode()}", b""

    return call


def _over_grpc(channel: grpc.aio.Channel) -> Call:
    predict = channel.unary_unary(GRPC_METHOD, None, None)

    async def call(body: bytes) -> tuple[str, bytes]:
        try:
            return "OK", await predict(body, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            busy = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return error.code().name if busy else f"{error.code().name}: {error.details()}", b""

    return call


async def _work(folder: Path, http_port: int, grpc_port: int, number: int, seconds: float, rate: float) -> None:
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),  # or all channels would share one connection
    ]
    async with AsyncExitStack() as stack:
        members: list[_Client] = []
        for place in range(number):
            choose = random.Random(place)  # noqa: S311
            if place % 2:
                channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}", options)
                call = _over_grpc(await stack.enter_async_context(channel))
            else:
                session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(_TIMEOUT_S)
                )
                call = _over_http(await stack.enter_async_context(session), http_port)
            members.append(_Client("grpc" if place % 2 else "http", call, folder, choose))
        end = time.monotonic() + seconds
        if rate:
            await asyncio.gather(*(member.send_at_random(rate / number, end) for member in members))
        else:
            await asyncio.gather(*(member.send_in_turn(end) for member in members))
    for member in members:
        for sent in member.sent:
            sys.stdout.write(json.dumps(asdict(sent)) + "\n")


if __name__ == "__main__":
    place, http, over_grpc, count, duration, per_second = sys.argv[1:]
    asyncio.run(_work(Path(place), int(http), int(over_grpc), int(count), float(duration), float(per_second)))
