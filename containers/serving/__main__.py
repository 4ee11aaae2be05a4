"""The server's command line (`--help` tells all of it)."""

from __future__ import annotations

import argparse
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
from containers.serving import app, grpc_service, model, storage
from containers.serving.service import Service

_log = logging.getLogger("serving")

HEALTH_ROUTE = "/health"
PREDICT_ROUTE = "/predict"
# What Vertex AI's forwarder waits for a request on a shared endpoint is 60 s; a stop waits less.
_GRACE_S = 10


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit status, 1 where the model or a port cannot be had."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="serving: %(message)s", level=logging.INFO, stream=sys.stderr)
    if not options.model:
        return _fail("no model was named; give --model, or set AIP_STORAGE_URI")
    service = Service()
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(_listen(options.host, options.http_port))
        except OSError as error:
            return _fail(_port_text("--http-port", options.host, options.http_port, error))
        try:
            grpc_server, grpc_port = grpc_service.start(service, options.host, options.grpc_port)
        except OSError as error:
            return _fail(_port_text("--grpc-port", options.host, options.grpc_port, error))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serving-")))
        http_server = _http_server(service)
        loading = service.load(lambda: model.load(storage.fetch(options.model, directory)))
        loading.add_done_callback(lambda done: _loaded(done, http_server, options.model))
        http_port = listener.getsockname()[1]
        _log.info("HTTP on %s:%d, gRPC on %s:%d", options.host, http_port, options.host, grpc_port)
        http_server.run(sockets=[listener])
        grpc_server.stop(_GRACE_S).wait()
    if not loading.done():
        # A thread in the middle of a framework's import cannot be stopped, and would be waited for.
        logging.shutdown()
        os._exit(0)
    return 1 if loading.exception() else 0


def _http_server(service: Service) -> uvicorn.Server:
    """The HTTP server on its routes, told to stop by a signal."""
    environment = os.environ.get
    application = app.create(
        service,
        [environment("AIP_HEALTH_ROUTE") or HEALTH_ROUTE, HEALTH_ROUTE],
        [environment("AIP_PREDICT_ROUTE") or PREDICT_ROUTE, PREDICT_ROUTE],
    )
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn handles these while it runs, then raises them again for whoever handled them before.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return server


def _loaded(done: Future[None], server: uvicorn.Server, uri: str) -> None:
    """Say how loading ended; without a model there is nothing to serve."""
    error = done.exception()
    if error is None:
        _log.info("ready: %s", uri)
        return
    if isinstance(error, PipelineError):
        _fail(str(error))
    else:
        _log.error("%s cannot be loaded", uri, exc_info=error)
    server.should_exit = True


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
        "SERIALIZED_TF_TENSORS and ND_ARRAYS over HTTP, GRPC_TF_TENSORS over gRPC. The format of a "
        "request is told from the request itself.",
        epilog="Health: GET AIP_HEALTH_ROUTE (also /health), 200 once the model has answered a warm-up tile, "
        "503 before. Predictions: POST AIP_PREDICT_ROUTE (also /predict), and "
        "tensorflow.serving.PredictionService/Predict. Exit status: 0 after SIGTERM or SIGINT, 1 when the "
        "model or a port cannot be had, 2 for a wrong option.",
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
    sys.exit(main())
