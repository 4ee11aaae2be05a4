"""Train: a small fully convolutional land-cover network on real Landsat samples.

The samples are the 120 labelled surface reflectances of Landsat 8 that spyndex packages; the sample
scene beside the model is its Sentinel-2 scene of 300 x 300 pixels at 10 m. Both satellites see blue,
green, red and near infrared; Sentinel-2's scene counts reflectance in ten thousandths.

    python -m components.train build/land-cover --framework pytorch
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import FILE_NAME, Band, Framework, ModelContract, Output, Source
from components.sample import SAMPLE_NAME
from components.sample.npz import OUTPUT, Arrays
from components.whole import whole_folder

METRICS_NAME = "metrics.json"
_COUNTS = 10_000  # of Sentinel-2 for a reflectance of 1
_BANDS = {"B2": ("SR_B2", "B02"), "B3": ("SR_B3", "B03"), "B4": ("SR_B4", "B04"), "B8": ("SR_B5", "B08")}
_CLASSES = {"Urban": "#d55e00", "Vegetation": "#009e73", "Water": "#0072b2"}
_OUTPUT = "landcover"
_HELD_OUT = 0.3
_STEPS = 400
_RATE = 0.01
_HIDDEN = 16

Predict = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From reflectances `[height, width, bands]` to the probability of each class `[height, width, classes]`."""


@dataclass(frozen=True)
class Samples:
    """Reflectances `[n, bands]` and the number of their class `[n]`, to train on and held out."""

    train: NDArray[np.float32]
    train_class: NDArray[np.int64]
    held_out: NDArray[np.float32]
    held_out_class: NDArray[np.int64]


def train_land_cover(destination: Path, framework: Framework, *, seed: int = 0) -> float:
    """Train the network and write it with model.yaml, a sample scene and its metrics to a new folder.

    Returns:
        The share of the held-out samples that the network classifies rightly.
    """
    samples = _samples(seed)
    with whole_folder(destination):
        train = _train_pytorch if framework == "pytorch" else _train_keras
        file, predict = train(samples, destination, seed)
        held_out = predict(samples.held_out[:, np.newaxis])[:, 0]
        accuracy = float((held_out.argmax(-1) == samples.held_out_class).mean())
        (destination / FILE_NAME).write_text(_contract(framework, file).dump(), encoding="utf-8")
        scene = _scene()
        # Apart from model.yaml, so that a wrong order of bands there comes to light.
        reflectances = np.stack(list(scene.values()), -1) / np.float32(_COUNTS)
        arrays: Arrays = scene | {f"{OUTPUT}{_OUTPUT}": predict(reflectances)}
        np.savez(destination / SAMPLE_NAME, allow_pickle=False, **arrays)
        metrics = {"accuracy": accuracy, "held_out_samples": len(samples.held_out)}
        (destination / METRICS_NAME).write_text(json.dumps(metrics), encoding="utf-8")
    return accuracy


def _contract(framework: Framework, file: str) -> ModelContract:
    return ModelContract(
        name=f"land-cover-{framework}",
        framework=framework,
        payload_format="SERIALIZED_TF_TENSORS",
        model=Source(file=file),
        bands=tuple(Band(name=name, factor=1 / _COUNTS) for name in _BANDS),
        true_colour=("B4", "B3", "B2"),
        tile=(64, 64),
        scale=10,
        outputs=(Output(name=_OUTPUT, dimensions=1, labels=tuple(_CLASSES), colours=tuple(_CLASSES.values())),),
    )


def _samples(seed: int) -> Samples:
    """The packaged samples, of each class the same share held out."""
    import spyndex

    table = spyndex.datasets.open("spectral")
    values = table[[landsat for landsat, _ in _BANDS.values()]].to_numpy(np.float32)
    classes = np.array([list(_CLASSES).index(name) for name in table["class"]])
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(classes), bool)
    for number in range(len(_CLASSES)):
        members = random.permutation(np.flatnonzero(classes == number))
        held_out[members[: round(_HELD_OUT * len(members))]] = True
    return Samples(values[~held_out], classes[~held_out], values[held_out], classes[held_out])


def _scene() -> dict[str, NDArray[np.float32]]:
    import spyndex

    scene = spyndex.datasets.open("sentinel")
    return {name: scene.sel(band=sentinel).to_numpy().astype(np.float32) for name, (_, sentinel) in _BANDS.items()}


def _train_pytorch(samples: Samples, folder: Path, seed: int) -> tuple[str, Predict]:
    """Train, save as TorchScript: the file's name, the model as a function."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    mean, spread = samples.train.mean(0), samples.train.std(0)
    standardise = nn.Conv2d(len(_BANDS), len(_BANDS), 1).requires_grad_(False)
    standardise.load_state_dict(
        {
            "weight": torch.diag(torch.from_numpy(1 / spread))[:, :, None, None],
            "bias": torch.from_numpy(-mean / spread),
        }
    )
    layers = nn.Sequential(
        standardise, nn.Conv2d(len(_BANDS), _HIDDEN, 1), nn.ReLU(), nn.Conv2d(_HIDDEN, len(_CLASSES), 1)
    )
    # One image of a column of samples: six times as fast as an image for each sample.
    pixels = torch.from_numpy(samples.train.T)[None, :, :, None]
    classes = torch.from_numpy(samples.train_class)[None, :, None]
    optimiser = torch.optim.Adam([weight for weight in layers.parameters() if weight.requires_grad], _RATE)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        nn.functional.cross_entropy(layers(pixels), classes).backward()
        optimiser.step()
    model = nn.Sequential(layers, nn.Softmax(dim=1)).eval()
    torch.jit.script(model).save(str(folder / "model.pt"))

    def predict(reflectances: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            answer: torch.Tensor = model(torch.from_numpy(reflectances).permute(2, 0, 1)[None])[0]
        return answer.permute(1, 2, 0).contiguous().numpy()

    return "model.pt", predict


def _train_keras(samples: Samples, folder: Path, seed: int) -> tuple[str, Predict]:
    """Train, save as `.keras`: the file's name, the model as a function."""
    from components.frameworks.quiet import quiet_import

    with quiet_import():
        import keras

    keras.utils.set_random_seed(seed)
    standardise = keras.layers.Normalization(mean=samples.train.mean(0), variance=samples.train.var(0))
    model = keras.Sequential(
        [
            keras.Input((None, None, len(_BANDS))),
            standardise,
            keras.layers.Conv2D(_HIDDEN, 1, activation="relu"),
            keras.layers.Conv2D(len(_CLASSES), 1, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(_RATE), "sparse_categorical_crossentropy")
    pixels, classes = samples.train[:, None, None], samples.train_class[:, None, None]
    for _ in range(_STEPS):
        model.train_on_batch(pixels, classes)
    model.save(folder / "model.keras")

    def predict(reflectances: NDArray[np.float32]) -> NDArray[Any]:
        answer: NDArray[Any] = model.predict_on_batch(reflectances[None])[0]
        return answer

    return "model.keras", predict


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(prog="python -m components.train", description=train_land_cover.__doc__)
    parser.add_argument("destination", type=Path, help="folder to write the model to")
    parser.add_argument("--framework", choices=get_args(Framework), default="pytorch")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    accuracy = train_land_cover(arguments.destination, arguments.framework, seed=arguments.seed)
    print(f"trained {arguments.destination}: {accuracy:.1%} of the held-out samples right")  # noqa: T201


if __name__ == "__main__":
    main()
