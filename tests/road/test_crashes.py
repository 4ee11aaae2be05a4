"""Steps and the whole of Vertex AI killed at every point from the deployment on: no traffic on an unverified model.

What is killed at a point has stopped there, so that no test depends on how fast this machine is. All runs of a kind are
brought to their points first and killed together, each with an endpoint of its own on which an older model serves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from components import job, local, storage
from components.built_images import Images
from components.dags import compile_deploy
from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import JobError
from components.record import Record
from components.versions import VERIFIED, label_version
from components.vertex import EMULATOR, Vertex
from tests.road.runs import Run, deployed, halted, labels, registered, traffic, trials, variant
from tests.vertex_local import conftest as emulators

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

OLD = "1"  # id of the deployment that serves on every endpoint
BUCKET = f"gs://{local.BUCKET}"


class Slow(torch.nn.Module):
    """Takes its time for a request, so that what happens meanwhile can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 1, 1)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        waste = torch.ones(256, 256)
        for _ in range(40):
            waste = torch.tanh(waste @ waste)
        answer: torch.Tensor = self.convolution(given) + 0 * waste.mean()
        return answer


class World:
    """A local Vertex AI that can be killed and started again with all that it has stored."""

    def __init__(self, state: Path) -> None:
        self.vertex = Vertex(local.PROJECT, local.LOCATION)
        self.state = state
        self.emulator = self._start()

    def crash(self) -> None:
        """Kill it and start it again; its clients find it at another port."""
        emulators.kill(self.emulator)
        self.emulator = self._start()

    def _start(self) -> emulators.Emulator:
        started = emulators.start(self.state)
        os.environ[EMULATOR] = f"127.0.0.1:{started.port}"
        os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{started.port + 1}"
        self.vertex = Vertex(local.PROJECT, local.LOCATION)
        return started


@dataclass(frozen=True)
class Case:
    """A run that has been killed at a point."""

    endpoint: str
    run: str
    model: str
    archive: Path

    def next_run(self, world: World, folder: Path) -> Run:
        """A run of another version on the same endpoint."""
        archive = variant(self.archive, folder, name=self.endpoint.rsplit("/", 1)[-1])
        model = registered(world.vertex, archive, f"{BUCKET}/staging")
        return Run(f"{self.run[:40]}-next", self.endpoint, model, str(archive))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    outside = {name: os.environ.get(name) for name in (EMULATOR, "STORAGE_EMULATOR_HOST")}
    running = World(tmp_path_factory.mktemp("world"))
    yield running
    emulators.stop(running.emulator)
    for name, value in outside.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(scope="module")
