"""The command: ``python -m containers.vertex_local --port N --state DIR``."""

import argparse
import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import uvicorn

from ..bounded_http import BoundedProtocol
from . import door, storage
from .errors import StartError
from .servers.runners import ProcessRunner, Runner
from .store import Store

_DEFAULT_PORT = 8901
_ANY = ("0.0.0.0", "::")  # noqa: S104
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Open connections, such as a client's pool, are cut after this time at the end.
_GRACE_S = 1
# A client's request must not meet the end of a connection that was idle: after uvicorn's 5 s one did, under load.
_KEEP_ALIVE_S = 600


def main() -> int:
    """Runs the emulator until SIGTERM or SIGINT; 1 when it cannot start."""
    arguments = _parser().parse_args()
    try:
        asyncio.run(_serve(arguments))
    except StartError as error:
        print(f"vertex_local: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:  # before uvicorn heeds it
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m containers.vertex_local",
        description="Vertex AI on one machine: model registry, endpoints, predictions and pipeline jobs over"
        " the REST API of the real service, with a Cloud Storage beside it.",
    )
    parser.add_argument("--port", type=int, default=_DEFAULT_PORT, help="of the API (default: %(default)s)")
    parser.add_argument(
        "--state",
        type=Path,
        default=Path(".vertex-local"),
        metavar="DIR",
        help="where models, endpoints, jobs, objects and logs are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--storage-port",
        type=int,
        help="of Cloud Storage (default: the API's + 1); not used where STORAGE_EMULATOR_HOST is set",
    )
    parser.add_argument(
        "--grpc-port", type=int, help="of the same services over gRPC, without TLS (default: the API's + 2)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; there is no authentication (default: %(default)s)",
    )
    parser.add_argument(
        "--runner",
        choices=["process", "docker"],
        default="process",
        help="what deployed models and the steps of pipelines are run by: programs of this machine, which their images"
        " stand for, or containers of the images themselves (default: %(default)s)",
    )
    return parser


async def _serve(arguments: argparse.Namespace) -> None:
    directory: Path = arguments.state.resolve()
    with _listen(arguments.host, arguments.port, "--port") as listener, closing(Store(directory)) as store:
        _configure_log(directory / "log" / "emulator.log")
        os.environ.setdefault("GOOGLE_CLOUD_PROJECT", "local")
        host = "127.0.0.1" if arguments.host in _ANY else _bracketed(arguments.host)
        os.environ["VERTEX_EMULATOR_HOST"] = f"{host}:{arguments.port}"
        async with _storage(arguments, directory), _runner(arguments.runner, directory) as runner:
            await _serve_api(arguments, store, directory, listener, runner)


@asynccontextmanager
async def _storage(arguments: argparse.Namespace, directory: Path) -> AsyncIterator[None]:
    if "STORAGE_EMULATOR_HOST" in os.environ:
        yield
        return
    port = arguments.storage_port or arguments.port + 1
    async with storage.alone(directory) as lock:
        listener = _listen("127.0.0.1", port, "--storage-port")
        # A bucket to begin with, named as the project is.
        (directory / "storage" / os.environ["GOOGLE_CLOUD_PROJECT"]).mkdir(parents=True, exist_ok=True)
        async with storage.running(directory, port, lock), door.before(listener, (storage.ADDRESS, port)):
            os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
            yield


@asynccontextmanager
async def _runner(name: str, directory: Path) -> AsyncIterator[Runner]:
    if name == "process":
        yield ProcessRunner()
        return
    from .servers import docker  # the SDK takes a third of a second to import

    async with docker.running(directory) as runner:
        yield runner


async def _serve_api(
    arguments: argparse.Namespace, store: Store, directory: Path, listener: socket.socket, runner: Runner
) -> None:
    grpc_port = arguments.grpc_port or arguments.port + 2
    _listen(arguments.host, grpc_port, "--grpc-port").close()
    # Only now: the messages of aiplatform_v1 take more than a second to import.
    from .app import VertexLocal, application

    service = VertexLocal(store, directory, runner)
    # A page of another site must not reach this service through a name of its own that resolves to 127.0.0.1.
    hosts = [*map(_bracketed, _LOOPBACK), *runner.hosts] if arguments.host in _LOOPBACK else ["*"]
    config = uvicorn.Config(
        application(service, f"{_bracketed(arguments.host)}:{grpc_port}", hosts),
        http=BoundedProtocol,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    server = uvicorn.Server(config)
    # uvicorn raises the signal that ended it once more; that must not end this process while Cloud Storage still runs.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    serving = asyncio.create_task(_until_ended(server, listener))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.005)
    if not server.started:
        await serving
        raise StartError(f"the services did not start; why is in {directory / 'log' / 'emulator.log'}")
    print(  # noqa: T201
        f"Vertex AI answers at http://{_bracketed(arguments.host)}:{arguments.port} (gRPC: {grpc_port}),"
        f" its state is in {directory}",
        f"export VERTEX_EMULATOR_HOST={os.environ['VERTEX_EMULATOR_HOST']}",
        f"export STORAGE_EMULATOR_HOST={os.environ['STORAGE_EMULATOR_HOST']}",
        sep="\n",
        flush=True,
    )
    await serving


async def _until_ended(server: uvicorn.Server, listener: socket.socket) -> None:
    with suppress(SystemExit):  # how uvicorn says that it cannot start
        await server.serve(sockets=[listener])


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int, option: str) -> socket.socket:
    """A socket that listens there.

    Raises:
        StartError: the port is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is given; it would cost 40 ms an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as fault:
        listener.close()
        if isinstance(fault, OSError) and fault.errno == errno.EADDRINUSE:
            raise StartError(f"port {port} is in use: stop what listens there, or give another {option}") from fault
        raise StartError(f"cannot listen on {host}:{port}: {fault}") from fault
    return listener


def _configure_log(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
