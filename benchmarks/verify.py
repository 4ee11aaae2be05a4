"""What the verify step takes of a scene of 300 x 300 pixels in tiles of 64, beside the bare model's own time.

    python -m benchmarks.verify [--model NAME]

The step is the one of the pipeline, with its own start: its time is what the job says. The bare model is the trained
one in a process of its own, called on all tiles of the scene at once, warmed up before. By turns, on two cores.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import bare, models
from benchmarks.results import Figure, report
from components import golden, job, local, storage
from components.built_images import Images
from components.dags import compile_deploy
from components.earthengine.contract import ModelContract
from components.sample import SAMPLE_NAME
from components.vertex import Vertex

_PIXELS = 300
_ROUNDS = 3
_CALLS = 5
_MODELS: dict[str, Callable[[Path], models.Model]] = {"probabilities": models.probabilities, "unet": models.unet}


def with_scene(model: models.Model) -> Path:
    """The folder of a trained model with a scene beside it."""
    scene = models.tiles(model.contract, 1, _PIXELS)[0]
    arrays = {band.name: scene[index] for index, band in enumerate(model.contract.bands)}
    np.savez(model.source / SAMPLE_NAME, allow_pickle=False, **arrays)
    return model.source


def bare_seconds(trained: Path) -> float:
    """The median seconds of the trained model on all tiles of the scene."""
    tiles = golden.tiles_for(ModelContract.read(trained), trained).tiles
    call = bare.pytorch(trained, tiles)
    call()
    seconds = []
    for _ in range(_CALLS):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def step_seconds(name: str, trained: Path, folder: Path) -> float:
    """The seconds of the verify step in a pipeline of its own on an empty local Vertex AI."""
    with local.local_vertex(folder / "vertex"):
        model_uri = f"gs://{local.BUCKET}/models/{name}"
        storage.stage(trained, model_uri)
        vertex = Vertex(local.PROJECT, local.LOCATION)
        template = compile_deploy("pytorch", Images("images", "1"), folder / "deploy.yaml")
        submitted = job.submit(vertex, template, {"model_uri": model_uri}, f"gs://{local.BUCKET}/root", name)
        return {step.name: step.seconds for step in job.follow(vertex, submitted)}["verify"]


def measure(name: str) -> list[Figure]:
    """The figures of one model."""
    steps, alone = [], []
    with tempfile.TemporaryDirectory() as temporary:
        trained = with_scene(_MODELS[name](Path(temporary)))
        for number in range(_ROUNDS):
            folder = Path(temporary, str(number))
            folder.mkdir()
            steps.append(step_seconds(name, trained, folder))
            command = [sys.executable, "-m", "benchmarks.verify", "--bare", str(trained)]
            alone.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    bound = 3 * statistics.median(alone) + 2
    return [
        Figure(f"{name}: the bare model on the scene", statistics.median(alone), "s"),
        Figure(f"{name}: the verify step", statistics.median(steps), "s", f"at most {bound:.3g} s, 3 x bare + 2"),
        Figure(f"{name}: the slowest verify step of {_ROUNDS}", max(steps), "s"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=_MODELS, action="append", help="all if not given")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        print(bare_seconds(arguments.bare))
        return
    report("verify", [figure for name in arguments.model or _MODELS for figure in measure(name)])


if __name__ == "__main__":
    main()
