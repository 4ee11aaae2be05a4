"""A model server that starts at once and answers twice what it is asked: `quick_server.py HTTP_PORT GRPC_PORT`.

It reads ND_ARRAYS of one band, `[N, 1, H, W]`, and answers one number a pixel, `[N, H, W]`.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(b"{}")

    def do_POST(self) -> None:
        tiles = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        twice = [[[2 * value for value in row] for row in tile[0]] for tile in tiles]
        self._answer(json.dumps({"predictions": twice}).encode())

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
