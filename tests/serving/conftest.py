from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from components.earthengine.contract import ModelContract
from tests.serving.contracts import contract_text

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass
class Server:
    """A prediction server in a process of its own."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self.lines.extend(stream)

    @property
    def ports(self) -> tuple[int, int]:
        found = self.wait_for(r"HTTP on \S+:(\d+), gRPC on \S+:(\d+)")
        return int(found[1]), int(found[2])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def entries(self) -> list[dict[str, Any]]:
        """What it logged for Cloud Logging."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of its page for Prometheus, by name and labels as they stand there."""
        page = httpx.get(self.url + "/metrics").text
        pairs = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
        return {name: float(number) for name, number in pairs}

    @property
    def resident_bytes(self) -> int:
        """Memory of the server and its worker."""
        return sum(resident_bytes_of(process) for process in (self.process.pid, self.worker) if process)

    @property
    def worker(self) -> int:
        """The process that has the model, 0 while there is none."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        children = "".join((task / "children").read_text() for task in tasks.iterdir())
        return next((int(child) for child in children.split()), 0)

    def wait_for(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """The first line of its log that matches."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := re.search(pattern, "".join(self.lines)):
                return found
            if not self._reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f"no {pattern!r} in {self.lines}")

    def end(self) -> tuple[int, str]:
        """Wait for its own end; the exit status and its log."""
        status = self.process.wait(60)
        self._reader.join(5)
        return status, "".join(self.lines)

    def post(self, body: bytes, path: str = "/predict") -> httpx.Response:
        return httpx.post(self.url + path, content=body, timeout=30)

    def channel(self) -> grpc.Channel:
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        return grpc.insecure_channel(f"127.0.0.1:{self.ports[1]}", options)

    def call(self, body: bytes, method: str = PREDICT) -> bytes:
        with self.channel() as channel:
            answer: bytes = channel.unary_unary(method, None, None)(body, timeout=30)
            return answer


def resident_bytes_of(process: int) -> int:
    """Memory of a process, 0 when it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"VmRSS:\s+(\d+) kB", status)  # a zombie has none
    return int(found[1]) * 1024 if found else 0


Start = Callable[..., Server]


@pytest.fixture(scope="session")
def start() -> Iterator[Start]:
    """Starts a server with these arguments and variables, on ports that the system chooses."""
    servers: list[Server] = []

    def starting(*arguments: str, ports: bool = True, module: str = "containers.serving", **variables: str) -> Server:
        chosen = ("--http-port", "0", "--grpc-port", "0") if ports else ()
        command = [sys.executable, "-m", module, "--host", "127.0.0.1", *chosen, *arguments]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables})
        servers.append(Server(process))
        return servers[-1]

    yield starting
    for server in servers:
        server.process.terminate()
    for server in servers:
        server.end()


def write_archive(path: Path, code: str, contract: str) -> Path:
    """A `.mar` of a scripted module, put together by hand."""
    import torch

    module = path.parent / f"{path.stem}_net.py"
    module.write_text(f"import torch\nfrom typing import Dict\nclass Net(torch.nn.Module):\n{code}")
    names: dict[str, Any] = {}
    exec(compile(module.read_text(), str(module), "exec"), names)  # noqa: S102  TorchScript reads the file
    script = path.parent / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(names["Net"]().eval()), str(script))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", '{"model": {"modelName": "model", "serializedFile": "script.pt"}}')
        archive.write(script, "script.pt")
        archive.writestr("model.yaml", contract)
    return path


TWO_OUTPUTS = """
    def forward(self, tiles: torch.Tensor) -> Dict[str, torch.Tensor]:
        if tiles[0, 0, 0, 0] == 666:
            raise ValueError("such a tile breaks the model")
        return {"total": tiles.sum(1), "pair": tiles.permute(0, 2, 3, 1) * 2}
"""
ONE_OUTPUT = """
    def forward(self, tiles: torch.Tensor) -> Dict[str, torch.Tensor]:
        return {"total": tiles.sum(1)}
"""


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PyTorch artifact with one output."""
    return write_archive(tmp_path_factory.mktemp("one") / "model.mar", ONE_OUTPUT, contract_text("pytorch"))


@pytest.fixture(scope="session")
def torch_server(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A PyTorch model with two outputs, served from its folder."""
    folder = tmp_path_factory.mktemp("two")
    write_archive(folder / "model.mar", TWO_OUTPUTS, contract_text("pytorch", two=True))
    server = start("--model", str(folder))
    server.wait_for("ready")
    return server


@pytest.fixture(scope="session")
def tensorflow_server(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A SavedModel with two outputs, served."""
    import tensorflow as tf

    class Net(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([None, 2, None, None], tf.float32, name="tiles")])  # type: ignore[untyped-decorator]
        def tiles(self, tiles: Any) -> Any:
            return {"total": tf.reduce_sum(tiles, 1), "pair": tf.transpose(tiles, [0, 2, 3, 1]) * 2}

    folder = tmp_path_factory.mktemp("tensorflow")
    net = Net()
    tf.saved_model.save(net, str(folder), {"tiles": net.tiles})
    (folder / "model.yaml").write_text(contract_text("tensorflow", two=True))
    server = start("--model", str(folder))
    server.wait_for("ready")
    return server


@pytest.fixture(scope="session")
def sleeper(start: Start) -> Server:
    """A server whose model takes as long as a request says (see sleeper.py), with the contract `one`."""
    server = start(module="tests.serving.sleeper")
    server.wait_for("ready")
    return server


@pytest.fixture(scope="session")
def two() -> ModelContract:
    return ModelContract.parse(contract_text("pytorch", two=True))


@pytest.fixture(scope="session")
def one() -> ModelContract:
    return ModelContract.parse(contract_text("pytorch"))
