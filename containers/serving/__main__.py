"""The server's command line (`--help` tells all of it)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
from concurrent.futures import Future
from pathlib import Path
from types import FrameType

import uvicorn

from components.earthengine.errors import PipelineError
from containers.serving import log, memory, model, storage
from containers.serving.app import App
from containers.serving.grpc_service import GrpcServer
from containers.serving.limits import GRACE_S, KEEP_ALIVE_S
from containers.serving.model import ServedModel
from containers.serving.service import Service

_log = logging.getLogger("serving")

HEALTH_ROUTE = "/health"
PREDICT_ROUTE = "/predict"


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit status, 1 where the model or a port cannot be had."""
    memory.keep()
    options = _parser().parse_args(arguments)
    log.start()
    if not options.model:
        return _fail("no model was named; give --model, or set AIP_STORAGE_URI")
    service = Service()
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(_listen(options.host, options.http_port))
        except OSError as error:
            return _fail(_port_text("--http-port", options.host, options.http_port, error))
        try:
            grpc_server = GrpcServer(service, options.host, options.grpc_port)
        except OSError as error:
            return _fail(_port_text("--grpc-port", options.host, options.grpc_port, error))
        http_server = _HttpServer(service, grpc_server)
        # A thread that still writes there is not waited for.
        temporary = tempfile.TemporaryDirectory(prefix="serving-", ignore_cleanup_errors=True)
        directory = Path(stack.enter_context(temporary))
        loading = service.load(lambda: model.load(storage.fetch(options.model, directory)))

        def loaded(done: Future[ServedModel]) -> None:
            if error := done.exception():
                _tell(error, options.model)
                http_server.should_exit = True
                return
            grpc_server.serving()
            _log.info("ready: %s on %s", options.model, done.result().runtime)

        # Until uvicorn heeds them itself; whoever reads the line may stop the server at once.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, http_server.handle_exit)
        http_port = listener.getsockname()[1]
        _log.info("HTTP on %s:%d, gRPC on %s:%d", options.host, http_port, options.host, grpc_server.port)
        loading.add_done_callback(loaded)
        http_server.run(sockets=[listener])
    return 1 if loading.done() and loading.exception() else 0


class _HttpServer(uvicorn.Server):
    """The HTTP server, which runs both: a signal ends it, and it ends the gRPC server beside itself."""

    def __init__(self, service: Service, grpc_server: GrpcServer) -> None:
        environment = os.environ.get
        application = App(
            service,
            [environment("AIP_HEALTH_ROUTE") or HEALTH_ROUTE, HEALTH_ROUTE],
            [environment("AIP_PREDICT_ROUTE") or PREDICT_ROUTE, PREDICT_ROUTE],
        )
        super().__init__(
            uvicorn.Config(
                application,
                # 1 MB there and 0.5 MB back took 1.3 ms; 1.6 with h11, 1.9 with uvloop.
                http="httptools",
                loop="asyncio",
                lifespan="off",
                ws="none",
                interface="asgi3",
                proxy_headers=False,
                server_header=False,
                log_config=None,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=GRACE_S,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        self._service = service
        self._grpc_server = grpc_server

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  uvicorn's signature
        """Begin a graceful stop at a first signal, end at once at a second."""
        if self.should_exit:
            os._exit(128 + sig)
        self._service.stop()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in flight, of both transports at the same time."""
        stopped = self._grpc_server.stop(GRACE_S)
        await super().shutdown(sockets)
        await asyncio.to_thread(stopped.wait, GRACE_S)


def _tell(error: BaseException, uri: str) -> None:
    """Say why there is no model: in one line, after the stack where nobody foresaw it."""
    if isinstance(error, PipelineError):
        _fail(str(error))
        return
    _log.error("%s cannot be loaded", uri, exc_info=error)
    _fail(f"{uri} cannot be loaded ({type(error).__name__}: {error}); see above")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm, 40 ms an answer, off only where it is told that this is TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _port_text(flag: str, host: str, port: int, error: OSError) -> str:
    reason = error.strerror or error
    return f"cannot listen on {host}:{port} ({reason}); stop what uses it or give another {flag}"


def _fail(text: str) -> int:
    sys.stderr.write(f"serving: error: {text}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    environment = os.environ.get
    parser = argparse.ArgumentParser(
        prog="python -m containers.serving",
        description="Serves one exported model as Google Earth Engine calls it through Vertex AI: "
        "SERIALIZED_TF_TENSORS, RAW_JSON and ND_ARRAYS over HTTP; GRPC_TF_TENSORS, GRPC_SERIALIZED_TF_TENSORS and "
        "GRPC_TF_EXAMPLES over gRPC. The format of a request is told from the request itself.",
        epilog="Health: GET AIP_HEALTH_ROUTE (also /health), 200 once the model has answered a warm-up tile, "
        "503 before. Predictions: POST AIP_PREDICT_ROUTE (also /predict), and "
        "tensorflow.serving.PredictionService/Predict. Prometheus: GET /metrics. Exit status: 0 after SIGTERM or "
        "SIGINT, 1 when the model or a port cannot be had, 2 for a wrong option.",
    )
    parser.add_argument(
        "--model",
        metavar="DIR_OR_MAR",
        default=environment("AIP_STORAGE_URI"),
        help="a .mar, a folder with model.mar (PyTorch), or a SavedModel folder with model.yaml in it "
        "(TensorFlow); a path or a gs:// URI (default: $AIP_STORAGE_URI)",
    )
    parser.add_argument(
        "--http-port",
        type=_port,
        metavar="N",
        default=environment("AIP_HTTP_PORT") or "8080",
        help="0 lets the system choose (default: $AIP_HTTP_PORT, then 8080)",
    )
    parser.add_argument(
        "--grpc-port",
        type=_port,
        metavar="N",
        default="8500",
        help="0 lets the system choose (default: 8500, TensorFlow Serving's)",
    )
    parser.add_argument(
        "--host",
        # A container is reached from outside of it.
        default="0.0.0.0",  # noqa: S104
        help="the address to listen on (default: %(default)s); 127.0.0.1 keeps it to this machine",
    )
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 0 to 65535")
    return int(text)


if __name__ == "__main__":
    exit_status = main()
    logging.shutdown()
    # A thread in the middle of a framework's import, or of a model's call that outlasted the grace, cannot be
    # stopped, and an ordinary exit would wait for it.
    os._exit(exit_status)
