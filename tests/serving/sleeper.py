"""The server with a model that takes as long as a request says; see sleeping_worker.py."""

from __future__ import annotations

import os
import sys

from containers.serving import __main__ as server

if __name__ == "__main__":
    os._exit(server.main(["--model", "sleeper", *sys.argv[1:]], "tests.serving.sleeping_worker"))
