"""The server under more load than it can serve, with workers killed in the middle; every answer is checked.

Clients stand for other machines: they have half of the cores, the server has the others, and neither waits for a core
that the other one uses.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from components.earthengine.contract import ModelContract
from tests.conftest import Figure
from tests.serving.conftest import Server, Start
from tests.serving.load import Sent, clients, write_cases

CLIENTS = 64
# How many at a time find out what the server can do: enough that none of its parts waits for another.
_ENOUGH_CLIENTS = 16
OVERLOAD = 1.5
# What is taken in is bounded, and so is what it takes: the line at its longest, and what malloc keeps of it.
GROWTH = 1.25
_SAMPLE_S = 0.25
_CORES = sorted(os.sched_getaffinity(0))
_HALF = (len(_CORES) + 1) // 2
SERVER_CORES, CLIENTS_CORES = _CORES[:_HALF], _CORES[_HALF:] or _CORES  # one core is both's


@dataclass(frozen=True)
class Run:
    """What was seen of a server under load.

    Attributes:
        best: right answers a second to as many clients as it takes, none refused.
        goodput: right answers a second under too many requests, workers killed.
        sent: under too many requests.
        kills: when a worker was killed, on time.monotonic's clock.
        memory: of server and worker, in bytes, over that time.
    """

    best: float
    goodput: float
    sent: list[Sent]
    kills: list[float]
    memory: list[int]

    @property
    def refusals(self) -> list[Sent]:
        return [each for each in self.sent if each.refused]

    @property
    def failed(self) -> list[Sent]:
        return [each for each in self.sent if each.failed]

    @property
    def pauses(self) -> list[float]:
        """The longest time without an answer after each kill, in seconds."""
        ends = np.array(sorted(each.at + each.seconds for each in self.sent if each.right))
        near = [np.diff(ends[(ends > kill - 1) & (ends < kill + 20)]) for kill in self.kills]
        return [float(between.max()) if between.size else float("inf") for between in near]

    @property
    def growth(self) -> float:
        """The most memory, times the most in the first fifth of the time."""
        return max(self.memory) / max(self.memory[: len(self.memory) // 5 or 1])


@contextmanager
def on(cores: Sequence[int]) -> Iterator[None]:
    """What this thread starts meanwhile runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def overload(server: Server, cases: Path, seconds: float, kills: int) -> Run:
    """Find out what a server can do, and offer half as much again, killing the worker some times."""
    with on(CLIENTS_CORES), clients(cases, server.ports, _ENOUGH_CLIENTS, seconds / 5) as sent:
        best = _per_second(sent(), seconds / 50)
    with (
        on(CLIENTS_CORES),
        clients(cases, server.ports, CLIENTS, seconds, OVERLOAD * best) as sent,
        _sampled(server) as memory,
    ):
        killed = []
        for _ in range(kills):
            time.sleep(seconds / (kills + 1))
            killed.append(time.monotonic())
            os.kill(server.worker, signal.SIGKILL)
        found = sent()
    return Run(best, _per_second(found, seconds / 10), found, killed, memory)


def tell(run: Run, figure: Figure, what: str) -> None:
    """Print what was measured."""
    of = f"{what}, {CLIENTS} clients at {OVERLOAD} x {run.best:.1f} requests/s"
    figure(f"{of}: goodput / best", "at least 0.9", f"{run.goodput / run.best:.3f}, n = {len(run.sent)}")
    for transport in ("http", "grpc"):
        seconds = [each.seconds for each in run.refusals if each.transport == transport]
        found = ", ".join(f"{1000 * np.percentile(seconds, q):.1f}" for q in (50, 99, 100))
        figure(
            f"{of}: {transport} refusals, ms as the client has it: median, p99, max",
            "max at most 100",
            f"{found}, n = {len(seconds)}",
        )
    waited = np.percentile([each.seconds for each in run.sent if each.right], (50, 100))
    figure(f"{of}: answers, s: median, max", "", f"{waited[0]:.2f}, {waited[1]:.2f}")
    figure(f"{of}: wrong answers", 0, sum(each.outcome == "wrong" for each in run.sent))
    figure(f"{of}: requests that failed / workers killed", "at most 1 each", f"{len(run.failed)} / {len(run.kills)}")
    figure(f"{of}: longest time without an answer after a kill, s", "", f"{max(run.pauses):.2f}")
    figure(
        f"{of}: most memory / in the first fifth of the time",
        f"at most {GROWTH}",
        f"{run.growth:.3f}, {max(run.memory) >> 20} MiB",
    )


def check(run: Run) -> None:
    """What must hold whatever the machine's speed."""
    assert [each for each in run.sent if each.outcome == "wrong"] == []
    assert run.refusals, "nothing was refused: it was not too much"
    # Each killed worker took one request with it, and the caller is told; no connection was lost.
    for each in run.failed:
        assert each.outcome.startswith(("500: ", "INTERNAL: ")), each
        assert "the model's process was ended by SIGKILL" in each.outcome
    assert len(run.failed) <= len(run.kills)


@pytest.mark.slow
def test_too_many_requests(start: Start, one: ModelContract, tmp_path: Path, figure: Figure) -> None:
    batches = np.random.default_rng(0).random((6, 2, 2, 64, 64), np.float32)
    batches[:, 0, 0, 0, 0] = 0.02  # what the sleeper sleeps
    write_cases(tmp_path / "cases", one, list(batches), lambda tiles: {"total": tiles.sum(1)})
    with on(SERVER_CORES):
        server = start(module="tests.serving.sleeper")
    server.wait_for("ready")
    run = overload(server, tmp_path / "cases", 12, 1)
    tell(run, figure, "a model of 20 ms")
    check(run)
    assert server.metrics["serving_worker_restarts_total"] == 1
    assert server.metrics["serving_waiting_requests"] == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_too_many_requests_for_minutes(start: Start, tmp_path: Path, figure: Figure) -> None:
    from benchmarks import models
    from containers.serving.model import load

    unet = models.unet(tmp_path / "unet")
    predict = load(unet.served).predict
    batches = [models.tiles(unet.contract, 1, 128, seed) * (seed + 1) for seed in range(6)]
    write_cases(tmp_path / "cases", unet.contract, batches, predict)
    with on(SERVER_CORES):
        server = start("--model", str(unet.served))
    server.wait_for("ready")
    run = overload(server, tmp_path / "cases", 300, 5)
    tell(run, figure, "a U-Net on 128 x 128")
    check(run)
    assert server.metrics["serving_worker_restarts_total"] == 5
    assert run.growth <= GROWTH
    assert run.goodput >= 0.9 * run.best
    assert max(each.seconds for each in run.refusals) <= 0.1


def _per_second(sent: list[Sent], skipped_s: float) -> float:
    """Right answers a second while requests were sent, but for the first seconds."""
    begin, end = min(each.at for each in sent) + skipped_s, max(each.at for each in sent)
    return sum(each.right and begin < each.at + each.seconds <= end for each in sent) / (end - begin)


@contextmanager
def _sampled(server: Server) -> Iterator[list[int]]:
    """The memory of server and worker, over and over meanwhile."""
    found: list[int] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLE_S):
            found.append(server.resident_bytes)

    thread = threading.Thread(target=sample)
    thread.start()
    yield found
    over.set()
    thread.join()
