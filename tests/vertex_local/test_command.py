# mypy: disable-error-code="untyped-decorator"
# kfp has no types, so its decorators have none either.
import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.api_core import exceptions
from google.cloud import aiplatform_v1
from kfp import compiler, dsl

from .conftest import PARENT, Emulator, command, free_ports, kill, start, stop, store_artifacts, until


@dsl.component(base_image="steps", install_kfp_package=False)
def sleep() -> None:
    import subprocess

    subprocess.run(["sleep", "599"], check=True)


@dsl.pipeline(name="sleeper")
def sleeper() -> None:
    sleep()


@dsl.component(base_image="steps", install_kfp_package=False)
def greet(whom: str) -> str:
    return f"hello {whom}"


@dsl.pipeline(name="greeter")
def greeter() -> None:
    greet(whom="world")


def run(port: int, state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_EMULATOR_HOST")}
    return subprocess.run(
        [*command(port, state), *options], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def descendants_of(pid: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found: set[int] = set()
    generation = {pid}
    while generation:
        generation = {child for child, parent in parents.items() if parent in generation}
        found |= generation
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that still run; zombies do not."""
    states = {}
    for pid in pids:
        try:
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
    return {pid for pid, state in states.items() if state != "Z"}


def wait_until_dead(pids: set[int], timeout_s: float = 8) -> None:
    deadline = time.monotonic() + timeout_s
    while alive(pids):
        assert time.monotonic() < deadline, f"{alive(pids)} live on"
        time.sleep(0.05)


def job_of(pipeline: Any, folder: Path) -> dict[str, Any]:
    path = folder / f"{pipeline.name}.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    return {
        "pipeline_spec": yaml.safe_load(path.read_text()),
        "runtime_config": {"gcs_output_directory": "gs://staging/root"},
    }


def settled(emulator: Emulator) -> list[Any]:
    """All that the emulator knows, but for the job that runs."""
    lists: list[Any] = [
        emulator.models.list_models(parent=PARENT),
        emulator.models.list_model_versions(name=f"{PARENT}/models/kept"),
        emulator.endpoints.list_endpoints(parent=PARENT),
        emulator.schedules.list_schedules(parent=PARENT),
        emulator.jobs.list_pipeline_jobs({"parent": PARENT, "filter": 'pipeline_name="greeter"'}),
    ]
    return [list(found) for found in lists]


def busy(emulator: Emulator, tmp_path: Path) -> tuple[str, set[int]]:
    """Has a model served and a step running; gives the endpoint and all processes under the emulator."""
    store_artifacts(emulator)
    endpoint = emulator.endpoint()
    emulator.deploy(endpoint, emulator.upload("kept").model, {"0": 100})
    emulator.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job_of(sleeper, tmp_path), pipeline_job_id="sleeper")
    deadline = time.monotonic() + 20
    # storage, server and job each with a guard; the server's child; worker, shell, step, and the step's child
    while len(pids := descendants_of(emulator.process.pid)) < 10:
        assert time.monotonic() < deadline, "the step did not start"
        time.sleep(0.05)
    return endpoint, pids


@pytest.mark.parametrize("taken", [0, 1], ids=["port", "storage-port"])
def test_a_taken_port_is_named(tmp_path: Path, taken: int) -> None:
    port = free_ports()
    with socket.create_server(("127.0.0.1", port + taken)):
        ended = run(port, tmp_path / "state")
    option = ("--port", "--storage-port")[taken]
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        f"vertex_local: port {port + taken} is in use: stop what listens there, or give another {option}\n"
    )


def test_a_second_emulator_on_the_same_state_is_refused(emulator: Emulator) -> None:
    ended = run(free_ports(), emulator.state)
    assert ended.returncode == 1
    assert ended.stderr.startswith("vertex_local: another emulator is using the state directory")
    assert str(emulator.state) in ended.stderr


def test_a_state_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "resources.sqlite").write_text("no data base, and longer than the header of one" * 100)
    for state, message in (("file", "cannot keep state in"), ("state", "cannot be read: file is not a database")):
        ended = run(free_ports(), tmp_path / state)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.startswith("vertex_local: ")
        assert message in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_a_fault_at_the_start_ends_the_emulator(tmp_path: Path) -> None:
    stop(start(tmp_path / "state"))
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "resources.sqlite")) as database, database:
        body = '{"name": "e", "deployedModels": [{"id": "1", "model": "m", "modelVersionId": "1"}]}'
        database.execute("INSERT INTO resources (kind, name, body) VALUES ('Endpoint', 'e', ?)", (body,))
    ended = run(free_ports(), tmp_path / "state")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "the services did not start" in ended.stderr
    assert "The Model 'm@1' does not exist" in (tmp_path / "state" / "log" / "emulator.log").read_text()


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_is_refused(emulator: Emulator, origin: str) -> None:
    body = b'{"displayName": "made by a page"}'
    url = f"{emulator.url}/v1/{PARENT}/endpoints"
    request = urllib.request.Request(url, body, headers={"Origin": origin})  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)  # noqa: S310
    with caught.value as error:
        assert (error.code, json.load(error)["error"]["status"]) == (403, "PERMISSION_DENIED")
    own = urllib.request.Request(emulator.url, headers={"Origin": emulator.url})  # noqa: S310
    with urllib.request.urlopen(own) as answer:  # noqa: S310
        assert answer.status == 200


def test_a_foreign_host_name_is_refused(emulator: Emulator) -> None:
    request = urllib.request.Request(emulator.url, headers={"Host": "rebound.example"})  # noqa: S310
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)  # noqa: S310
    with caught.value as error:
        assert error.code == 400


def test_a_killed_emulator_leaves_no_process_and_a_new_one_takes_over(tmp_path: Path) -> None:
    first = start(tmp_path / "state")
    try:
        endpoint, _ = busy(first, tmp_path)
        model = first.upload(parent_model=f"{PARENT}/models/kept", version_aliases=["candidate"]).model
        [deployed] = first.endpoints.get_endpoint(name=endpoint).deployed_models
        first.deploy(endpoint, f"{model}@candidate", {deployed.id: 70, "0": 30})
        job = job_of(greeter, tmp_path)
        finished = first.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job, pipeline_job_id="greeter").name
        request = {"parent": PARENT, "pipeline_job": job}
        schedule = {"display_name": "yearly", "cron": "0 0 29 2 *", "max_concurrent_run_count": 1}
        schedule |= {"create_pipeline_job_request": request}
        first.schedules.create_schedule(parent=PARENT, schedule=schedule)
        until(lambda: first.jobs.get_pipeline_job(name=finished).end_time)
        before = settled(first)
        pids = descendants_of(first.process.pid)
    finally:
        kill(first)
    wait_until_dead(pids)

    second = start(tmp_path / "state", first.port)
    try:
        assert settled(second) == before
        assert [len(found) for found in before] == [1, 2, 1, 1, 1]
        assert second.storage.bucket("models").blob("ndvi/model.mar").download_as_bytes() == b"weights"
        job = second.jobs.get_pipeline_job(name=f"{PARENT}/pipelineJobs/sleeper")
        assert job.state == aiplatform_v1.PipelineState.PIPELINE_STATE_FAILED
        assert "emulator ended" in job.error.message
        answering: set[str] = set()
        while len(answering) < 2:
            answering.add(answered_when_ready(second, endpoint))
        pids = descendants_of(second.process.pid)
    finally:
        stop(second)
    wait_until_dead(pids, timeout_s=0)


def answered_when_ready(emulator: Emulator, endpoint: str) -> str:
    """The deployed model that gives back what it is sent."""
    deadline = time.monotonic() + 20
    while True:
        try:
            answer = emulator.predictions.predict(endpoint=endpoint, instances=[5])
        except exceptions.ServiceUnavailable as error:
            if "is starting" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            assert list(answer.predictions) == [5]
            deployed_model_id: str = answer.deployed_model_id
            return deployed_model_id


def test_sigterm_ends_everything_within_seconds(tmp_path: Path) -> None:
    emulator = start(tmp_path / "state")
    try:
        _, pids = busy(emulator, tmp_path)
    finally:
        begin = time.monotonic()
        stop(emulator)
    assert time.monotonic() - begin < 8
    wait_until_dead(pids, timeout_s=0)
