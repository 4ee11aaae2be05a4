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
from components.earthengine.redaction import redact
from containers.bounded_http import BoundedProtocol
from containers.serving import log, memory, storage
from containers.serving.app import App
from containers.serving.grpc_service import GrpcServer
from containers.serving.kept_model import KeptModel
from containers.serving.limits import GRACE_S, KEEP_ALIVE_S
from containers.serving.loopback import OwnMachine, is_loopback
from containers.serving.model import ServedModel
from containers.serving.service import Service

_log = logging.getLogger("serving")

HEALTH_ROUTE = "/health"
PREDICT_ROUTE = "/predict"
WORKER = "containers.serving.worker"


def main(arguments: list[str] | None = None, worker: str = WORKER) -> int:
    """Serve until SIGTERM or SIGINT, with a module that has the model; the exit status, 1 for want of model or port."""
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
        http_server = _HttpServer(service, grpc_server, options.host)
        # A thread that still writes there is not waited for.
        try:
            temporary = tempfile.TemporaryDirectory(prefix="serving-", ignore_cleanup_errors=True)
        except OSError as error:
            return _fail(f"no folder can be made for the model ({error}); set TMPDIR to where there is room")
        directory = Path(stack.enter_context(temporary))
        model = KeptModel(worker, service.metrics.replaced, http_server.fail)
        stack.callback(model.end)
        service.metrics.watch_worker(lambda: model.pid)
        loading = service.load(lambda: model.load(storage.fetch(options.model, directory)))

        def loaded(done: Future[ServedModel]) -> None:
            if error := done.exception():
                http_server.fail(error)
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
    return http_server.exit_status


class _HttpServer(uvicorn.Server):
    """The HTTP server, which runs both: a signal ends it, and it ends the gRPC server beside itself."""

    def __init__(self, service: Service, grpc_server: GrpcServer, host: str) -> None:
        environment = os.environ.get
        application = App(
            service,
            [environment("AIP_HEALTH_ROUTE") or HEALTH_ROUTE, HEALTH_ROUTE],
            [environment("AIP_PREDICT_ROUTE") or PREDICT_ROUTE, PREDICT_ROUTE],
        )
        super().__init__(
            uvicorn.Config(
                OwnMachine(application) if is_loopback(host) else application,
                http=BoundedProtocol,
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
        self.exit_status = 0

    def fail(self, error: BaseException) -> None:
        """End for want of a model, and say why, unless it ends already."""
        if not self.should_exit:
            self.exit_status = 1
            _tell(error)
            self.should_exit = True

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


def _tell(error: BaseException) -> None:
    """Say why there is no model: in one line, after the stack where nobody foresaw it."""
    if isinstance(error, PipelineError):
        _fail(str(error))
        return
    _log.error("the model cannot be loaded", exc_info=error)
    _fail(f"the model cannot be loaded ({type(error).__name__}: {error}); see above")


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
    sys.stderr.write(f"serving: error: {redact(text)}\n")
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
        "SIGINT, 1 when the model or a port cannot be had, "
        "or the model ends its process again and again, 2 for a wrong option.",
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
        # Vertex AI names the port where it runs a container, which is reached from outside of it.
        default="0.0.0.0" if environment("AIP_HTTP_PORT") else "127.0.0.1",  # noqa: S104
        help="the address to listen on; 0.0.0.0 lets anybody ask who reaches this machine (default: 127.0.0.1, this "
        "machine alone; 0.0.0.0 where AIP_HTTP_PORT is set, as it is in Vertex AI)",
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
