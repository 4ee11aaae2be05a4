"""Every call that the steps make, broken in every way, through proxies before a real Vertex AI and Cloud Storage."""

from __future__ import annotations

import inspect
import random
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl.base_component import BaseComponent

from components import steps, training_steps
from components.deadline import SECONDS
from tests.conftest import Figure
from tests.faults.proxy import Call, Fault, no_fault
from tests.faults.walks import FAULTS, World, kind_of, walk, world
from tests.road import conftest as road

small = road.small
RUNS = (1, 2)
# Calls that are not repeated where they may have been carried out.
ONCE = re.compile(r"DELETE .*|POST .*(:upload|:deployModel|:undeployModel|/us-central1/endpoints/[^:]+)")


class Healthy:
    """What runs leave that nothing disturbs, and the different calls that each makes."""

    def __init__(self, here: World, source: Path, folder: Path) -> None:
        self.source = source
        self.left: dict[int, dict[str, Any]] = {}
        self.kinds: dict[int, list[str]] = {}
        for number in RUNS:
            here.breaking(no_fault)
            self.left[number] = walk(here, source, "healthy", number, folder)
            self.kinds[number] = sorted({kind_of(call, "healthy") for proxy in here.proxies for call in proxy.calls})


class Breaking:
    """Breaks the first call of each kind."""

    def __init__(self, name: str, faults: dict[str, Fault]) -> None:
        self._name = name
        self._faults = faults
        self._lock = threading.Lock()
        self.broken: dict[str, Fault] = {}

    def __call__(self, call: Call) -> Fault | None:
        kind = kind_of(call, self._name)
        with self._lock:
            if kind not in self._faults or kind in self.broken:
                return None
            self.broken[kind] = self._faults[kind]
        return self._faults[kind]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("faults")) as found:
        yield found


@pytest.fixture(scope="module")
def healthy(here: World, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Healthy:
    return Healthy(here, small, tmp_path_factory.mktemp("healthy"))


@pytest.mark.slow
def test_every_call_broken(here: World, healthy: Healthy, tmp_path: Path, figure: Figure) -> None:
    injected = all_broken(here, healthy, range(0, len(FAULTS), 4), tmp_path)
    assert {fault for _, _, fault in injected} == set(FAULTS)
    tell(figure, "a fault at every different call of a run at once", healthy, injected, 2)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_every_call_broken_in_every_way(here: World, healthy: Healthy, tmp_path: Path, figure: Figure) -> None:
    injected = all_broken(here, healthy, range(len(FAULTS)), tmp_path)
    assert len(set(injected)) == len(FAULTS) * sum(map(len, healthy.kinds.values()))
    tell(figure, "each fault at every different call of a run, all at once", healthy, injected, len(FAULTS))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_what_must_not_be_done_twice_broken_alone(
    here: World, healthy: Healthy, tmp_path: Path, figure: Figure
) -> None:
    wanted = [
        {number: {kind: fault}}
        for number in RUNS
        for kind in healthy.kinds[number]
        if ONCE.fullmatch(kind)
        for fault in FAULTS
    ]
    for place, faults in enumerate(wanted):
        broken(here, healthy, f"alone-{place}", faults, tmp_path)
    figure("faults at calls that must not be done twice, each alone in a run of its own", len(wanted), len(wanted))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_calls_broken_at_random(here: World, healthy: Healthy, tmp_path: Path, figure: Figure) -> None:
    injected, walks = 0, 10
    for seed in range(walks):
        dice = random.Random(seed)  # noqa: S311

        def policy(call: Call, dice: random.Random = dice) -> Fault | None:
            nonlocal injected
            if dice.random() > 0.2:
                return None
            injected += 1
            return dice.choice(FAULTS)

        for number in RUNS:
            here.breaking(policy)
            assert walk(here, healthy.source, f"random-{seed}", number, tmp_path) == healthy.left[number], seed
    figure(f"runs with every fifth call broken at random, {injected} faults", 2 * walks, 2 * walks)


def test_every_step_that_calls_the_cloud_has_a_deadline() -> None:
    components = {**vars(steps), **vars(training_steps)}.items()
    bodies = {name: each.python_func.__code__ for name, each in components if isinstance(each, BaseComponent)}
    calling = {f"components.{name}" for name in ("challenger", "model_directory", "record", "storage", "vertex")}
    assert {name for name, body in bodies.items() if calling & set(body.co_names)} == set(SECONDS)
    for name in SECONDS:
        body = {**vars(steps), **vars(training_steps)}[name].python_func
        assert f'within("{name}")' in inspect.getsource(body)


def all_broken(here: World, healthy: Healthy, turns: Sequence[int], folder: Path) -> list[tuple[int, str, Fault]]:
    """Walk with a fault at every different call, another one at each turn."""
    injected = []
    for turn in turns:
        faults = {
            number: {kind: FAULTS[(place + turn) % len(FAULTS)] for place, kind in enumerate(kinds)}
            for number, kinds in healthy.kinds.items()
        }
        injected += broken(here, healthy, f"broken-{turn}", faults, folder)
    return injected


def broken(
    here: World, healthy: Healthy, name: str, faults: dict[int, dict[str, Fault]], folder: Path
) -> list[tuple[int, str, Fault]]:
    """Walk with faults at the first calls of some kinds, and see that each run leaves what a healthy one leaves."""
    injected = []
    for number in RUNS:
        breaking = Breaking(name, faults.get(number, {}))
        here.breaking(breaking)
        assert walk(here, healthy.source, name, number, folder) == healthy.left[number], breaking.broken
        assert breaking.broken == faults.get(number, {})
        injected += [(number, kind, fault) for kind, fault in breaking.broken.items()]
    return injected


def tell(figure: Figure, what: str, healthy: Healthy, injected: Sequence[object], turns: int) -> None:
    kinds = len(set().union(*healthy.kinds.values()))
    runs = f"{turns * len(RUNS)} of {turns * len(RUNS)}"
    figure(f"{what}: {kinds} calls, {len(injected)} faults; runs that end as healthy ones", runs, runs)
