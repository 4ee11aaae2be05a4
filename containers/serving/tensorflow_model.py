"""A TensorFlow model: a SavedModel whose signature `tiles` takes a batch as the project has it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Read once, at the import; what matters is raised, and a machine without a GPU is no error (3 hides it). Two notes on
# oneDNN and CUDA come before it is read, and stay: to move stderr away meanwhile would lose other threads' lines.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ModelError
from components.earthengine.payloads.codec import Outputs, Tiles
from components.earthengine.untrusted import saved_model
from containers.serving.cores import cores
from containers.serving.model import last_line

SIGNATURE = "tiles"


def gpus() -> list[Any]:
    """The GPUs that TensorFlow finds."""
    found: list[Any] = tf.config.list_physical_devices("GPU")
    return found


class TensorFlowModel:
    """A SavedModel with `tiles(tiles=[N, C, H, W] float32)`, which returns channels-last outputs by name.

    On a GPU where TensorFlow finds one, taking of its memory what is needed, not all at once.
    """

    def __init__(self, path: Path) -> None:
        self.contract = ModelContract.read(path)
        threads = cores()
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        for gpu in gpus():
            tf.config.experimental.set_memory_growth(gpu, True)
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus()]
        where = f"on {', '.join(names)}" if names else f"{threads} threads"
        self.runtime = f"TensorFlow {tf.__version__}, {where}"
        try:
            _check(path)
            # Kept whole: the signature's variables live only as long as what was loaded.
            self._loaded = tf.saved_model.load(str(path))
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise ModelError(
                f"{path}: TensorFlow {tf.__version__} cannot load it ({last_line(error)}); "
                "export the model with this version"
            ) from None
        if SIGNATURE not in self._loaded.signatures:
            there = ", ".join(self._loaded.signatures) or "none"
            raise ModelError(f"{path} has the signatures {there}; the server needs {SIGNATURE}: export it again")
        self._signature = self._loaded.signatures[SIGNATURE]

    def predict(self, tiles: Tiles) -> Outputs:
        """The answers to raw tiles `[N, C, H, W]`, one a tile in each output."""
        # tf.constant copies, at 9 GB/s: handed over as they are by DLPack, tiles that do not lie as TensorFlow aligns
        # its own end the process.
        return {name: tensor.numpy() for name, tensor in self._signature(tiles=tf.constant(tiles)).items()}


def _check(path: Path) -> None:
    try:
        saved_model.check(path)
    except ValueError as error:
        raise ModelError(
            f"{path} is not loaded ({error}); it is damaged, or made to attack who loads it, and must not be served"
        ) from None
