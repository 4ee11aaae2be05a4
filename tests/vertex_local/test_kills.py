# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either.
"""The emulator, or one of its processes alone, killed at a moment that is chosen."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import aiplatform_v1

from ..conftest import Figure
from .clients import check_artifacts, read_model, read_traffic, store_parts, upload_request
from .conftest import BUCKET, NUMBERED, PARENT, Emulator, kill, start, until
from .ledger import Ledger, patiently
from .test_command import alive, descendants_of, job_of, sleeper, wait_until_dead
from .test_custom_jobs import custom_job

pytestmark = [pytest.mark.slow]

PipelineState, JobState = aiplatform_v1.PipelineState, aiplatform_v1.JobState
MODEL, ENDPOINT = f"{NUMBERED}/models/killed", f"{NUMBERED}/endpoints/killed"
STORAGE, SERVER, WORKER = b"fake-gcs-server-linux-amd64", b"echo_server.py", b"containers.vertex_local.worker"
_RESOURCES = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """One for these tests alone, which may kill it."""
    folder = tmp_path_factory.mktemp("killable")
    running = start(folder / "state", WRITES_LEFT=str(folder / "writes-left"))
    store_parts(running)
    yield running
    kill(running)


@pytest.fixture
def emulator(killable: Emulator) -> Emulator:
    """It runs when a test begins."""
    if killable.process.poll() is not None:
        restart(killable)
    return killable


def restart(emulator: Emulator) -> None:
    """Starts it again on the same state and at the same ports, when it has been killed."""
    kill(emulator)
    counter = emulator.state.parent / "writes-left"
    emulator.process = start(emulator.state, emulator.port, WRITES_LEFT=str(counter)).process


def processes(emulator: Emulator, word: bytes) -> list[int]:
    """Those under the emulator whose command line has a word that ends so, guards first."""
    return [
        pid
        for pid in sorted(alive(descendants_of(emulator.process.pid)))
        if any(part.endswith(word) for part in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
    ]


# --- killed at a write


def actions(emulator: Emulator) -> list[tuple[str, Callable[[], Any], Any, Callable[[], Any]]]:
    """What a client does one after another: the thing, how it is read, what it is to be then, and the call."""
    models, endpoints = emulator.models, emulator.endpoints
    deployed = {"id": "7", "model": MODEL, "dedicated_resources": _RESOURCES}
    endpoint = {"name": ENDPOINT, "display_name": "killed", "labels": {"n": "1"}}

    def model() -> Any:
        return read_model(emulator, MODEL)

    def labels() -> Any:
        return dict(endpoints.get_endpoint(name=ENDPOINT).labels)

    def traffic() -> Any:
        return read_traffic(emulator, ENDPOINT)

    return [
        (MODEL, model, ("a", ("1",)), lambda: models.upload_model(upload_request("a", "1", model_id="killed"))),
        (MODEL, model, ("a", ("1", "2")), lambda: models.upload_model(upload_request("a", "2", parent_model=MODEL))),
        (MODEL, model, ("a", ("1",)), lambda: models.delete_model_version(name=f"{MODEL}@{newest(emulator)}")),
        (
            "labels",
            labels,
            {},
            lambda: endpoints.create_endpoint(parent=PARENT, endpoint={"display_name": "killed"}, endpoint_id="killed"),
        ),
        (
            "labels",
            labels,
            {"n": "1"},
            lambda: endpoints.update_endpoint(endpoint=endpoint, update_mask={"paths": ["labels"]}),
        ),
        (
            "traffic",
            traffic,
            {"7": 100},
            lambda: endpoints.deploy_model(
                {"endpoint": ENDPOINT, "deployed_model": deployed, "traffic_split": {"0": 100}}
            ),
        ),
        ("traffic", traffic, {}, lambda: endpoints.undeploy_model(endpoint=ENDPOINT, deployed_model_id="7")),
        (MODEL, model, None, lambda: models.delete_model(name=MODEL)),
        ("labels", labels, None, lambda: endpoints.delete_endpoint(name=ENDPOINT)),
    ]


def newest(emulator: Emulator) -> str:
    version_id: str = next(iter(emulator.models.list_model_versions(name=MODEL))).version_id
    return version_id


@contextlib.contextmanager
def kept_up(emulator: Emulator) -> Iterator[list[int]]:
    """Starts the emulator again whenever it has been killed; gives the list of the processes that were."""
    killed: list[int] = []
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(0.05):
            if emulator.process.poll() is not None:
                killed.append(emulator.process.pid)
                restart(emulator)

    with ThreadPoolExecutor(1) as pool:
        keeper = pool.submit(keep)
        try:
            yield killed
        finally:
            ended.set()
            keeper.result()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("writes", [[6], pytest.param(range(1, 20), marks=pytest.mark.soak)], ids=["one", "each"])
def test_an_operation_and_its_resource_agree_at_whatever_write_it_was_killed(
    emulator: Emulator, figure: Figure, writes: Sequence[int]
) -> None:
    ledger = Ledger(emulator)
    counter = emulator.state.parent / "writes-left"
    with kept_up(emulator) as killed:
        for key, read, value, call in actions(emulator):
            ledger.values.setdefault(key, {} if key == "traffic" else None)
            for number in (*writes, 10**6):
                counter.write_text(str(number))
                if ledger.change(key, read, value, call) == value:
                    break
            counter.unlink()
    restart(emulator)
    del ledger.values["traffic"]
    ledger.audit()
    check_artifacts(emulator)
    assert len(killed) >= 2
    figure(
        "emulator killed at a write: kills, operations without their resource or their end", "-, 0", (len(killed), 0)
    )


# --- one process alone


def test_cloud_storage_that_is_killed_is_started_again(emulator: Emulator) -> None:
    blob = emulator.storage.bucket(BUCKET).blob("kept")
    blob.upload_from_string(b"kept")
    for which in (-1, 0):  # the server, and then the guard that it has
        family = processes(emulator, STORAGE)
        os.kill(family[which], signal.SIGKILL)
        wait_until_dead(set(family))
        until(lambda: patiently(lambda: blob.download_as_bytes(retry=None)) == b"kept")
        emulator.upload(artifact_uri=f"gs://{BUCKET}/parts")
    assert len(processes(emulator, STORAGE)) == 2
    check_artifacts(emulator)


def test_a_model_server_that_is_killed_is_started_again(emulator: Emulator) -> None:
    endpoint = emulator.endpoint()
    emulator.deploy(endpoint, emulator.upload(artifact_uri=f"gs://{BUCKET}/parts").model, {"0": 100})
    for which in (-1, 0):
        family = processes(emulator, SERVER)
        os.kill(family[which], signal.SIGKILL)
        wait_until_dead(set(family))

        def answer() -> Any:
            with contextlib.suppress(exceptions.ServiceUnavailable):
                return list(emulator.predictions.predict(endpoint=endpoint, instances=[5], retry=None).predictions)

        assert until(answer) == [5]
    until(lambda: len(processes(emulator, SERVER)) == 2)


def test_a_job_whose_worker_is_killed_has_failed_and_says_so(emulator: Emulator, tmp_path: Path) -> None:
    name = emulator.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job_of(sleeper, tmp_path)).name
    family = guard_and_worker(emulator)
    family += until(lambda: processes(emulator, b"599"))  # its step
    os.kill(family[1], signal.SIGKILL)
    until(lambda: emulator.jobs.get_pipeline_job(name=name).end_time)
    job = emulator.jobs.get_pipeline_job(name=name)
    assert job.state == PipelineState.PIPELINE_STATE_FAILED
    assert job.error.message.startswith("The job's worker ended with exit status 137")
    wait_until_dead(set(family))


def guard_and_worker(emulator: Emulator) -> list[int]:
    """The guard, and the worker, as soon as a job runs."""
    until(lambda: len(processes(emulator, WORKER)) == 2)
    return processes(emulator, WORKER)


# --- jobs, when the emulator is killed


def test_custom_jobs_that_had_not_begun_run_after_a_kill_and_cancelled_ones_are_cancelled(
    emulator: Emulator, tmp_path: Path
) -> None:
    def create(*command: str) -> str:
        name: str = emulator.custom_jobs.create_custom_job(parent=PARENT, custom_job=custom_job(list(command))).name
        return name

    def state_of(name: str) -> Any:
        return emulator.custom_jobs.get_custom_job(name=name).state

    stubborn = create("sh", "-c", f"trap '' TERM; touch {tmp_path}/trapped; sleep 600")
    long = [create("sleep", "600") for _ in range(3)]
    queued = create("sh", "-c", f"echo begun >> {tmp_path}/queued")
    until((tmp_path / "trapped").exists)
    until(lambda: [state_of(name) for name in long] == [JobState.JOB_STATE_RUNNING] * 3)
    emulator.custom_jobs.cancel_custom_job(name=stubborn)
    assert state_of(stubborn) == JobState.JOB_STATE_CANCELLING
    assert state_of(queued) == JobState.JOB_STATE_PENDING
    restart(emulator)
    assert state_of(stubborn) == JobState.JOB_STATE_CANCELLED
    assert [state_of(name) for name in long] == [JobState.JOB_STATE_FAILED] * 3
    until(lambda: state_of(queued) == JobState.JOB_STATE_SUCCEEDED)
    assert (tmp_path / "queued").read_text() == "begun\n"


def test_a_pipeline_job_that_was_being_cancelled_is_cancelled_after_a_kill(emulator: Emulator, tmp_path: Path) -> None:
    name = emulator.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job_of(sleeper, tmp_path)).name
    guard, worker = until(
        lambda: pair if len(pair := processes(emulator, b"containers.vertex_local.worker")) == 2 else ()
    )
    os.kill(worker, signal.SIGSTOP)  # it does not heed SIGTERM now
    emulator.jobs.cancel_pipeline_job(name=name)
    assert emulator.jobs.get_pipeline_job(name=name).state == PipelineState.PIPELINE_STATE_CANCELLING
    restart(emulator)
    job = emulator.jobs.get_pipeline_job(name=name)
    assert (job.state, job.error.message) == (PipelineState.PIPELINE_STATE_CANCELLED, "The PipelineJob was cancelled.")
    wait_until_dead({guard, worker})


# --- objects, when Cloud Storage is killed


def test_what_a_killed_storage_left_unfinished_is_brought_to_its_end(emulator: Emulator) -> None:
    bucket = emulator.storage.bucket(BUCKET)
    contents = {f"folder/{name}": f"bytes of {name}".encode() for name in ("whole", "broken off", ".hidden")}
    for name, content in contents.items():
        bucket.blob(name).upload_from_string(content)
    kill(emulator)
    folder = emulator.state / "storage" / BUCKET / "folder"
    # Its bytes are in place, its metadata are not yet.
    os.removexattr(folder / "broken off", "user.metadata")
    asides = [folder / ".whole3613096476", folder.parent.parent / f".{BUCKET}.bucketMetadata42"]
    for aside in asides:
        aside.write_bytes(b"")
    restart(emulator)
    found = {blob.name: blob.download_as_bytes() for blob in emulator.storage.list_blobs(BUCKET, prefix="folder/")}
    assert found == contents
    assert not any(aside.exists() for aside in asides)


def is_locked(path: Path) -> bool:
    return f":{path.stat().st_ino} " in Path("/proc/locks").read_text()


def test_a_storage_that_takes_its_time_to_end_is_waited_for(emulator: Emulator) -> None:
    *_, server = processes(emulator, STORAGE)
    os.kill(server, signal.SIGSTOP)  # it does not heed SIGTERM now
    kill(emulator)
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(restart, emulator)
        until(lambda: is_locked(emulator.state / "lock"))  # the new one has begun
        time.sleep(1)
        with contextlib.suppress(ProcessLookupError):  # its guard waits for 5 s only
            os.kill(server, signal.SIGCONT)
        started.result()
    assert not alive({server})
    assert emulator.storage.bucket(BUCKET).blob("parts/part-1").exists()
