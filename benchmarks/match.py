"""Contestants that compute the same batch in turns, so that the machine's mood is the same for all."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from benchmarks.bodies import Request
from benchmarks.load import HTTP_PATH, connect
from benchmarks.models import Model, tiles
from benchmarks.processes import Worker
from benchmarks.quiet import wait_for_quiet
from benchmarks.results import Figure
from components.earthengine.payloads import codec
from components.parity import compare
from components.source import SourceModel

_ROUNDS = 5


class Served(Protocol):
    """A server that can be stopped while others are measured."""

    ports: dict[str, int]
    """By transport."""

    def pause(self) -> None:
        """Stop it."""

    def resume(self) -> None:
        """Let it run again."""


class Match:
    """Contestants on one batch; a context, which ends their processes.

    Args:
        model: what they all compute.
        count: how many tiles the batch has.
        size: their height and width.
        folder: where a folder of this match is made.
        seconds: how long a turn takes.
    """

    def __init__(self, model: Model, count: int, size: int, folder: Path, seconds: float = 1.2) -> None:
        self.title = f"{model.contract.name}, {count} x {size}"
        self.contract = model.contract
        self.tiles = tiles(model.contract, count, size)
        self._expected = SourceModel(model.source, allow_pickle=True).predict(self.tiles)
        self._folder = folder / self.title
        self._seconds = seconds
        self._stack = ExitStack()
        self._contestants: dict[str, tuple[Worker, Served | None]] = {}
        self._speeds: dict[str, list[float]] = {}
        self._errors: dict[str, int] = {}
        self._folder.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_bare(self, model: Path) -> None:
        """Add the bare model (see benchmarks.bare), as `bare`."""
        batch = self._folder / "tiles.npy"
        np.save(batch, self.tiles)
        self._add("bare", "bare", [str(model), str(batch)])

    def add_wrapper(self, model: Path, request: Request) -> None:
        """Add the model with its decoding in the graph (see benchmarks.wrapper), as `wrapper`."""
        self._add("wrapper", "wrapper", [str(model), str(self._body(request))])

    def add_server(
        self, server: Served, request: Request, *, name: str = "", clients: int = 1, path: str = HTTP_PATH
    ) -> None:
        """Add a server under the request's name and the number of clients, once its answer is right."""
        port = server.ports[request.transport]
        server.resume()
        connection = connect(request.transport, port, path)
        answer = codec(request.format).decode_response(self.contract, connection.call(request.body))
        connection.close()
        server.pause()
        name = of_clients(name or request.name, clients)
        if fault := compare(self.contract, self._expected, answer).fault:
            raise ValueError(f"{self.title}, {name}: {fault}")
        arguments = [request.transport, str(port), path, str(self._body(request)), "--clients", str(clients)]
        self._add(name, "load", arguments, server)

    def play(self) -> list[Figure]:
        """Let all work in turns, once to warm up and then in rounds; returns the speed of each."""
        pixels = self.tiles[:, 0].size
        disturbed = 0
        for turn in range(1 + _ROUNDS):
            disturbed += not wait_for_quiet()
            for name, (worker, server) in self._contestants.items():
                for group in (server, worker):
                    if group:
                        group.resume()
                count = worker.measure(self._seconds)
                for group in (server, worker):
                    if group:
                        group.pause()
                self._errors[name] = self._errors.get(name, 0) + count.errors
                if turn:
                    self._speeds.setdefault(name, []).append(count.calls * pixels / count.seconds / 1e6)
        if disturbed:
            print(f"{self.title}: something else kept the cores busy before {disturbed} of {1 + _ROUNDS} rounds")
        return [
            Figure(f"{self.title}: {name}", statistics.median(speeds), "Mpix/s")
            for name, speeds in self._speeds.items()
        ]

    def ratio(self, name: str, other: str) -> float:
        """The median over the rounds of how many times as fast as the other one was."""
        pairs = zip(self._speeds[name], self._speeds[other], strict=True)
        return statistics.median(mine / others for mine, others in pairs)

    def errors(self, name: str) -> int:
        """How many of a contestant's requests failed."""
        return self._errors[name]

    def _add(self, name: str, module: str, arguments: list[str], server: Served | None = None) -> None:
        worker = self._stack.enter_context(Worker(module, arguments, self._folder / "log"))
        worker.pause()
        self._contestants[name] = worker, server

    def _body(self, request: Request) -> Path:
        path = self._folder / f"{request.name}.body"
        path.write_bytes(request.body)
        return path


def of_clients(name: str, clients: int) -> str:
    """The name of a contestant with this many clients."""
    return name if clients == 1 else f"{name}, {clients} clients"
