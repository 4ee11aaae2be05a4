# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either.
"""The emulator under load, and killed at any moment: nothing that it has acknowledged is lost."""

import collections
import contextlib
import itertools
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from google.cloud import aiplatform_v1
from kfp import dsl

from ..conftest import Figure
from .clients import Client, check_artifacts, store_parts
from .conftest import BUCKET, NUMBERED, PARENT, Emulator, kill, start, stop, until
from .test_command import descendants_of, job_of, wait_until_dead

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PipelineState = aiplatform_v1.PipelineState
SUCCEEDED, FAILED = PipelineState.PIPELINE_STATE_SUCCEEDED, PipelineState.PIPELINE_STATE_FAILED
AT_ONCE = 4
# Of the clients of a run with kills; two of them have models deployed.
CLIENTS, SERVING = 6, 2
CONNECTIONS = 64


def soaking(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.soak)


@dsl.component(base_image="steps", install_kfp_package=False)
def mark(path: str) -> None:
    with open(path, "a") as file:  # noqa: PTH123
        file.write("begun\n")


@dsl.pipeline(name="marker")
def marker(path: str) -> None:
    mark(path=path)


class Queue:
    """Jobs that are sent at once, each of which leaves a line in a file of its own when it runs."""

    def __init__(self, emulator: Emulator, folder: Path) -> None:
        self._emulator = emulator
        self._folder = folder
        self._job = job_of(marker, folder)
        self.names: list[str] = []

    def send(self, count: int) -> None:
        for number in range(count):
            job_id = f"queued-{number}"
            self._job["runtime_config"]["parameter_values"] = {"path": str(self._folder / job_id)}
            request = {"parent": PARENT, "pipeline_job": self._job, "pipeline_job_id": job_id}
            self.names.append(self._emulator.jobs.create_pipeline_job(request, retry=None).name)

    def ended(self) -> list[Any]:
        """All that were accepted, in that order, as soon as every one has come to an end."""
        until(lambda: all(job.end_time for job in self._jobs()), timeout_s=60 + 20 * len(self.names))
        return self._jobs()

    def lines(self, job: Any) -> list[str]:
        path = self._folder / job.name.rpartition("/")[2]
        return path.read_text().splitlines() if path.exists() else []

    def _jobs(self) -> list[Any]:
        return [self._emulator.jobs.get_pipeline_job(name=name) for name in self.names]


def check_order(jobs: Sequence[Any]) -> None:
    """They began in the order in which they were accepted, and no more than a few ran at a time."""
    began = [job.start_time for job in jobs]
    assert began == sorted(began)
    for job in jobs:
        assert sum(other.start_time <= job.start_time < other.end_time for other in jobs) <= AT_ONCE


def check_ends(jobs: Sequence[Any], queue: Queue) -> collections.Counter[int]:
    """Each ran once, or had begun when the emulator was killed and says so."""
    for job in jobs:
        if job.state == FAILED:
            assert job.error.message == "The emulator ended before the job."
            assert job.start_time
            assert len(queue.lines(job)) <= 1
        else:
            assert (job.state, queue.lines(job)) == (SUCCEEDED, ["begun"])
    return collections.Counter(job.state for job in jobs)


