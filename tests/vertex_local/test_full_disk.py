"""A full disk under the state directory: refused as that, and nothing that was acknowledged is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from google.api_core import exceptions
from google.cloud.aiplatform_v1 import PipelineState
from google.rpc import code_pb2

from containers.vertex_local.errors import InternalError, ResourceExhaustedError, unforeseen
from tests.faults.disks import PAGE, Disk, mounted

from .conftest import ECHO, PARENT, Emulator, kill, result_of, start, store_artifacts, until
from .test_command import job_of, sleeper
from .test_schedules import NEVER, create, template

__all__ = ["template"]

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk") as made:
        yield made


@pytest.fixture
def started(disk: Disk) -> Iterator[Callable[[], Emulator]]:
    """Starts an emulator whose state is on the disk; none outlives the test."""
    running: list[Emulator] = []

    def starting() -> Emulator:
        running.append(start(disk.path / "state"))
        return running[-1]

    yield starting
    for emulator in running:
        kill(emulator)


def names(emulator: Emulator) -> set[str]:
    return {each.display_name for each in emulator.schedules.list_schedules(parent=PARENT)}


def test_what_is_refused_is_told_and_what_was_acknowledged_is_kept(
    disk: Disk, started: Callable[[], Emulator], template: str
) -> None:
    running = started()
    store_artifacts(running)
    model = running.upload("ndvi")
    disk.resize(disk.used + 15 * PAGE)
    made, refusals = set[str](), []
    for number in range(30):
        try:
            create(running, template, cron=NEVER, displayName=f"nightly-{number}")
            made.add(f"nightly-{number}")
        except exceptions.GoogleAPICallError as error:
            refusals.append(error)
    assert made
    assert len(refusals) > 1
    for refusal in refusals:
        assert refusal.code == 429
        assert "the disk of the state directory is full (database or disk is full), so nothing was" in refusal.message
        assert refusal.message.endswith("make room there, or start with another --state")
    kill(running)
    disk.resize(64 << 20)
    again = started()
    assert names(again) == made
    assert again.models.get_model(name=model.model).display_name == "ndvi"
    create(again, template, cron=NEVER, displayName="later")
    assert names(again) == made | {"later"}


def test_an_operation_that_cannot_be_written_ends(disk: Disk, started: Callable[[], Emulator]) -> None:
    running = started()
    store_artifacts(running)
    request = {"parent": PARENT, "model": {"display_name": "ndvi", "container_spec": {"image_uri": ECHO}}}
    operations = [running.models.upload_model(request) for _ in range(2)]
    disk.resize(disk.used)
    for operation in operations:
        with pytest.raises(exceptions.TooManyRequests, match="the disk of the state directory is full"):
            result_of(operation)
    assert list(running.models.list_models(parent=PARENT)) == []
    kill(running)
    disk.resize(64 << 20)
    again = started()
    for operation in operations:
        found = again.models.get_operation({"name": operation.operation.name})
        assert (found.done, found.error.code) == (True, code_pb2.ABORTED)
    assert list(again.models.list_models(parent=PARENT)) == []


def test_a_job_that_cannot_be_written_ends(disk: Disk, started: Callable[[], Emulator], tmp_path: Path) -> None:
    running = started()
    name = running.jobs.create_pipeline_job(parent=PARENT, pipeline_job=job_of(sleeper, tmp_path)).name
    disk.resize(disk.used)  # before its worker has told what it is about to run
    until(lambda: running.jobs.get_pipeline_job(name=name).state == PipelineState.PIPELINE_STATE_FAILED)
    kill(running)
    disk.resize(64 << 20)
    job = started().jobs.get_pipeline_job(name=name)
    assert job.state == PipelineState.PIPELINE_STATE_FAILED
    assert job.error.message == "The emulator ended before the job."


def test_of_other_faults_the_type_is_told() -> None:
    assert isinstance(unforeseen(OSError(28, "No space left on device")), ResourceExhaustedError)
    other = unforeseen(KeyError("x"))
    assert isinstance(other, InternalError)
    assert other.message == "KeyError: 'x'"
