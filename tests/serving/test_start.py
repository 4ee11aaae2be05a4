"""How the server starts, refuses to start, and stops."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.serving.conftest import ONE_OUTPUT, TWO_OUTPUTS, Start, write_archive
from tests.serving.contracts import contract_text


def test_it_stops_when_asked_to(start: Start, archive: Path) -> None:
    server = start("--model", str(archive))
    server.wait_for("ready")
    server.process.send_signal(signal.SIGTERM)
    status, log = server.end()
    assert status == 0, log
    assert "Traceback" not in log


def test_it_stops_while_it_loads(start: Start, archive: Path) -> None:
    server = start("--model", str(archive))
    server.wait_for("HTTP on")
    server.process.terminate()
    status, log = server.end()
    assert status == 0, log


def test_the_port_is_open_before_the_model_is_ready(start: Start, tmp_path: Path) -> None:
    slow = "    def forward(self, tiles: torch.Tensor) -> Dict[str, torch.Tensor]:\n"
    slow += "        total = tiles\n        for i in range(200):\n"
    slow += "            total = tiles + torch.rand([1000, 1000]).mean()\n"
    slow += "        return {'total': total.sum(1)}\n"
    server = start("--model", str(write_archive(tmp_path / "model.mar", slow, contract_text("pytorch"))))
    answer = httpx.get(server.url + "/health", timeout=30)
    assert answer.status_code == 503
    assert "loaded" in answer.json()["error"]
    refused = server.post(b"{}")
    assert refused.status_code == 503
    server.wait_for("ready")
    assert httpx.get(server.url + "/health").status_code == 200


@pytest.mark.parametrize("flag", ["--http-port", "--grpc-port"])
def test_a_taken_port(start: Start, archive: Path, flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, log = start("--model", str(archive), flag, str(port)).end()
    assert status == 1
    assert log.startswith(f"serving: error: cannot listen on 127.0.0.1:{port} (")
    assert f"give another {flag}" in log
    assert len(log.splitlines()) == 1


def test_two_servers_do_not_share_a_port(start: Start, archive: Path) -> None:
    first = start("--model", str(archive))
    status, log = start("--model", str(archive), "--grpc-port", str(first.ports[1])).end()
    assert status == 1
    assert "--grpc-port" in log


def test_a_missing_model(start: Start, tmp_path: Path) -> None:
    status, log = start("--model", str(tmp_path / "none")).end()
    assert status == 1
    assert f"serving: error: {tmp_path / 'none'} does not exist; give a .mar" in log
    status, log = start("--model", str(tmp_path)).end()
    assert status == 1
    assert "holds nothing; it must hold model.mar (PyTorch) or saved_model.pb (TensorFlow)" in log
    status, log = start(AIP_STORAGE_URI="").end()
    assert status == 1
    assert "no model was named; give --model, or set AIP_STORAGE_URI" in log


def test_broken_archives(start: Start, tmp_path: Path, archive: Path) -> None:
    import zipfile

    garbage = tmp_path / "garbage.mar"
    garbage.write_bytes(b"no zip")
    bare = tmp_path / "bare.mar"
    with zipfile.ZipFile(bare, "w") as made:
        made.writestr("model.yaml", "")
    wrong = write_archive(tmp_path / "wrong.mar", TWO_OUTPUTS, contract_text("pytorch"))
    silent = write_archive(tmp_path / "silent.mar", ONE_OUTPUT, "name: silent")
    servers = [
        (start("--model", str(garbage)), "cannot be read as a .mar (File is not a zip file)"),
        (start("--model", str(bare)), "MAR-INF/MANIFEST.json"),
        (start("--model", str(wrong)), "does not answer as model.yaml says: the answer: 'pair' is unknown"),
        (start("--model", str(silent)), "model.yaml: outputs is missing"),
    ]
    for server, said in servers:
        status, log = server.end()
        assert status == 1
        assert said in log
        assert "Traceback" not in log


def test_help_and_wrong_options() -> None:
    for options, status, said in (
        (["--help"], 0, "AIP_STORAGE_URI"),
        (["--http-port", "x"], 2, "'x' is no port"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "containers.serving", *options],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status
        assert said in done.stdout + done.stderr
