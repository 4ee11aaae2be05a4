"""A real TorchServe with the handler of Earth Engine's PyTorch notebook in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.load import CallError, HttpConnection
from benchmarks.models import Model
from benchmarks.processes import Group
from components.source import SourceModel
from containers.ports import free_ports

PATH = "/predictions/model"

_HANDLER = Path(__file__).with_name("notebook_handler.py")

# The worker itself sets no number of threads, so PyTorch takes all cores, as "bare" does. One worker: a second
# would need the same cores. max_request_size is raised since a body of ND_ARRAYS may pass its 6.5 MB.
_CONFIG = """\
inference_address=http://127.0.0.1:{inference}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_port={grpc_inference}
grpc_management_port={grpc_management}
service_envelope=json
default_workers_per_model=1
max_request_size=100000000
max_response_size=100000000
"""
_PORTS = ("inference", "management", "metrics", "grpc_inference", "grpc_management")


class TorchServe(Group):
    """TorchServe with one model, in a folder of its own; which answers on `PATH`.

    Args:
        model: its source answers probabilities, channels first.
        folder: the folder to make.
        body: an ND_ARRAYS request; TorchServe is ready when it answers that.
    """

    def __init__(self, model: Model, folder: Path, body: bytes) -> None:
        store = folder / "store"
        store.mkdir(parents=True)
        _archive(model, folder, store)
        ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self.ports = {"http": ports["inference"]}
        config = folder / "config.properties"
        config.write_text(_CONFIG.format(**ports), encoding="ascii")
        command = [str(Path(sys.executable).with_name("torchserve")), "--start", "--foreground", "--ncs"]
        # Its token authorisation is on by default since 0.11.1, and answers 400.
        command += ["--disable-token-auth", "--model-store", str(store), "--models", "model=model.mar"]
        # TMPDIR: its process id lies there, one a machine otherwise.
        command += ["--ts-config", str(config)]
        super().__init__(command, folder / "log", environment={"TMPDIR": str(folder)}, folder=folder)

        def answers() -> bool:
            connection = HttpConnection(self.ports["http"], PATH)
            try:
                return bool(connection.call(body))
            except CallError:
                return False
            finally:
                connection.close()

        self.wait_until(answers, 0.2)


def _archive(model: Model, folder: Path, store: Path) -> None:
    import torch

    torch.jit.script(SourceModel(model.source, allow_pickle=True).model).save(str(folder / "model.pt"))
    command = [str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", "model", "--version", "1"]
    command += ["--serialized-file", str(folder / "model.pt"), "--handler", str(_HANDLER)]
    subprocess.run([*command, "--export-path", str(store)], check=True, capture_output=True)
