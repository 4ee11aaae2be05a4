"""Clients that send one request over and over, in a process of their own.

    python -m benchmarks.load TRANSPORT PORT PATH BODY [--clients N]

HTTP by the standard library, gRPC by grpcio, both as they come: a client is a thread with a connection that is kept.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Protocol

import grpc

from benchmarks.processes import Count, take_turns
from components.earthengine.payloads.predict_messages import GRPC_METHOD

HTTP_PATH = "/predict"

_TIMEOUT_S = 60


class CallError(Exception):
    """A request that was not answered with a prediction."""


class Connection(Protocol):
    """A connection that is kept from one request to the next."""

    def call(self, body: bytes) -> bytes:
        """The answer to a request; raises CallError."""

    def close(self) -> None:
        """Close it."""


class HttpConnection:
    """A connection of the standard library's client."""

    def __init__(self, port: int, path: str = HTTP_PATH) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        self._path = path

    def call(self, body: bytes) -> bytes:
        """See `Connection`."""
        try:
            self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            answer = response.read()
        except (HTTPException, OSError) as error:
            self._connection.close()  # the next request opens it again
            raise CallError(repr(error)) from error
        if response.status != 200:
            raise CallError(f"{response.status} {answer[:500]!r}")
        return answer

    def close(self) -> None:
        """See `Connection`."""
        self._connection.close()


class GrpcConnection:
    """A channel of grpcio."""

    def __init__(self, port: int) -> None:
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),  # or all channels of a process would share one connection
        ]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self._predict = self._channel.unary_unary(GRPC_METHOD, None, None)

    def call(self, body: bytes) -> bytes:
        """See `Connection`."""
        try:
            answer: bytes = self._predict(body, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise CallError(repr(error)) from error
        return answer

    def close(self) -> None:
        """See `Connection`."""
        self._channel.close()


def connect(transport: str, port: int, path: str = HTTP_PATH) -> Connection:
    """A connection to a server on this machine; `path` is of HTTP."""
    return GrpcConnection(port) if transport == "grpc" else HttpConnection(port, path)


class Clients:
    """A number of clients that send the same request, each its next one as soon as it has its answer."""

    def __init__(self, number: int, open_one: Callable[[], Connection], body: bytes) -> None:
        self._number = number
        self._open_one = open_one
        self._body = body
        self._threads = ThreadPoolExecutor(number)

    def work(self, seconds: float) -> Count:
        """Send for so many seconds, and wait for the answers that are out then.

        Connections are new: a server may have closed those of the last turn meanwhile.
        """
        connections = [self._open_one() for _ in range(self._number)]
        begin = time.perf_counter()
        counts = list(self._threads.map(lambda connection: self._one(connection, begin + seconds), connections))
        seconds = time.perf_counter() - begin
        for connection in connections:
            connection.close()
        return Count(sum(calls for calls, _ in counts), sum(errors for _, errors in counts), seconds)

    def _one(self, connection: Connection, end: float) -> tuple[int, int]:
        calls = errors = 0
        while time.perf_counter() < end:
            try:
                connection.call(self._body)
                calls += 1
            except CallError:
                errors += 1
        return calls, errors


def main() -> None:
    """Connect, then work in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("transport", choices=["http", "grpc"])
    parser.add_argument("port", type=int)
    parser.add_argument("path", help="of HTTP")
    parser.add_argument("body", type=Path, help="the request")
    parser.add_argument("--clients", type=int, default=1)
    arguments = parser.parse_args()

    def open_one() -> Connection:
        return connect(arguments.transport, arguments.port, arguments.path)

    take_turns(Clients(arguments.clients, open_one, arguments.body.read_bytes()).work)


if __name__ == "__main__":
    main()
