"""The trained models that the server is measured with, exported and archived as the pipeline does it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from benchmarks import networks
from components.archive import archive_model
from components.earthengine.contract import (
    FILE_NAME,
    Band,
    Framework,
    ModelContract,
    Output,
    PayloadFormat,
    Source,
    Tolerance,
)
from components.earthengine.payloads import Tiles
from components.export import export_model

_BANDS = ("B2", "B3", "B4", "B8", "B11", "B12")
_CODE = "net.py"
_WEIGHTS = "weights.pt"


@dataclass(frozen=True)
class Model:
    """A model's folders: as trained, as exported, and as the server takes it."""

    contract: ModelContract
    source: Path
    exported: Path
    served: Path


def probabilities(folder: Path) -> Model:
    """The small network in PyTorch, three probabilities a pixel."""
    contract = _contract("probabilities", "SERIALIZED_TF_TENSORS", Source(file=_WEIGHTS, code=f"{_CODE}:Probabilities"))
    return _made(folder, contract, _seeded_weights(networks.Probabilities))


def classes(folder: Path) -> Model:
    """The small network in PyTorch, the number of the most probable class a pixel."""
    source = Source(file=_WEIGHTS, code=f"{_CODE}:Classes")
    return _made(folder, _contract("classes", "ND_ARRAYS", source, dimensions=0), _seeded_weights(networks.Classes))


def keras_probabilities(folder: Path) -> Model:
    """The small network in Keras, channels last."""
    contract = _contract("keras", "SERIALIZED_TF_TENSORS", Source(file="model.keras"), framework="tensorflow")

    def write(source: Path) -> None:
        from components.frameworks.quiet import quiet_import

        with quiet_import():
            import keras

        keras.utils.set_random_seed(0)
        layers = [
            keras.Input((None, None, networks.SMALL_BANDS)),
            keras.layers.Conv2D(15, 1, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Conv2D(networks.CLASSES, 1, activation="softmax"),
        ]
        keras.Sequential(layers).save(source / contract.model.file)

    return _made(folder, contract, write)


def unet(folder: Path) -> Model:
    """The U-Net; four bands, so that a tile of 256 x 256 pixels fits the 1.5 MB that Earth Engine sends."""
    source = Source(file=_WEIGHTS, code=f"{_CODE}:UNet", multiple=32)
    # Sixty layers deep, another order of summation shows in the fourth decimal.
    contract = _contract("unet", "GRPC_TF_TENSORS", source, bands=networks.UNET_BANDS, tolerance=1e-3)

    def write(folder: Path) -> None:
        torch.manual_seed(0)
        network = networks.UNet()
        # Normalisation that has seen no data lets activations fade away, which no trained network does.
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        with torch.no_grad():
            for seed in range(3):
                network.train()(torch.from_numpy(tiles(contract, 2, 128, seed)))
        _save(network, folder)

    return _made(folder, contract, write)


def tiles(contract: ModelContract, count: int, size: int, seed: int = 0) -> Tiles:
    """Square tiles of reflectances with four decimals, as surface reflectance products carry them."""
    numbers = np.random.default_rng(seed).integers(0, 5000, (count, contract.channels, size, size))
    return (numbers / 10_000).astype(np.float32)


def _contract(
    name: str,
    payload_format: PayloadFormat,
    source: Source,
    *,
    framework: Framework = "pytorch",
    bands: int = networks.SMALL_BANDS,
    dimensions: Literal[0, 1] = 1,
    tolerance: float = 1e-5,
) -> ModelContract:
    return ModelContract(
        name=name,
        framework=framework,
        payload_format=payload_format,
        model=source,
        bands=tuple(Band(name=band) for band in _BANDS[:bands]),
        tile=(64, 64),
        scale=10,
        outputs=(Output(name="landcover", dimensions=dimensions),),
        tolerance=Tolerance(absolute=tolerance),
    )


def _seeded_weights(build: type[nn.Module]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        torch.manual_seed(0)
        network = build()
        for weights in network.parameters():
            nn.init.normal_(weights)  # large enough that every class is answered somewhere
        _save(network, folder)

    return write


def _save(network: nn.Module, folder: Path) -> None:
    torch.save(network.state_dict(), folder / _WEIGHTS)
    shutil.copyfile(networks.__file__, folder / _CODE)


def _made(folder: Path, contract: ModelContract, write: Callable[[Path], None]) -> Model:
    model = Model(contract, folder / "source", folder / "exported", folder / "served")
    model.source.mkdir(parents=True)
    write(model.source)
    (model.source / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
    export_model(model.source, model.exported, allow_pickle=True)  # it is our own code
    archive_model(model.exported, model.served)
    return model
