"""What the local Vertex AI and all that it starts listen at: the loopback interface, and nothing besides."""

import sys
from pathlib import Path

import pytest

from containers.ports import free_ports
from tests.trigger.function import environment, running

from .conftest import PARENT, Emulator, until
from .listening import listening
from .test_command import descendants_of
from .test_custom_jobs import custom_job

pytestmark = pytest.mark.slow


def tree(emulator: Emulator) -> set[int]:
    return {emulator.process.pid, *descendants_of(emulator.process.pid)}


def test_all_that_the_emulator_starts_listens_on_loopback_alone(emulator: Emulator) -> None:
    [own] = free_ports(1)
    endpoint = emulator.endpoint(display_name="listening")
    emulator.deploy(endpoint, emulator.upload().model, {"0": 100}, id="1")
    program = f"import socket, time; s = socket.create_server(('127.0.0.1', {own})); time.sleep(600)"
    job = emulator.custom_jobs.create_custom_job(
        parent=PARENT, custom_job=custom_job([sys.executable, "-c", program])
    ).name
    expected = {emulator.port, emulator.port + 1, emulator.port + 2, own}
    try:
        until(lambda: {port for _, port in listening(tree(emulator))} >= expected)
        found = listening(tree(emulator))
    finally:
        emulator.custom_jobs.cancel_custom_job(name=job)
        emulator.endpoints.undeploy_model(endpoint=endpoint, deployed_model_id="1").result(timeout=20)
    assert all(address.is_loopback for address, _ in found), found
    # The three services, storage behind its door, the job's, and a model server with both of its ports.
    assert len(found) >= 7


def test_the_function_on_this_machine_listens_on_loopback_alone(tmp_path: Path) -> None:
    with running(tmp_path / "log", environment()) as function:
        found = listening({function.process.pid, *descendants_of(function.process.pid)})
    assert {port for _, port in found} == {function.port}
    assert all(address.is_loopback for address, _ in found), found
