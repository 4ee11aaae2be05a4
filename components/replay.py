"""Replay: golden tiles as Earth Engine would send them, to whatever answers, against the source model's own answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass

import numpy as np

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import UNTYPED, Outputs, Tiles, codec
from components.earthengine.tiles import pack
from components.golden import Golden, joined

# Requests under way at once; what Earth Engine keeps under way is not published.
_PARALLEL = 4
# Answers that a percentile of their time can be told from.
ENOUGH = 8
# What sending a request again may take in all, or half the time of the whole scene where that is more: with the scene
# itself, and the last request that goes beyond, less than three times the model's own time.
_AGAIN_SECONDS = 0.5
# Tiles whose answers are measured: all of a scene.
_MEASURED = 256


@dataclass(frozen=True)
class Answer:
    """The body of an answer, the seconds that it took, and whether the model that is tried gave it."""

    body: bytes
    seconds: float
    ours: bool = True


Ask = Callable[[bytes], Answer]
"""Sends the body of a request."""


@dataclass(frozen=True)
class Exchange:
    """One request and the answer of the model that is tried.

    Attributes:
        outputs: decoded from the answer.
        seconds: from the request to its answer.
        request_bytes: of the body.
        answer_bytes: of the body.
        elsewhere: how many times the request was sent before that and another model answered.
    """

    outputs: Outputs
    seconds: float
    request_bytes: int
    answer_bytes: int
    elsewhere: int


@dataclass(frozen=True)
class Replay:
    """What came of golden tiles.

    Attributes:
        sent: the tiles, those of the golden ones that were sent.
        expected: the source model's answers to them.
        answers: what was answered, and with each other answer that the last request got when it was sent again.
        exchanges: of every request.
    """

    sent: Tiles
    expected: Outputs
    answers: list[Outputs]
    exchanges: list[Exchange]


class NobodyAnsweredError(Exception):
    """The model that is tried answered none of `attempts` requests."""


def replay(
    contract: ModelContract,
    golden: Golden,
    ask: Ask,
    *,
    attempts: int = 1,
    at_least: int = ENOUGH,
    at_most: int | None = None,
) -> Replay:
    """Send golden tiles, as many to a request as fit the limits, several requests at once, then the last one again.

    Args:
        contract: the model's contract.
        golden: the tiles, and what the source model answers.
        ask: sends a request; called in several threads.
        attempts: how often a request is sent until the model that is tried answers it.
        at_least: answers to ask for, by sending the last request again, unless it is slow.
        at_most: requests' worth of tiles that are sent; all if not given.

    Raises:
        PayloadError: an answer is not in the contract's format, or of another size than the others.
        NobodyAnsweredError: others answered every time.
    """
    form = codec(contract.payload_format)
    tiles = golden.tiles
    batches = list(pack(len(tiles), max(tile_bytes(contract, golden))))[:at_most]

    def exchange(batch: slice) -> Exchange:
        body = form.encode_request(contract, tiles[batch])
        for attempt in range(attempts):
            answer = ask(body)
            if answer.ours:
                outputs = form.decode_response(contract, answer.body)
                return Exchange(outputs, answer.seconds, len(body), len(answer.body), attempt)
        raise NobodyAnsweredError

    begin = time.perf_counter()
    with ThreadPoolExecutor(_PARALLEL) as pool:
        context = copy_context()  # holds the step's deadline
        once = list(pool.map(lambda batch: context.copy().run(exchange, batch), batches))
    most_seconds = max(_AGAIN_SECONDS, (time.perf_counter() - begin) / 2)
    again: list[Exchange] = []
    while len(once) + len(again) < at_least and sum(one.seconds for one in again) < most_seconds:
        again.append(exchange(batches[-1]))
    differing = [one for one in again if not _same(one.outputs, once[-1].outputs)]
    count = batches[-1].stop
    return Replay(
        tiles[:count],
        {name: array[:count] for name, array in golden.outputs.items()},
        [joined([one.outputs for one in (*once[:-1], last)], PayloadError) for last in (once[-1], *differing)],
        [*once, *again],
    )


def _same(one: Outputs, other: Outputs) -> bool:
    return all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)


def tile_bytes(contract: ModelContract, golden: Golden) -> tuple[int, int]:
    """Bytes that one tile takes in a request, and at most in an answer.

    Raises:
        PayloadError: the contract's format cannot carry an answer.
    """
    form, count = codec(contract.payload_format), len(golden.tiles)
    in_request = form.instance_bytes(contract, golden.tiles.shape[3], golden.tiles.shape[2])
    # Numbers as text take as many bytes as they have digits: 0 at masked pixels takes the least.
    measured = (
        np.linspace(0, count - 1, min(count, _MEASURED)).astype(int) if contract.payload_format in UNTYPED else [0]
    )
    in_answer = max(
        len(form.encode_response(contract, {name: array[n : n + 1] for name, array in golden.outputs.items()}))
        for n in measured
    )
    return in_request, in_answer


def percentile_ms(replayed: Replay, percent: float) -> float:
    """The time of a request that this percentage of them does not exceed, in milliseconds."""
    return float(np.percentile([1000 * one.seconds for one in replayed.exchanges], percent))
