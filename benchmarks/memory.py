"""How the memory of a server grows with the requests that it has answered."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.bodies import Request, encoded
from benchmarks.load import connect
from benchmarks.models import Model, tiles
from benchmarks.server import Server
from components.earthengine.payloads import CODECS

_BODIES = 120
_CLIENTS = 4
FIRST, ALL = 500, 10_000


def growth(server: Server, model: Model) -> float:
    """Resident memory after 10,000 requests of all formats and many sizes, times that after 500.

    Raises:
        CallError: a request failed.
    """
    choose = random.Random(0)  # noqa: S311
    requests = _requests(model, choose)
    order = [choose.choice(requests) for _ in range(ALL)]
    with ThreadPoolExecutor(_CLIENTS) as threads:
        mine = threading.local()

        def send(request: Request) -> None:
            connections = mine.__dict__.setdefault("connections", {})
            if request.transport not in connections:
                connections[request.transport] = connect(request.transport, server.ports[request.transport])
            connections[request.transport].call(request.body)

        def resident_after(part: Sequence[Request]) -> int:
            for _ in threads.map(send, part):
                pass
            return server.resident_bytes()

        first = resident_after(order[:FIRST])
        return resident_after(order[FIRST:]) / first


def _requests(model: Model, choose: random.Random) -> list[Request]:
    """Requests of all formats: one in ten as large as Earth Engine's, the others small, to be quick."""
    formats = [codec.format for codec in CODECS.values()]
    found = []
    for number in range(_BODIES):
        size, most = (choose.choice([64, 96, 128]), 4) if number % 10 == 0 else (choose.randint(1, 32), 8)
        batch = tiles(model.contract, choose.randint(1, most), size, number)
        found.append(encoded(formats[number % len(formats)], model.contract, batch))
    return found
