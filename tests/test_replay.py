"""Replays against functions that answer as servers do."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import numpy as np
import pytest

from components.deadline import seconds_left, within
from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import MAX_PAYLOAD_BYTES, Outputs, Tiles, codec
from components.earthengine.tiles import pack
from components.golden import Golden
from components.replay import ENOUGH, Answer, Ask, replay, tile_bytes
from components.verification import checks_of
from tests.conftest import contract_of

Model = Callable[[Tiles], Outputs]


def scene(side: int = 64, count: int = 40) -> tuple[ModelContract, Golden]:
    """Tiles of which each differs from all others, and of which the first is masked."""
    contract = contract_of(tile=[side, side])
    tiles = np.random.default_rng(0).random((count, 2, side, side), np.float32)
    tiles[0] = 0
    return contract, Golden(tiles, total(tiles), None)


def total(tiles: Tiles) -> Outputs:
    return {"total": tiles.sum(1)}


def asking(contract: ModelContract, model: Model = total, seconds: float = 0.001) -> tuple[Ask, list[Tiles]]:
    """What answers as a model does in so many seconds by its own account, and what it is sent."""
    form = codec(contract.payload_format)
    sent: list[Tiles] = []
    lock = threading.Lock()

    def ask(body: bytes) -> Answer:
        tiles = form.decode_request(contract, body)
        with lock:
            sent.append(tiles)
        return Answer(form.encode_response(contract, model(tiles)), seconds)

    return ask, sent


def test_all_is_sent_once_then_the_last_request_until_there_are_enough_answers() -> None:
    contract, golden = scene()
    ask, sent = asking(contract)
    replayed = replay(contract, golden, ask)
    requests = len(list(pack(len(golden.tiles), max(tile_bytes(contract, golden)))))
    assert 1 < requests < ENOUGH
    assert len(sent) == len(replayed.exchanges) == ENOUGH
    last = golden.tiles[-len(sent[-1]) :]
    assert all(np.array_equal(each, last) for each in sent[requests:])
    assert np.array_equal(np.sort(np.concatenate(sent[:requests]).ravel()), np.sort(golden.tiles.ravel()))
    assert len(replayed.answers) == 1, "the same answer is compared once"
    assert checks_of(contract, replayed)[0].passed
    once, sent = asking(contract)
    assert len(replay(contract, golden, once, at_least=1).exchanges) == len(sent) == requests


def test_a_slow_request_is_sent_again_once() -> None:
    contract, golden = scene(count=2)
    ask, sent = asking(contract, seconds=1)
    assert len(replay(contract, golden, ask).exchanges) == len(sent) == 2


def test_an_answer_that_is_wrong_only_once_is_found() -> None:
    contract, golden = scene()
    calls: list[int] = []

    def once_wrong(tiles: Tiles) -> Outputs:
        calls.append(1)
        answer = total(tiles)
        if len(calls) == ENOUGH:
            answer["total"][-1, 0, 0] += 1
        return answer

    check = checks_of(contract, replay(contract, golden, asking(contract, once_wrong)[0]))[0]
    assert not check.passed
    assert f"first in tile {len(golden.tiles) - 1} at row 0, column 0" in check.text


def test_answers_of_several_sizes_are_a_fault_of_the_answers() -> None:
    contract, golden = scene()

    def cropped(tiles: Tiles) -> Outputs:
        return {"total": tiles.sum(1)[:, : len(tiles)]}

    with pytest.raises(PayloadError, match=r"output total has the shape \[\d+, 64\] in one answer and \[\d+, 64\] in"):
        replay(contract, golden, asking(contract, cropped)[0])


@pytest.mark.parametrize("payload_format", ["RAW_JSON", "ND_ARRAYS", "SERIALIZED_TF_TENSORS"])
def test_requests_are_packed_by_the_largest_answer(payload_format: PayloadFormat) -> None:
    contract = contract_of(payload_format=payload_format, outputs=[{"name": "p", "dimensions": 1}])
    tiles = np.random.default_rng(0).random((80, 2, 16, 16), np.float32)
    tiles[0] = 0

    def wide(tiles: Tiles) -> Outputs:
        return {"p": np.repeat(np.sqrt(tiles[:, 0] / 3)[..., np.newaxis], 20, axis=-1)}

    golden = Golden(tiles, wide(tiles), None)
    replayed = replay(contract, golden, asking(contract, wide)[0])
    assert len(replayed.exchanges) == ENOUGH
    assert max(one.answer_bytes for one in replayed.exchanges) <= MAX_PAYLOAD_BYTES
    form = codec(payload_format)
    answers = [len(form.encode_response(contract, wide(tiles[n : n + 1]))) for n in range(len(tiles))]
    assert tile_bytes(contract, golden)[1] == max(answers)


def test_requests_in_flight_at_once_are_held_to_the_step_s_deadline() -> None:
    left: list[float] = []
    contract, golden = scene()
    ask, _ = asking(contract)

    def timed(body: bytes) -> Answer:
        left.append(seconds_left())
        return ask(body)

    with within("verify"):
        replay(contract, golden, timed)
    assert max(left) < math.inf