def slow(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a trained model that takes its time."""
    folder = tmp_path_factory.mktemp("slow")
    torch.jit.script(Slow()).save(str(folder / "model.pt"))
    contract = ModelContract.read(small).model_dump() | {"model": {"file": "model.pt"}}
    (folder / FILE_NAME).write_text(ModelContract.model_validate(contract).dump(), encoding="utf-8")
    return folder


def sites(world: World, small: Path, folder: Path, names: list[str]) -> None:
    """An endpoint of each name, on which the first version of the model of that name has all the traffic."""
    vertex, begun = world.vertex, []
    machine = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}
    for name in names:
        vertex.endpoints.create_endpoint(
            parent=vertex.parent, endpoint={"display_name": name}, endpoint_id=name
        ).result()
        model = registered(vertex, variant(small, folder / f"{name}-1", name=name), f"{BUCKET}/staging")
        label_version(vertex, model, {VERIFIED: "passed-by-hand"})
        newcomer = {"id": OLD, "model": model, "dedicated_resources": machine}
        endpoint = f"{vertex.parent}/endpoints/{name}"
        begun.append(
            vertex.endpoints.deploy_model(endpoint=endpoint, deployed_model=newcomer, traffic_split={"0": 100})
        )
    for operation in begun:
        operation.result(timeout=120)


def halted_runs(
    world: World, small: Path, folder: Path, points: dict[str, str]
) -> dict[str, tuple[Case, subprocess.Popen[str]]]:
    """For each name a run, as a process of functions, that has stopped at a point."""
    begun = {}
    for name, point in points.items():
        archive = variant(small, folder / f"{name}-2", name=name)
        model = registered(world.vertex, archive, f"{BUCKET}/staging")
        run = Run(f"run-{name}", f"{world.vertex.parent}/endpoints/{name}", model, str(archive))
        begun[name] = Case(run.endpoint, run.name, model, archive), run.start(halt=point)
    try:
        for _, process in begun.values():
            halted(process)
    except BaseException:
        for _, process in begun.values():
            killed(process)
        raise
    return begun


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def submitted(world: World, slow: Path, small: Path, folder: Path, name: str) -> tuple[Case, str]:
    """A pipeline job of the slow model, and its resource name."""
    model = folder / f"{name}-slow"
    variant_of = ModelContract.read(slow).model_copy(update={"name": name})
    model.mkdir()
    (model / "model.pt").write_bytes((slow / "model.pt").read_bytes())
    (model / FILE_NAME).write_text(variant_of.dump(), encoding="utf-8")
    uri = f"{BUCKET}/models/{name}"
    storage.stage(model, uri)
    template = compile_deploy("pytorch", Images(local.REPOSITORY, local.TAG), folder / f"{name}.yaml")
    parameters = {"model_uri": uri, "staging": f"{BUCKET}/staging"}
    job_name = job.submit(world.vertex, template, parameters, f"{BUCKET}/root", name)
    registered_as = f"{world.vertex.parent}/models/{name}@2"
    case = Case(f"{world.vertex.parent}/endpoints/{name}", job_name.rsplit("/", 1)[-1], registered_as, small)
    return case, job_name


def step_process(run: str, step: str) -> int | None:
    """The process of a step of a pipeline job."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            of_step = arguments[-3:-1] == ["--function_to_execute", step]
            if of_step and "python" in arguments[0] and any(run in argument for argument in arguments):
                return int(process.name)
    return None


def stop_at(world: World, case: Case, step: str, reached: Callable[[], object]) -> int:
    """Stop a step's process as soon as something is so; the process."""
    deadline = time.monotonic() + 200
    while not ((process := step_process(case.run, step)) and reached()):
        assert time.monotonic() < deadline, f"{case.run} did not come to {step}"
        assert not job.has_ended(world.vertex, case.run), f"{case.run} ended before {step}"
        time.sleep(0.02)
    os.kill(process, signal.SIGSTOP)
    assert reached(), "it went on before it was stopped"
    return process


def deploying(case: Case) -> bool:
    written = Record.of(f"{BUCKET}/staging", case.run).deployment()
    return bool(written and written.operations)


def share(world: World, case: Case, percent: int) -> bool:
    return percent in traffic(world.vertex, case.endpoint).values()


def ended(world: World, name: str) -> tuple[dict[str, job.Step], str]:
    """The steps of a job that has come to its end, and why it failed."""
    steps: dict[str, job.Step] = {}
    try:
        for step in job.follow(world.vertex, name):
            steps[step.name] = step
    except JobError as error:
        return steps, str(error)
    return steps, ""


STEP_POINTS = ["written down", "trial made", "deploying", "deployed", "verifying", "verified", "verified at 50"]
JOB_POINTS = ["deploy", "canary", "conclude"]


@pytest.fixture(scope="module")
def killed_steps(world: World, small: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Runs whose step was killed, before they are concluded."""
    folder = tmp_path_factory.mktemp("steps")
    names = {f"step-{number}": point for number, point in enumerate(STEP_POINTS)}
    sites(world, small, folder, list(names))
    runs = halted_runs(world, small, folder, names)
    for _, process in runs.values():
        killed(process)
    return {names[name]: case for name, (case, _) in runs.items()}


@pytest.mark.parametrize("point", STEP_POINTS)
def test_a_killed_step_leaves_traffic_as_before_and_its_run_is_concluded(
    world: World, killed_steps: dict[str, Case], point: str
) -> None:
    case = killed_steps[point]
    if point == "verified at 50":
        assert labels(world.vertex, case.model)[VERIFIED].startswith("passed")
        assert traffic(world.vertex, case.endpoint)[OLD] == 50
    else:
        assert traffic(world.vertex, case.endpoint) == {OLD: 100}
    done = Run(case.run, case.endpoint, case.model, str(case.archive)).conclude(fault="the step was killed")
    assert (done.released, done.traffic) == (False, {OLD: 100})
    assert traffic(world.vertex, case.endpoint) == {OLD: 100}
    assert deployed(world.vertex, case.endpoint) == {OLD}
    assert trials(world.vertex, case.endpoint) == []


@pytest.fixture(scope="module")
def killed_jobs(
    world: World, small: Path, slow: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Case, dict[str, job.Step], str]]:
    """Pipeline jobs whose step was killed, when they have ended; with their steps and why they failed."""
    folder = tmp_path_factory.mktemp("jobs")
    names = {point: f"job-{point}" for point in JOB_POINTS}
    sites(world, small, folder, list(names.values()))
    jobs = {point: submitted(world, slow, small, folder, name) for point, name in names.items()}
    reached: dict[str, tuple[str, Callable[[Case], bool]]] = {
        "deploy": ("deploy", deploying),
        "canary": ("release", lambda case: share(world, case, 10)),
        "conclude": ("conclude", lambda case: share(world, case, 100)),
    }
    for point, (case, _) in jobs.items():
        step, there = reached[point]
        os.kill(stop_at(world, case, step, partial(there, case)), signal.SIGKILL)
    return {point: (case, *ended(world, name)) for point, (case, name) in jobs.items()}


@pytest.mark.parametrize(("point", "step"), [("deploy", "deploy"), ("canary", "release")])
def test_a_job_whose_step_is_killed_goes_on_to_conclude(
    world: World, killed_jobs: dict[str, tuple[Case, dict[str, job.Step], str]], point: str, step: str
) -> None:
    case, steps, fault = killed_jobs[point]
    assert f"The failed tasks are: [{step}]" in fault
    assert steps[step].state == "FAILED"
    concluded = steps["conclude"]
    assert concluded.state == "SUCCEEDED"
    assert concluded.outputs["metrics"][1]["released"] == 0
    assert "was removed; traffic: 100 % to 1; " in concluded.parameters["Output"]
    assert step in concluded.parameters["Output"]
    assert storage.read_text(concluded.outputs["report"][0])
    assert traffic(world.vertex, case.endpoint) == {OLD: 100}
    assert deployed(world.vertex, case.endpoint) == {OLD}
    assert trials(world.vertex, case.endpoint) == []


def test_a_job_whose_last_step_is_killed_has_released_and_the_next_run_tidies_up(
    world: World, killed_jobs: dict[str, tuple[Case, dict[str, job.Step], str]], tmp_path: Path
) -> None:
    case, _, fault = killed_jobs["conclude"]
    assert "The failed tasks are: [conclude]" in fault
    serving = traffic(world.vertex, case.endpoint)
    assert list(serving.values()) == [100]
    assert OLD not in serving
    assert labels(world.vertex, case.model)[VERIFIED].startswith("passed")
    assert trials(world.vertex, case.endpoint) == [case.run], "left over"
    following = case.next_run(world, tmp_path / "next")
    archive = storage.fetch(world.vertex.models.get_model(name=case.model).artifact_uri, tmp_path / "staged")
    again = replace(following, name="same-again", model=case.model, archive=str(archive)).walk()
    assert (again.released, again.traffic) == (True, serving), (
        "the same model needs no trial, and tidies up all the same"
    )
    assert trials(world.vertex, case.endpoint) == []
    done = following.walk()
    assert done.released
    # That the old model, which a person deployed, has served was not written down any more: it is not taken off.
    assert deployed(world.vertex, case.endpoint) == {*done.traffic, *serving, OLD}


CRASH_POINTS = ["deploying", "deployed", "verifying", "verified", "verified at 50", "concluding"]
CRASH_JOB_POINTS = ["deploy of a job", "canary of a job"]


@pytest.fixture(scope="module")
def crashed(world: World, small: Path, slow: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Runs that ended where Vertex AI did, which is there again."""
    folder = tmp_path_factory.mktemp("crashed")
    names = {f"crash-{number}": point for number, point in enumerate(CRASH_POINTS)}
    job_names = {"deploy of a job": "crash-job-deploy", "canary of a job": "crash-job-canary"}
    sites(world, small, folder, [*names, *job_names.values()])
    runs = halted_runs(world, small, folder, names)
    jobs = {point: submitted(world, slow, small, folder, name)[0] for point, name in job_names.items()}
    stop_at(world, jobs["deploy of a job"], "deploy", lambda: deploying(jobs["deploy of a job"]))
    stop_at(world, jobs["canary of a job"], "release", lambda: share(world, jobs["canary of a job"], 10))
    for _, process in runs.values():
        killed(process)
    world.crash()
    return {names[name]: case for name, (case, _) in runs.items()} | jobs


@pytest.mark.parametrize("point", [*CRASH_POINTS, *CRASH_JOB_POINTS])
def test_where_vertex_ai_is_killed_no_unverified_model_has_traffic_and_the_next_run_tidies_up(
    world: World, crashed: dict[str, Case], point: str, tmp_path: Path
) -> None:
    case = crashed[point]
    left = traffic(world.vertex, case.endpoint)
    new = {"verified at 50": 50, "concluding": 100, "canary of a job": 10}.get(point, 0)
    assert left.get(OLD, 0) == 100 - new
    assert sum(left.values()) == 100
    verdict = labels(world.vertex, case.model).get(VERIFIED, "")
    assert verdict.startswith("passed") or not new
    assert job.has_ended(world.vertex, case.run)
    assert trials(world.vertex, case.endpoint) == [case.run], "left over"
    answering(world.vertex, case.endpoint)
    done = case.next_run(world, tmp_path / "next").walk()
    assert done.released, done.reason
    served_before = max(left, key=lambda each: (left[each], each == OLD))  # of two with as much, the older
    stays = {OLD} if point == "concluding" else set()  # a person deployed it, and no release has remembered it
    assert deployed(world.vertex, case.endpoint) == {*done.traffic, served_before} | stays
    assert traffic(world.vertex, case.endpoint) == done.traffic
    assert list(done.traffic.values()) == [100]
    assert trials(world.vertex, case.endpoint) == []


def answering(vertex: Vertex, endpoint: str) -> None:
    """Wait until whatever has traffic is there again."""

    def answers() -> Any:
        url = f"{vertex.uri(endpoint)}:predict"
        texts = [vertex.session.post(url, data=b'{"instances": []}').text for _ in range(20)]
        return not any("starting" in text for text in texts)

    emulators.until(answers, timeout_s=60)
