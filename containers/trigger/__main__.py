"""The function on this machine: ``python -m containers.trigger --port N``, with its settings in the environment."""

import os
import sys
from pathlib import Path

_FRAMEWORK = [sys.executable, "-m", "functions_framework", "--target", "deploy", "--host", "127.0.0.1"]

if __name__ == "__main__":
    source = str(Path(__file__).with_name("main.py"))
    os.execv(sys.executable, [*_FRAMEWORK, "--source", source, *sys.argv[1:]])  # noqa: S606
