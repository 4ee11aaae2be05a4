"""The serving image answers Earth Engine in every format, for its framework."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from components.earthengine.contract import Framework, ModelContract, PayloadFormat
from components.earthengine.payloads import CODECS, codec
from components.golden import Golden
from components.replay import Answer, replay
from components.verification import checks_of
from tests.conftest import FRAMEWORKS
from tests.containers.conftest import BUILD_S, image_of
from tests.serving.conftest import Server

pytestmark = [pytest.mark.containers, pytest.mark.timeout(BUILD_S)]
# On the machine's own network, where the server chooses its ports as it does for the tests of the server itself.
STRICT = ("--rm", "--network=host", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
PORTS = ("--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "0")


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> Framework:
    found: Framework = request.param
    return found


@pytest.fixture(scope="module")
def server(docker: DockerClient, archives: dict[Framework, Path], framework: Framework) -> Iterator[Server]:
    command = ["docker", "run", *STRICT, "--volume", f"{archives[framework]}:/model:ro"]
    command += [image_of(f"serving-{framework}"), "--model", "/model", *PORTS]
    running = Server(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    running.wait_for("ready")
    yield running
    running.process.terminate()
    assert running.end()[0] == 0


@pytest.mark.parametrize("payload_format", sorted(CODECS))
def test_it_answers_the_golden_tiles_in(
    server: Server, archives: dict[Framework, Path], framework: Framework, payload_format: PayloadFormat
) -> None:
    contract = ModelContract.read(archives[framework]).model_copy(update={"payload_format": payload_format})
    http = codec(payload_format).transport == "http"
    send: Callable[[bytes], bytes] = (lambda body: server.post(body).content) if http else server.call

    def ask(body: bytes) -> Answer:
        begin = time.perf_counter()
        return Answer(send(body), time.perf_counter() - begin)

    replayed = replay(contract, Golden.load(archives[framework]), ask, at_least=1, at_most=4)
    assert [check.text for check in checks_of(contract, replayed) if not check.passed] == []
