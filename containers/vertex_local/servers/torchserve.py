"""A real TorchServe in place of Google's prebuilt PyTorch images.

``python -m containers.vertex_local.servers.torchserve`` is the command.

As in the container, AIP_STORAGE_URI says where ``model.mar`` lies and AIP_HTTP_PORT where to listen. What it keeps on
this machine's disk lies in a folder of its own, which goes when it ends.
"""

import argparse
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Never

from containers.ports import free_ports

from ..door import hidden_address
from ..errors import FailedPreconditionError

_PROGRAM = Path(sys.executable).with_name("torchserve")
_ARCHIVE = "model.mar"
# service_envelope: it is what unwraps `instances` and wraps `predictions`. Else only what keeps it to this machine, and
# its management, which loads any archive from anywhere, to an address that no page in a browser guesses.
_CONFIG = """\
inference_address=http://127.0.0.1:{http}
management_address=http://{hidden}:{management}
metrics_address=http://{hidden}:{metrics}
enable_model_api=false
grpc_inference_address=127.0.0.1
grpc_inference_port={grpc}
grpc_management_address={hidden}
grpc_management_port={grpc_management}
service_envelope=json
default_workers_per_model=1
disable_system_metrics=true
"""
# Java stops its Python workers first; it takes about a second.
_JAVA_ENDS_MS = 3000


def command(http_port: int, grpc_port: int) -> list[str]:
    """The command line of this program."""
    ports = ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    return [sys.executable, "-m", "containers.vertex_local.servers.torchserve", *ports]


def check_installed(image_uri: str) -> None:
    """Makes sure that TorchServe can be started.

    Raises:
        FailedPreconditionError: it is not installed, or there is no Java for it.
    """
    java = f"{os.environ['JAVA_HOME']}/bin/java" if os.environ.get("JAVA_HOME") else "java"
    missing = []
    if not _PROGRAM.exists():
        missing.append(f"the program {_PROGRAM.name} (`pip install torchserve`)")
    if not shutil.which(java):
        missing.append(f"a Java runtime ({java!r} is no program; such as the package openjdk-17-jre-headless)")
    if missing:
        raise FailedPreconditionError(
            f"containerSpec.imageUri {image_uri!r} stands for TorchServe, and this machine lacks"
            f" {' and '.join(missing)}; install it, use this project's image serving-pytorch,"
            " or start the emulator with --runner docker"
        )


def main() -> int:
    """Runs TorchServe to its end; 1 when there is no archive to serve."""
    parser = argparse.ArgumentParser(prog="python -m containers.vertex_local.servers.torchserve")
    parser.add_argument("--http-port", type=int, default=os.environ.get("AIP_HTTP_PORT"))
    parser.add_argument("--grpc-port", type=int, default=7070)
    arguments = parser.parse_args()
    # So that the folder is removed.
    signal.signal(signal.SIGTERM, _exit)
    with tempfile.TemporaryDirectory(prefix="torchserve-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        store = folder / "store"
        store.mkdir()
        if fault := _fetch(os.environ.get("AIP_STORAGE_URI", ""), store):
            sys.stderr.write(f"torchserve: {fault}\n")
            return 1
        management, metrics, grpc_management = free_ports(3)
        ports = {"http": arguments.http_port, "grpc": arguments.grpc_port, "hidden": hidden_address()}
        ports |= {"management": management, "metrics": metrics, "grpc_management": grpc_management}
        (folder / "config.properties").write_text(_CONFIG.format(**ports))
        return _run(folder, store)


def _fetch(uri: str, store: Path) -> str:
    """Brings the archive; the fault, if any."""
    from containers.serving import storage  # the client takes half a second to import

    try:
        storage.fetch(uri, store)
    except Exception as error:  # whatever it is, it is the last line of the log
        return str(error)
    if not (store / _ARCHIVE).is_file():
        return (
            f"there is no {_ARCHIVE} directly under the model's artifactUri, of which {uri!r} is the copy;"
            " archive the model under that name"
        )
    return ""


def _run(folder: Path, store: Path) -> int:
    # Its token authorisation is on by default since 0.11.1, and answers 400 even to health checks.
    options = ["--start", "--foreground", "--ncs", "--disable-token-auth", "--ts-config", "config.properties"]
    options += ["--model-store", str(store), "--models", f"model={_ARCHIVE}"]
    # It notes its process in TMPDIR and its sockets in TEMP, one a machine otherwise.
    own = {"TMPDIR": str(folder), "TEMP": str(folder)}
    # Nothing is written to stdin: Java has it too, and the launcher, which does not wait for Java when it is ended.
    with subprocess.Popen(  # noqa: S603
        [str(_PROGRAM), *options], cwd=folder, env={**os.environ, **own}, stdin=subprocess.PIPE
    ) as launcher:
        try:
            return launcher.wait()
        finally:
            readers = select.poll()
            readers.register(launcher.stdin or 0, 0)  # POLLERR: no reader is left
            readers.poll(_JAVA_ENDS_MS)


def _exit(number: int, _: FrameType | None) -> Never:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