def resident_mb(emulator: Emulator, field: str = "VmRSS") -> float:
    """The emulator's own memory now, or the most that it had where ``field`` is VmHWM."""
    status = Path(f"/proc/{emulator.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) / 1024


def left_in(state: Path) -> set[Path]:
    """What lies in a state directory that belongs to nothing that runs: written aside, or of a job's worker."""
    return {
        *state.glob("tmp/*"),
        *(path for path in state.glob("storage/**/.*") if path.is_file()),
        *state.glob("jobs/*/*/*/tmp"),
        *state.glob("jobs/*/*/*/workspace"),
    }


@pytest.mark.parametrize(("kills", "jobs", "longest_s"), [(3, 6, 1.5), soaking(50, 50, 4)], ids=["short", "soak"])
def test_nothing_acknowledged_is_lost_by_kills(
    tmp_path: Path, figure: Figure, kills: int, jobs: int, longest_s: float
) -> None:
    seed = int(os.environ.get("SEED", random.randrange(10**6)))  # noqa: S311
    print(f"SEED={seed}")  # noqa: T201
    chance = random.Random(seed)  # noqa: S311
    state = tmp_path / "state"
    emulator = start(state)
    peak_mb, restarts_s = 0.0, []
    family: set[int] = set()
    ended = threading.Event()
    try:
        store_parts(emulator)
        queue = Queue(emulator, tmp_path)
        queue.send(jobs)
        # Each has connections of its own, as processes would.
        clients = [
            Client(Emulator(emulator.process, emulator.port, state), number, seed, serves=number < SERVING)
            for number in range(CLIENTS)
        ]
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = [pool.submit(client.run, ended.is_set) for client in clients]
            try:
                for _ in range(kills):
                    let_run(running, chance.uniform(0.2, longest_s))
                    wait_until_dead(family)  # of the one before
                    peak_mb = max(peak_mb, resident_mb(emulator, "VmHWM"))
                    family = descendants_of(emulator.process.pid)
                    kill(emulator)
                    begin = time.monotonic()
                    emulator.process = start(state, emulator.port).process
                    restarts_s.append(time.monotonic() - begin)
                let_run(running, 1)
            finally:
                ended.set()
            for run in running:
                run.result()
        ends = check_ends(queue.ended(), queue)
        check_order(queue.ended())
        for _ in range(2):
            for client in clients:
                client.ledger.audit()
            check_artifacts(emulator)
            stop(emulator)
            assert left_in(state) == set()
            emulator.process = start(state, emulator.port).process
    finally:
        kill(emulator)
    wait_until_dead(family)
    ledgers = [client.ledger for client in clients]
    acknowledged = sum(ledger.acknowledged for ledger in ledgers)
    unanswered = sum(ledger.unanswered for ledger in ledgers)
    figure(f"emulator killed {kills} times: actions acknowledged, of these lost", "lost 0", (acknowledged, 0))
    figure("  not answered, and either done or not", "-", unanswered)
    figure("  operations acknowledged, all with an end", "-", sum(len(ledger.operations) for ledger in ledgers))
    figure("  predictions answered, wrong", "-, 0", (sum(client.predicted for client in clients), 0))
    figure("  jobs accepted, succeeded, told as failed, lost", "lost 0", (jobs, ends[SUCCEEDED], ends[FAILED], 0))
    figure("  slowest restart, s", "-", f"{max(restarts_s):.1f}")
    figure("  peak memory, MB", "-", f"{peak_mb:.0f}")


def let_run(running: Sequence[Future[None]], seconds: float) -> None:
    """Lets clients run for a while; raises what one of them has ended with."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
        for client in running:
            if client.done():
                client.result()


@pytest.mark.parametrize(
    ("predictions", "models", "jobs"), [(640, 24, 6), soaking(10_000, 500, 50)], ids=["short", "soak"]
)
def test_load(tmp_path: Path, figure: Figure, predictions: int, models: int, jobs: int) -> None:
    emulator = start(tmp_path / "state")
    try:
        store_parts(emulator)
        before_mb = resident_mb(emulator)
        endpoint = emulator.endpoint()
        emulator.deploy(endpoint, emulator.upload(artifact_uri=f"gs://{BUCKET}/parts").model, {"0": 100})
        latencies = sorted(predict_all(emulator.port, endpoint, predictions))
        list_s = upload_and_list(emulator, models)
        after_mb = resident_mb(emulator)
        queue = Queue(emulator, tmp_path)
        queue.send(jobs)
        done = queue.ended()
        assert check_ends(done, queue) == {SUCCEEDED: jobs}
        check_order(done)
        kill(emulator)
        begin = time.monotonic()
        emulator.process = start(emulator.state, emulator.port).process
        restart_s = time.monotonic() - begin
        check_artifacts(emulator)
        assert len(list(emulator.models.list_models(parent=PARENT))) == models + 1
    finally:
        kill(emulator)
    p50, p99 = (latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99))
    figure(f"{predictions} predictions over {CONNECTIONS} connections: answered, wrong", "all, 0", (len(latencies), 0))
    figure("  p50, p99, ms", "-", f"{p50:.0f}, {p99:.0f}")
    figure(f"{models} models: list of them all, ms", "-", f"{list_s * 1000:.0f}")
    figure("  start with them after a kill, s", "-", f"{restart_s:.1f}")
    figure("  the emulator's memory before and after, MB", "-", f"{before_mb:.0f}, {after_mb:.0f}")
    figure(f"{jobs} jobs queued: succeeded in order, at most {AT_ONCE} at a time", jobs, len(done))


def predict_all(port: int, endpoint: str, count: int) -> list[float]:
    """Asks for so many predictions over many connections, each of them right; how long each took, s."""

    def ask(numbers: range) -> list[float]:
        took = []
        with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            for number in numbers:
                begin = time.monotonic()
                connection.request("POST", f"/v1/{endpoint}:predict", json.dumps({"instances": [number, [-number]]}))
                answer = connection.getresponse()
                content = json.loads(answer.read())
                took.append(time.monotonic() - begin)
                assert (answer.status, content["predictions"]) == (200, [number, [-number]])
        return took

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        parts = pool.map(ask, (range(first, count, CONNECTIONS) for first in range(CONNECTIONS)))
        return list(itertools.chain.from_iterable(parts))


def upload_and_list(emulator: Emulator, count: int) -> float:
    """Uploads models side by side, finds them again in every way; how long a list of them all takes, s."""
    names = [f"{NUMBERED}/models/many-{number}" for number in range(count)]

    def upload(name: str) -> None:
        uploaded = emulator.upload(
            name.rpartition("/")[2], display_name=f"title {name}", artifact_uri=f"gs://{BUCKET}/parts"
        )
        assert uploaded.model == name

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(upload, names))
    pages = list(emulator.models.list_models({"parent": PARENT, "page_size": 7, "filter": "model!=0"}).pages)
    assert all(len(page.models) <= 7 for page in pages)
    assert sorted(model.name for page in pages for model in page.models if "/many-" in model.name) == sorted(names)
    for name in names:
        assert emulator.models.get_model(name=name).display_name == f"title {name}"
        [found] = emulator.models.list_models({"parent": PARENT, "filter": f'display_name="title {name}"'})
        assert found.name == name
    times = []
    for _ in range(5):
        begin = time.monotonic()
        assert len(emulator.models.list_models({"parent": PARENT, "page_size": 1000}).models) == count + 1
        times.append(time.monotonic() - begin)
    return statistics.median(times)
