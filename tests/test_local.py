"""What a rehearsal needs of this machine, told before anything is started."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from docker import DockerClient

from components.earthengine.errors import LocalError
from components.local import check_images, check_running, local_vertex
from components.vertex import EMULATOR
from tests.conftest import WriteModel
from tests.vertex_local.conftest import start, stop

ROOT = Path(__file__).parents[1]


def test_a_local_vertex_ai_that_is_not_named_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EMULATOR, raising=False)
    with pytest.raises(LocalError, match=f"^{EMULATOR} is not set, and --running takes"):
        check_running()


def test_a_local_vertex_ai_that_runs_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_vertex(tmp_path / "state"):
        check_running()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
        with pytest.raises(LocalError, match=r"^STORAGE_EMULATOR_HOST is http://127\.0\.0\.1:1, where no .*start it"):
            check_running()


def test_a_local_vertex_ai_of_another_project_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = start(tmp_path / "state", GOOGLE_CLOUD_PROJECT="other")
    try:
        monkeypatch.setenv(EMULATOR, f"127.0.0.1:{other.port}")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{other.port + 1}")
        with pytest.raises(LocalError, match=r"no local Vertex AI of project local answers .*GOOGLE_CLOUD_PROJECT"):
            check_running()
    finally:
        stop(other)


def test_a_local_vertex_ai_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EMULATOR, "127.0.0.1:1")
    with pytest.raises(
        LocalError, match=rf"^{EMULATOR} is 127\.0\.0\.1:1, where no local Vertex AI of project local .*start"
    ):
        check_running()


@pytest.mark.containers
def test_images_that_are_missing_are_named_together(docker: DockerClient) -> None:
    check_images(["python:3.11-slim"])
    with pytest.raises(LocalError, match=r"^none/a:1, none/b:1: no such image .*make images"):
        check_images(["none/a:1", "python:3.11-slim", "none/b:1"])


# As a user who is neither root nor of the socket's group.
CLOSED = """
import os
import docker, containers.vertex_local.daemon
from components.local import check_images
if os.getuid() == 0:
    os.setuid(65534)
check_images(["image"])
"""


def test_a_docker_daemon_that_may_not_be_asked_is_told_from_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "d.sock"))
        listener.listen()
        (tmp_path / "d.sock").chmod(0)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/d.sock")
        ended = subprocess.run([sys.executable, "-c", CLOSED], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "LocalError: --runner docker may not open Docker's socket" in ended.stderr
    assert "be root or of the socket's group" in ended.stderr


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--runner", "docker"], "--runner docker needs a Docker daemon, and none answers at "),
        (["--runner", "docker", "--running"], "--runner docker is for a Vertex AI of its own; .*leave one"),
    ],
)
def test_the_command_says_so_in_one_line(
    write_model: WriteModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], error: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    command = [sys.executable, str(ROOT / "pipeline.py"), "run", str(write_model()), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert re.match(f"error {error}", ended.stderr)
    assert ended.stderr.count("\n") == 1
