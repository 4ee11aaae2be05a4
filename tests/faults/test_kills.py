"""Each step killed at each of its remote calls and run again: all ends as where nothing was killed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch

from components import local, storage
from components.archive import archive_model
from components.data import read_data
from components.earthengine.contract import FILE_NAME, Band, ModelContract, Output, Source
from components.export import export_model
from components.held_out import save_held_out
from tests.conftest import Figure
from tests.faults.killing import Point, Site, World
from tests.faults.state import State, differences, state
from tests.road.conftest import processes_under
from tests.vertex_local import conftest as emulators

pytestmark = pytest.mark.slow

_AT_ONCE = 16

UP_TO_RELEASE = ("upload", "create_endpoint", "deploy", "verify", "release")
ALL = (*UP_TO_RELEASE, "conclude")
CANCELLED = {"state": "FAILED", "error": {"message": "it was cancelled"}}


@dataclass(frozen=True)
class Scenario:
    """A step in a run.

    Attributes:
        step: that is killed.
        before: the steps that have succeeded before it.
        after: the steps that follow.
        serves: whether an older version of the model serves.
        changes: of parameters, for this step and those that follow.
    """

    step: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    serves: bool = True
    changes: dict[str, Any] = field(default_factory=dict)


def of_deploying(step: str, **fields: Any) -> Scenario:
    at = ALL.index(step)
    return Scenario(step, ALL[:at], ALL[at + 1 :], **fields)


SCENARIOS = {
    "train": Scenario("train", (), (), serves=False),
    "evaluate": Scenario("evaluate", (), ("gate",)),
    "gate": Scenario("gate", ("evaluate",), ()),
    "export": Scenario("export", (), (), serves=False),
    "upload of a new model": of_deploying("upload", serves=False),
    "upload of a version": of_deploying("upload"),
    "create endpoint": of_deploying("create_endpoint", serves=False),
    "deploy": of_deploying("deploy"),
    "verify": of_deploying("verify"),
    "release": of_deploying("release"),
    "release of what is too slow": Scenario(
        "release", ALL[:4], ("conclude",), changes={"max_latency_seconds": 1e-6, "status": CANCELLED}
    ),
    "conclude": of_deploying("conclude"),
    "conclude of a failed run": of_deploying("conclude", changes={"status": CANCELLED}),
}


class Twice(torch.nn.Module):
    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return 2 * given


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    model, exported, archive, held_out = (folder / name for name in ("model", "exported", "archive", "held-out"))
    model.mkdir()
    held_out.mkdir()
    torch.jit.script(Twice()).save(str(model / "model.pt"))
    contract = ModelContract(
        name="twice",
        framework="pytorch",
        payload_format="ND_ARRAYS",
        model=Source(file="model.pt"),
        bands=(Band(name="B2"),),
        tile=(4, 4),
        scale=10,
        outputs=(Output(name="index", dimensions=0),),
    )
    (model / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
    export_model(model, exported)
    archive_model(exported, archive)
    table = folder / "twice.csv"
    table.write_text("B2,index\n" + "".join(f"{number},{2 * number}\n" for number in range(50)))
    save_held_out(contract, read_data(contract, str(table)), held_out)
    # What a killed step has begun goes on for longer than it takes to run the step again.
    server = Path(__file__).with_name("quick_server.py")
    running = emulators.start(folder / "state", OPERATION_S="1", PYTORCH_SERVER=str(server))
    made = World(running.port, running.port + 1, model, exported, archive, held_out, f"gs://{local.BUCKET}/twice.csv")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.variables().items():
            patch.setenv(name, value)
        storage.write_text(made.data, table.read_text())
        yield made
    emulators.stop(running)


@dataclass
class Scene:
    """A scenario, and how it ends where nothing is killed.

    Attributes:
        what: its name.
        world: where.
        folder: for its sites.
        calls: that the step makes, by their kinds.
        state: that is left at the end.
    """

    what: str
    world: World
    folder: Path
    calls: Sequence[str] = ()
    state: State = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers = count(1000)
        self._lock = Lock()

    @property
    def scenario(self) -> Scenario:
        return SCENARIOS[self.what]

    def walk(self) -> None:
        """All of it in health."""
        site = self._site()
        self.calls = site.kill(self.scenario.step, None, **self.scenario.changes).kinds
        self.state = self._end(site)

    def kill(self, point: Point) -> str | None:
        """Kill the step at a call and run it again; how all that follows ends otherwise than in health.

        None where the step ended before it came to that call, as it polls less often then.
        """
        site = self._site()
        calls = site.kill(self.scenario.step, point, **self.scenario.changes)
        if not calls.held.is_set():
            return None
        site.walk([self.scenario.step], **self.scenario.changes)
        found = differences(self.state, self._end(site))
        return found and f"{self.what}, killed at {point}:\n{found}\n{site.log}"

    def _site(self) -> Site:
        """A site at which the steps before have succeeded.

        The ids that derive from the names of sites have the same length, since answers hold them.
        """
        with self._lock:
            names = (f"{self.what.replace(' ', '-')}-{number}" for number in self._numbers)
            sites = (Site(self.world, self.folder / name, name) for name in names)
            site = next(site for site in sites if len(site.deployed_model) == 10)
        site.prepare()
        if self.scenario.serves:
            site.serve()
        site.walk(self.scenario.before)
        return site

    def _end(self, site: Site) -> State:
        """How a site is left when the steps that follow have run."""
        site.walk(self.scenario.after, **self.scenario.changes)
        found = state(site)
        if found["endpoints"]:
            site.leave()
        return found


def telling(calls: Sequence[str]) -> Iterator[Point]:
    """Before and after each call; of the same in a row, as polls and predictions are, at the first and the last."""
    for place, kind in enumerate(calls):
        if not (kind in calls[place - 1 : place] and kind in calls[place + 1 : place + 2]):
            number = calls[: place + 1].count(kind)
            yield Point(kind, number, "before")
            yield Point(kind, number, "after")


def few(calls: Sequence[str]) -> Iterator[Point]:
    """Before the first call, and after the last and those that change something in Vertex AI."""
    yield Point(calls[0], 1, "before")
    for place, kind in enumerate(calls):
        reads = kind.startswith("GET ") or kind.endswith(":predict")
        if place == len(calls) - 1 or not (reads or "/storage/" in kind):
            yield Point(kind, calls[: place + 1].count(kind), "after")


def check(scenes: Sequence[Scene], figure: Figure, points: Callable[[Sequence[str]], Iterable[Point]]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(Scene.walk, scenes))
        kills = [(scene, point) for scene in scenes for point in points(scene.calls)]
        found = list(pool.map(lambda kill: (kill[0], kill[0].kill(kill[1])), kills))
    for scene in scenes:
        came = [how for which, how in found if which is scene and how is not None]
        what = f"{scene.what}: killed at one of its {len(scene.calls)} calls and run again, ended the same"
        figure(what, "all", f"{came.count('')} of {len(came)}")
        assert came
    wrong = [how for _, how in found if how]
    assert not wrong, "\n\n".join([f"{len(wrong)} ended otherwise", *wrong[:5]])


@pytest.mark.timeout(480)
def test_killed_at_a_few_calls_and_run_again_each_step_ends_the_same(
    world: World, tmp_path: Path, figure: Figure
) -> None:
    check([Scene(what, world, tmp_path) for what, scenario in SCENARIOS.items() if not scenario.changes], figure, few)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", SCENARIOS)
def test_killed_at_any_call_and_run_again_it_ends_the_same(
    world: World, tmp_path: Path, figure: Figure, what: str
) -> None:
    check([Scene(what, world, tmp_path)], figure, telling)


def entries(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*"))


def has_entries(folder: Path, at_least: int) -> bool:
    return entries(folder) >= at_least


@pytest.mark.parametrize(
    "step", ["archive", *(pytest.param(each, marks=pytest.mark.soak) for each in ("export", "train"))]
)
def test_killed_while_it_writes_and_run_again_it_writes_the_same(
    world: World, tmp_path: Path, step: str, figure: Figure
) -> None:
    healthy = Site(world, tmp_path / "healthy", "writes-1")
    healthy.prepare()
    healthy.walk([step])
    moments = range(1, entries(healthy.folder / step))
    found = []
    for moment in moments:
        site = Site(world, tmp_path / f"{moment}", f"writes-{moment + 1}")
        site.prepare()
        if site.kill_when(step, partial(has_entries, site.folder / step, moment)):
            site.walk([step])
            found.append(differences(state(healthy), state(site)))
    figure(f"{step}: killed while it writes and run again, wrote the same", "all", f"{found.count('')} of {len(found)}")
    assert found == [""] * len(found)
    assert found


def test_a_preflight_that_is_killed_leaves_no_server_and_runs_again(
    world: World, tmp_path: Path, figure: Figure
) -> None:
    site = Site(world, tmp_path / "site", "preflight")
    site.prepare()

    def serves() -> bool:
        return any("containers.serving" in process for process in processes_under(site.folder))

    assert site.kill_when("preflight", serves)
    emulators.until(lambda: not processes_under(site.folder))
    site.walk(["preflight"])
    assert "preflight" in state(site)["outputs"]
