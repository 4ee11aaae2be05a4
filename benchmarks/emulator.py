"""What a prediction through the local Vertex AI costs more than one of the model's own server.

    python -m benchmarks.emulator

The same request, by turns: to the server that the emulator started, and to its endpoint. Then 64 clients at once
through the endpoint, of whose requests none may be lost. On two cores, clients included.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks import models
from benchmarks.bodies import encoded
from benchmarks.load import CallError, HttpConnection
from benchmarks.results import Figure, report
from components.local import BUCKET, LOCATION, PROJECT, local_vertex
from components.vertex import Vertex, storage_client

_IMAGE = "registry/images/serving-pytorch:1"
_PREDICT_ROUTE = "/predict"
_WARM_UP, _TURNS = 100, 1000
_CLIENTS, _REQUESTS_EACH = 64, 20


def main() -> int:
    """Measure, print and keep."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = models.probabilities(folder / "model")
        body = encoded("SERIALIZED_TF_TENSORS", model.contract, models.tiles(model.contract, 1, 64)).body
        with local_vertex(folder / "state"):
            vertex = Vertex(PROJECT, LOCATION)
            endpoint = _deploy(vertex, model.served)
            emulator_port = int(vertex.host.rpartition(":")[2])
            path = f"/v1/{endpoint}:predict"
            figures = [
                *_beside_each_other(_server_port(endpoint), emulator_port, path, body),
                *_many_clients(emulator_port, path, body),
            ]
    report("emulator", figures)
    return 0


def _deploy(vertex: Vertex, artifact: Path) -> str:
    """The name of an endpoint at which the model is deployed."""
    bucket = storage_client().bucket(BUCKET)
    for file in (artifact if artifact.is_dir() else artifact.parent).iterdir():
        if file.is_file():
            bucket.blob(f"model/{file.name}").upload_from_filename(str(file))
    container = {"image_uri": _IMAGE, "predict_route": _PREDICT_ROUTE, "health_route": "/health"}
    model = {"display_name": "tile", "artifact_uri": f"gs://{BUCKET}/model", "container_spec": container}
    uploaded = vertex.models.upload_model({"parent": vertex.parent, "model": model}).result(timeout=60)
    made = vertex.endpoints.create_endpoint(parent=vertex.parent, endpoint={"display_name": "tile"}).result(timeout=60)
    resources = {"machine_spec": {"machine_type": "n1-standard-2"}, "min_replica_count": 1}
    deployed = {"model": uploaded.model, "dedicated_resources": resources}
    vertex.endpoints.deploy_model(endpoint=made.name, deployed_model=deployed, traffic_split={"0": 100}).result(
        timeout=120
    )
    return str(made.name)


def _server_port(endpoint: str) -> int:
    """The HTTP port of the prediction server that the emulator has started for an endpoint."""
    mark = f"AIP_ENDPOINT_ID={endpoint.rpartition('/')[2]}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables, command = (process / "environ").read_bytes(), (process / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if mark in variables.split(b"\0"):
            arguments = command.split("\0")
            return int(arguments[arguments.index("--http-port") + 1])
    raise RuntimeError(f"no prediction server runs for {endpoint}")


def _beside_each_other(server_port: int, emulator_port: int, path: str, body: bytes) -> list[Figure]:
    with _connected(server_port, _PREDICT_ROUTE) as server, _connected(emulator_port, path) as emulator:
        seconds: dict[str, list[float]] = {"server": [], "emulator": []}
        for turn in range(_WARM_UP + _TURNS):
            for name, connection in (("server", server), ("emulator", emulator)):
                begin = time.perf_counter()
                connection.call(body)
                if turn >= _WARM_UP:
                    seconds[name].append(time.perf_counter() - begin)
    alone, through = (1e3 * statistics.median(times) for times in seconds.values())
    p99 = 1e3 * float(np.quantile(np.array(seconds["emulator"]) - np.array(seconds["server"]), 0.99))
    return [
        Figure("1 tile of 64 x 64, the server itself, median", alone, "ms"),
        Figure("1 tile of 64 x 64, through the emulator, median", through, "ms"),
        Figure("more through the emulator, at the median", through - alone, "ms", "at most 3"),
        Figure("more through the emulator, 99th percentile of the turns", p99, "ms"),
    ]


def _many_clients(port: int, path: str, body: bytes) -> list[Figure]:
    def client(_: int) -> int:
        lost = 0
        with _connected(port, path) as connection:
            for _ in range(_REQUESTS_EACH):
                try:
                    connection.call(body)
                except CallError:
                    lost += 1
        return lost

    begin = time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as pool:
        lost = sum(pool.map(client, range(_CLIENTS)))
    rate = _CLIENTS * _REQUESTS_EACH / (time.perf_counter() - begin)
    return [
        Figure(f"{_CLIENTS} clients at once: requests lost of {_CLIENTS * _REQUESTS_EACH}", lost, "", "0"),
        Figure(f"{_CLIENTS} clients at once: answered", rate, "a second"),
    ]


@contextmanager
def _connected(port: int, path: str) -> Iterator[HttpConnection]:
    connection = HttpConnection(port, path)
    try:
        yield connection
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
