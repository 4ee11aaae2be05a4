"""`make audit` against a service of vulnerabilities on this machine, which speaks OSV's protocol."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HASH = f"--hash=sha256:{0:064x}"
VULNERABILITY = {
    "id": "OSV-1",
    "aliases": [],
    "published": "2026-01-01T00:00:00Z",
    "affected": [],
    "summary": "runs any code",
}


class _Service(http.server.BaseHTTPRequestHandler):
    vulnerable: tuple[str, str]
    asked: list[tuple[str, str]]

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        package = (query["package"]["name"], query["version"])
        self.asked.append(package)
        answer: dict[str, Any] = {"vulns": [VULNERABILITY]} if package == self.vulnerable else {}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[tuple[str, type[_Service]]]:
    """The address of a service, and what it answers and was asked."""
    handler = type("Service", (_Service,), {"vulnerable": ("", ""), "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/query", handler
        server.shutdown()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile, with lock files of a few packages."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / "containers" / "requirements").mkdir(parents=True)
    for name, package in {"a": "torch==2.13.0+cpu", "b": "numpy==2.4.6", "c": "requests==2.33.0"}.items():
        (tmp_path / "containers" / "requirements" / f"{name}.txt").write_text(f"# by uv\n{package} \\\n    {HASH}\n")
    return tmp_path


def audit(project: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `make audit`, with what it needs taken as set up."""
    command = ["make", "--assume-old=.venv/.ready", "audit", f"BIN={ROOT}/.venv/bin", *more]
    return subprocess.run(
        command, cwd=project, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=200
    )


def test_every_lock_is_asked_about_by_its_public_version(project: Path, service: tuple[str, type[_Service]]) -> None:
    url, handler = service
    done = audit(project, f"AUDIT=--vulnerability-service osv --osv-url {url}")
    assert done.returncode == 0, done.stderr
    assert sorted(handler.asked) == [("numpy", "2.4.6"), ("requests", "2.33.0"), ("torch", "2.13.0")]
    assert done.stderr.count("No known vulnerabilities found") == 3


@pytest.mark.parametrize("package", [("torch", "2.13.0"), ("requests", "2.33.0")])
def test_a_vulnerability_in_one_lock_fails_the_whole(
    project: Path, service: tuple[str, type[_Service]], package: tuple[str, str]
) -> None:
    url, handler = service
    handler.vulnerable = package
    done = audit(project, f"AUDIT=--vulnerability-service osv --osv-url {url}")
    assert done.returncode != 0
    assert "Found 1 known vulnerability in 1 package" in done.stderr
    assert "OSV-1" in done.stdout
    assert len(handler.asked) == 3  # what is behind the first fault is told as well


def test_a_service_that_cannot_be_reached_is_a_failure(project: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    done = audit(project, HTTPS_PROXY=nowhere, https_proxy=nowhere, PIP_NO_CACHE_DIR="1")
    assert done.returncode != 0
    assert "No known vulnerabilities found" not in done.stderr + done.stdout
    assert "pypi.org" in done.stderr


def test_what_has_no_hash_is_a_failure(project: Path, service: tuple[str, type[_Service]]) -> None:
    (project / "containers" / "requirements" / "b.txt").write_text("numpy==2.4.6\n")
    done = audit(project, f"AUDIT=--vulnerability-service osv --osv-url {service[0]}")
    assert done.returncode != 0
    assert "does not contain a hash" in done.stderr
