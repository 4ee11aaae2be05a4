"""The sample model: land cover from the packaged Landsat samples, with a Sentinel-2 scene to look at.

The samples are the 120 labelled surface reflectances of Landsat 8 that spyndex packages; the scene beside the model
is its Sentinel-2 scene of 300 x 300 pixels at 10 m. Both satellites see blue, green, red and near infrared;
Sentinel-2's scene counts reflectance in ten thousandths.

    python -m components.land_cover build/land-cover --framework pytorch
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from components.data import read_data, split
from components.data.packaged import BANDS, CLASSES, SAMPLES
from components.earthengine.contract import FILE_NAME, Band, Framework, ModelContract, Output, Source
from components.earthengine.errors import PipelineError
from components.evaluation import evaluate
from components.sample import SAMPLE_NAME
from components.sample.npz import OUTPUT, Arrays
from components.source import SourceModel
from components.train import Trained, train_model
from components.whole import whole_folder

METRICS_NAME = "metrics.json"
HELD_OUT = 0.3
_COUNTS = 10_000  # of Sentinel-2 for a reflectance of 1
# Of Sentinel-2 in spyndex's scene, by the contract's names.
_SCENE = {"B2": "B02", "B3": "B03", "B4": "B04", "B8": "B08"}
_COLOURS = {"Urban": "#d55e00", "Vegetation": "#009e73", "Water": "#0072b2"}
_OUTPUT = "landcover"


def train_land_cover(destination: Path, framework: Framework, *, seed: int = 0) -> float:
    """Train the network and write it with model.yaml, a sample scene and its metrics to a new folder.

    Returns:
        The share of the held-out samples that the network classifies rightly.

    Raises:
        DiskError: the disk is full, or may not be written.
    """
    contract = land_cover_contract(framework)
    train, held_out = split(read_data(contract, SAMPLES), HELD_OUT)
    with whole_folder(destination) as aside:
        trained = train_model(contract, train, aside, seed=seed)
        contract = contract.model_copy(update={"model": trained.source})
        (aside / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
        save_scene(trained, aside)
        answers = SourceModel(aside).predict(held_out.tiles)
        accuracy = evaluate(contract, held_out, answers, "").metrics["accuracy"]
        metrics = {"accuracy": accuracy, "held_out_samples": len(held_out.tiles)}
        (aside / METRICS_NAME).write_text(json.dumps(metrics), encoding="utf-8")
    return accuracy


def land_cover_contract(framework: Framework) -> ModelContract:
    """The contract of the sample model, before it is trained."""
    return ModelContract(
        name=f"land-cover-{framework}",
        framework=framework,
        payload_format="SERIALIZED_TF_TENSORS",
        model=Source(file="model"),
        bands=tuple(Band(name=name, factor=1 / _COUNTS) for name in BANDS),
        true_colour=("B4", "B3", "B2"),
        tile=(64, 64),
        scale=10,
        outputs=(
            Output(
                name=_OUTPUT,
                dimensions=1,
                labels=tuple(CLASSES),
                colours=tuple(_COLOURS[name] for name in CLASSES),
            ),
        ),
    )


def save_scene(trained: Trained, folder: Path) -> None:
    """Write sample.npz: the scene as Sentinel-2 counts, and what the network answers to its reflectances.

    Apart from model.yaml, so that a wrong order of bands there comes to light.
    """
    scene = _scene()
    reflectances = np.stack(list(scene.values()), -1) / np.float32(_COUNTS)
    arrays: Arrays = scene | {f"{OUTPUT}{_OUTPUT}": trained.predict(reflectances)}
    np.savez(folder / SAMPLE_NAME, allow_pickle=False, **arrays)


def _scene() -> dict[str, NDArray[np.float32]]:
    import spyndex

    scene = spyndex.datasets.open("sentinel")
    return {name: scene.sel(band=sentinel).to_numpy().astype(np.float32) for name, sentinel in _SCENE.items()}


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(prog="python -m components.land_cover", description=train_land_cover.__doc__)
    parser.add_argument("destination", type=Path, help="folder to write the model to")
    parser.add_argument("--framework", choices=get_args(Framework), default="pytorch")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        accuracy = train_land_cover(arguments.destination, arguments.framework, seed=arguments.seed)
    except PipelineError as error:
        sys.exit(f"error: {error}")
    print(f"trained {arguments.destination}: {accuracy:.1%} of the held-out samples right")  # noqa: T201


if __name__ == "__main__":
    main()
