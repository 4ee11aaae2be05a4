"""What it costs to archive a TorchScript model of 500 MB, and the memory that export, archive and upload take.

    python -m benchmarks.archive

The archive is timed beside a plain copy of the same file and beside torch-model-archiver's default,
in turn, after a sync each time. Memory is the peak of a process of its own for each step, less the
peak of a process that imports the same and works on a model of a few bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.results import Figure, report
from components import local
from components.archive import archive_model
from components.earthengine.contract import FILE_NAME, Band, ModelContract, Output, Source
from components.export import export_model
from components.upload import upload_model
from components.vertex import Vertex

_WEIGHTS = 125_000_000  # float32, 500 MB
_ROUNDS = 5
_STEPS = ("export", "archive", "upload")


def write_model(folder: Path, weights: int) -> None:
    """A model directory with a TorchScript of one convolution and this many idle weights."""
    import torch
    from torch import Tensor, nn

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(4, 3, 1)
            self.idle = nn.Parameter(torch.randn(weights))

        def forward(self, given: Tensor) -> Tensor:
            answer: Tensor = self.convolution(given) + self.idle[0]
            return answer

    folder.mkdir(parents=True)
    torch.jit.script(Idle()).save(str(folder / "model.pt"))
    contract = ModelContract(
        name="idle-weights",
        framework="pytorch",
        payload_format="SERIALIZED_TF_TENSORS",
        model=Source(file="model.pt"),
        bands=tuple(Band(name=f"B{number}") for number in range(4)),
        tile=(64, 64),
        scale=10,
        outputs=(Output(name="classes", dimensions=1),),
    )
    (folder / FILE_NAME).write_text(contract.dump(), encoding="utf-8")


def run_step(step: str, folder: Path) -> None:
    """Run one step on what lies in a folder, and print the peak of this process's memory in bytes."""
    if step == "export":
        export_model(folder / "model", folder / "exported")
    elif step == "archive":
        archive_model(folder / "exported", folder / "archived")
    else:
        vertex = Vertex(local.PROJECT, local.LOCATION)
        upload_model(vertex, folder / "archived", "images/serving-pytorch:1", f"gs://{local.BUCKET}/{folder.name}")
    # Not getrusage's peak: that begins with the parent's at the fork.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) * 1024)


def _peak(step: str, folder: Path) -> int:
    command = [sys.executable, "-m", "benchmarks.archive", "--step", step, "--folder", str(folder)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _seconds(work: Callable[[], object]) -> float:
    os.sync()
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _memory(large: Path, small: Path) -> list[Figure]:
    size = (large / "model" / "model.pt").stat().st_size
    figures = []
    with tempfile.TemporaryDirectory() as state, local.local_vertex(Path(state)):
        for step in _STEPS:
            framework, peak = _peak(step, small), _peak(step, large)
            figures.append(
                Figure(f"memory of {step}, times the model's size", (peak - framework) / size, "x", "under 1.3")
            )
            figures.append(Figure(f"memory of {step}, framework alone", framework / 1e6, "MB"))
    return figures


def _times(exported: Path, folder: Path) -> list[Figure]:
    archived, copied = folder / "timed", folder / "copied.pt"
    archiver = [str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", "model", "--version", "1"]
    archiver += ["--serialized-file", str(exported / "model.pt"), "--handler", "base_handler"]
    archiver += ["--extra-files", str(exported / FILE_NAME), "--export-path", str(folder), "--force"]
    ours, copies = [], []
    archive_model(exported, archived)  # imports, and warms the page cache
    for _ in range(_ROUNDS):
        shutil.rmtree(archived)
        copied.unlink(missing_ok=True)
        copies.append(_seconds(lambda: shutil.copyfile(exported / "model.pt", copied)))
        ours.append(_seconds(lambda: archive_model(exported, archived)))
    copied.unlink()
    default = _seconds(lambda: subprocess.run(archiver, check=True, capture_output=True))
    copy, archive = statistics.median(copies), statistics.median(ours)
    return [
        Figure("archive, times a plain copy", archive / copy, "x", "at most 2"),
        Figure("archive, share of torch-model-archiver's default", archive / default, "x", "at most 0.2"),
        Figure("archive", archive, "s"),
        Figure("plain copy", copy, "s"),
        Figure("torch-model-archiver's default", default, "s"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--step", choices=_STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments.step, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        large, small = Path(temporary, "large"), Path(temporary, "small")
        write_model(large / "model", _WEIGHTS)
        write_model(small / "model", 1)
        figures = _memory(large, small)
        report("archive", _times(large / "exported", large) + figures)


if __name__ == "__main__":
    main()
