"""The trained model in a process of its own, called on one batch with no transport.

    python -m benchmarks.bare MODEL TILES

PyTorch: the source model as frozen TorchScript, on every core. TensorFlow: the exported SavedModel's plain
signature, a tensor a band. Nothing else is tuned, as whoever calls a model in a script would have it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.processes import repeated, take_turns
from components.earthengine.contract import ModelContract
from components.earthengine.payloads import Outputs, Tiles
from components.source import SourceModel, prepare


def pytorch(folder: Path, tiles: Tiles) -> Callable[[], object]:
    """The call of a source model on tiles."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    source = SourceModel(folder, allow_pickle=True)
    module = torch.jit.freeze(torch.jit.script(source.model))
    given = torch.from_numpy(prepare(source.contract, tiles))

    def call() -> torch.Tensor:
        with torch.inference_mode():
            answer: torch.Tensor = module(given)
        return answer

    return call


def tensorflow(folder: Path, tiles: Tiles) -> Callable[[], object]:
    """The call of an exported SavedModel on tiles."""
    from components.frameworks.quiet import quiet_import

    with quiet_import():
        import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["bands"]
    bands = ModelContract.read(folder).bands
    given = {band.name: tf.constant(tiles[:, number, :, :, np.newaxis]) for number, band in enumerate(bands)}

    def call() -> Outputs:
        return {name: tensor.numpy() for name, tensor in signature(**given).items()}

    return call


def main() -> None:
    """Load the model, then work in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="the trained model's folder; TensorFlow: the exported model's")
    parser.add_argument("tiles", type=Path, help="the batch, .npy")
    arguments = parser.parse_args()
    framework = {"pytorch": pytorch, "tensorflow": tensorflow}[ModelContract.read(arguments.model).framework]
    take_turns(repeated(framework(arguments.model, np.load(arguments.tiles))))


if __name__ == "__main__":
    main()
