"""Preflight: before anything is created, our server must answer an archive's golden tiles in a private process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import grpc
import requests

from components.earthengine.contract import FILE_NAME, ModelContract
from components.earthengine.errors import ContractError, PayloadError, VerificationError
from components.earthengine.payloads import codec
from components.earthengine.payloads.predict_messages import GRPC_METHOD
from components.golden import Golden
from components.replay import Answer, Ask, percentile_ms, replay
from components.verification import checks_of
from containers import guard

_HOST = "127.0.0.1"
# A framework's import and gigabytes of weights from a cold disk take a minute or two.
_START_SECONDS = 300
# Vertex AI's own limit for a request to a shared endpoint is 60 s (endpoint types page).
_REQUEST_SECONDS = 60
_LATE = f"has not answered within {_REQUEST_SECONDS} s, which is a shared endpoint's limit; declare a smaller tile"
# A connection breaks a moment before the process that held it is gone.
_GONE_SECONDS = 2
_POLL_SECONDS = 0.05


def check_archive(archive: Path) -> str:
    """Serve an archive as an endpoint would, and hold its answers to all golden tiles against the source model's.

    Args:
        archive: folder with model.mar or a SavedModel, model.yaml and golden.npz.

    Returns:
        What answered, and how, for the step's log.

    Raises:
        VerificationError: its server does not start, ends, refuses a tile, or answers otherwise than model.yaml says
            and the source model does; what the server logged is on stderr then.
        ContractError: there is no valid model.yaml.
        ModelError: there are no golden tiles.
    """
    contract, golden = ModelContract.read(archive), Golden.load(archive)
    with _serving(archive) as server, _asking(server, codec(contract.payload_format).transport) as ask:
        runtime = server.runtime()
        try:
            replayed = replay(contract, golden, ask, at_least=1)
        except PayloadError as error:
            raise _refusal(
                f"does not answer in {contract.payload_format} as {FILE_NAME} says: {error}; archive the model again"
            ) from error
        except ContractError as error:
            raise _refusal(f"can be sent no golden tile, or can send no answer: {error}") from error
    checks = checks_of(contract, replayed)
    if faults := "; ".join(check.text for check in checks if not check.passed):
        raise _refusal(f"does not answer the golden tiles as it must: {faults}; mend the model or {FILE_NAME}")
    return (
        f"{runtime}: {len(replayed.exchanges)} requests in {contract.payload_format} with {len(replayed.sent)} golden "
        f"tiles are answered; {checks[0].text}; a request takes {percentile_ms(replayed, 50):,.1f} ms at the median"
    )


@dataclass(frozen=True)
class _Server:
    """Our server in a process of its own, which logs to a file in memory."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]
    session: requests.Session

    def said(self) -> str:
        """Its log so far."""
        # The file's own position is where the server writes.
        return os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, 0).decode(errors="replace")

    def addresses(self) -> dict[str, str]:
        """HOST:PORT by transport; empty until it listens."""
        found = re.search(rf"HTTP on (?P<http>{_HOST}:\d+), gRPC on (?P<grpc>{_HOST}:\d+)\b", self.said())
        return found.groupdict() if found else {}

    def is_ready(self) -> bool:
        """Whether it has loaded the model and answered a tile of 0s."""
        address = self.addresses().get("http")
        with suppress(requests.RequestException):  # it may end meanwhile
            return bool(address) and self.session.get(f"http://{address}/health", timeout=_REQUEST_SECONDS).ok
        return False

    def runtime(self) -> str:
        """What runs the model: framework, version, threads."""
        (found,) = re.findall(r'\bruntime="([^"]*)"', self.send("GET", "/metrics").decode())
        return str(found)

    def send(self, method: str, route: str, body: bytes | None = None) -> bytes:
        """What it answers over HTTP.

        Raises:
            VerificationError: nothing, too late, or another status than 200.
        """
        url = f"http://{self.addresses()['http']}{route}"
        try:
            answer = self.session.request(method, url, data=body, timeout=_REQUEST_SECONDS)
        except requests.Timeout as error:
            raise _refusal(_LATE) from error
        except requests.RequestException as error:
            raise self.lost(f"breaks off its answer to {method} {route}: {error}") from error
        if not answer.ok:
            raise _refusal(f"answers {answer.status_code} to {method} {route}: {answer.text[:2000]}")
        return answer.content

    def lost(self, how: str) -> VerificationError:
        """The error of a request that was not answered: that the server has ended if it has, else how it was lost."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_GONE_SECONDS)
            return _refusal(f"ended before it had answered the golden tiles: {self.ending()}")
        return _refusal(how)

    def ending(self) -> str:
        """Why it has ended: its own error, else the signal or status, and the last line that it did not log itself."""
        _, told, error = self.said().rpartition("serving: error: ")
        if told:
            return error.strip()
        status = self.process.wait()
        signals = {128 + number: number.name for number in signal.Signals}  # as the guard, and shells, tell of one
        cause = signals.get(status, f"exit status {status}")
        lines = [line for line in self.said().splitlines() if line.strip() and not line.startswith("{")]
        return ": ".join([cause, *lines[-1:]])


@contextmanager
def _serving(archive: Path) -> Iterator[_Server]:
    """Our server of an archive, ready, for the block; it does not outlive it, nor this process."""
    # The guard ends it when its own stdin is closed: by Popen at the end of the block, by the kernel with this process.
    words = [sys.executable, "-m", "containers.serving", "--model", str(archive)]
    words += ["--host", _HOST, "--http-port", "0", "--grpc-port", "0"]
    # Its arguments say all; what Vertex AI has told this step is not meant for it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIP_")}
    # In memory, so that a full disk silences no server.
    with os.fdopen(os.memfd_create("log"), "w+b") as log, requests.Session() as session:
        session.trust_env = False  # no proxy leads to this machine itself
        try:
            with subprocess.Popen(  # noqa: S603
                guard.command(words),
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ) as process:
                server = _Server(process, log, session)
                _wait_until_ready(server)
                yield server
        except VerificationError:
            sys.stderr.write(server.said())
            raise


def _wait_until_ready(server: _Server) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not server.is_ready():
        if server.process.poll() is not None:
            raise _refusal(f"does not start: {server.ending()}")
        if time.monotonic() > deadline:
            raise _refusal(f"has not loaded the model and answered a tile of 0s within {_START_SECONDS} s; see its log")
        time.sleep(_POLL_SECONDS)


@contextmanager
def _asking(server: _Server, transport: Literal["http", "grpc"]) -> Iterator[Ask]:
    """What sends a request to a server that is ready."""
    if transport == "http":
        yield lambda body: _timed(lambda: server.send("POST", "/predict", body))
        return

    def ask(body: bytes) -> Answer:
        try:
            return _timed(lambda: predict(body, timeout=_REQUEST_SECONDS))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise _refusal(_LATE) from error
            raise server.lost(f"answers {error.code().name} to {GRPC_METHOD}: {error.details()}") from error

    # An answer that is too large is a check's to tell.
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(server.addresses()["grpc"], options) as channel:
        predict = channel.unary_unary(GRPC_METHOD, None, None)
        yield ask


def _timed(predict: Callable[[], bytes]) -> Answer:
    begin = time.perf_counter()
    return Answer(predict(), time.perf_counter() - begin)


def _refusal(what: str) -> VerificationError:
    return VerificationError(f"the archive is not uploaded: its server {what}")
