"""The prediction server as a process."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path

from benchmarks.processes import Group
from containers.ports import free_ports

_HEALTH_EVERY_S = 0.003


class Server(Group):
    """The prediction server with an archived model, on the loopback; waits until it is healthy."""

    def __init__(self, model: Path, log: Path) -> None:
        self.ports = dict(zip(("http", "grpc"), free_ports(2), strict=True))
        command = [sys.executable, "-m", "containers.serving", "--model", str(model), "--host", "127.0.0.1"]
        command += ["--http-port", str(self.ports["http"]), "--grpc-port", str(self.ports["grpc"])]
        super().__init__(command, log)
        self.wait_until(self._healthy, _HEALTH_EVERY_S)

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (http.client.HTTPException, OSError):
            return False
        finally:
            connection.close()
