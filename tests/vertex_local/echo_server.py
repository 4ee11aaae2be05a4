"""A model server that gives back what it gets: ``echo_server.py HTTP_PORT GRPC_PORT``."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if "UNHEALTHY" in os.environ:
            self._answer(503, b"still loading")
        else:
            self._answer(200 if self.path == os.environ["AIP_HEALTH_ROUTE"] else 404, b"{}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != os.environ["AIP_PREDICT_ROUTE"]:
            self._answer(404, b"no such route")
        elif b"refuse" in body:
            self._answer(400, b"band B4 is missing")
        elif b"crash" in body:
            self._answer(500, b"out of memory")
        elif b"briefly" in body:
            self._answer(200, b'{"predictions": [0]}')
        elif b"at length" in body:
            self._answer(200, b'{"predictions": ["%b"]}' % (b"x" * 1_500_000))
        elif b"busy" in body:
            self._answer(429, b"64 requests wait")
        elif b"silent" in body:
            self._answer(418, b"")
        elif b"slowly" in body:
            time.sleep(1.5)
            self._answer(200, b'{"predictions": ["at last"]}')
        elif b"trash" in body:
            self._answer(200, b'{"predictions": [NaN]}')
        elif b"spaced" in body:
            self._answer(200, b' \n{"predictions": [1], "time": 3 }\r\n')
        elif b"environment" in body:
            aip = {name: value for name, value in os.environ.items() if name.startswith("AIP_")}
            self._answer(200, json.dumps({"predictions": [aip]}).encode())
        else:
            self._answer(200, b'{"predictions": %b}\n' % json.dumps(json.loads(body)["instances"]).encode())

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        pass

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Backwards(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    """Any unary method: the request's bytes in reverse, or a status for some."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        def reverse(request: bytes, context: grpc.ServicerContext) -> bytes:
            if request == b"slowly":
                time.sleep(1.5)
            if request == b"refuse":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no input for {handler_call_details.method}")
            return request[::-1]

        return grpc.unary_unary_rpc_method_handler(reverse)


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # who finds no place in the queue of 5 tries again after a second


def main(http_port: int, grpc_port: int) -> None:
    if "FAULT" in os.environ:
        sys.stdout.write("loading the model\n")
        sys.exit(os.environ["FAULT"])
    time.sleep(float(os.environ.get("LOADING_S", "0")))
    # A child of the server's own, as worker processes are, which has to end with it too, and does not when asked.
    subprocess.Popen(["sh", "-c", "trap '' TERM; exec sleep 600"])
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    limits = [("grpc.max_receive_message_length", -1)]
    grpc_server = grpc.server(ThreadPoolExecutor(2), handlers=[Backwards()], options=limits)
    grpc_server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    grpc_server.start()
    Server(("127.0.0.1", http_port), Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
