"""TensorFlow models: `.keras`, legacy `.h5`, and SavedModel folders (of a tf.Module, say).

Exported as a SavedModel with two signatures: `tiles` takes raw float32 tiles `[N, C, H, W]`, and
`serving_default` a tensor `[N, H, W, ...]` a band and `[N]` a property, as Earth Engine's
GRPC_TF_TENSORS sends them to a plain TensorFlow Serving. Both return the outputs by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.frameworks.quiet import quiet_import

with quiet_import():
    import keras
    import tensorflow as tf

from components.earthengine.errors import ModelError
from components.frameworks import first_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.earthengine.contract import ModelContract
    from components.earthengine.payloads.codec import Outputs, Tiles


def load(directory: Path, contract: ModelContract, allow_pickle: bool) -> Any:  # noqa: ARG001
    """See `Backend.load`; nothing is unpickled: Keras's safe mode refuses Lambda layers."""
    path = directory / contract.model.file
    if not path.exists():
        raise ModelError(f"{path}, which model.yaml names as model.file, does not exist; put the trained model there")
    try:
        if path.is_dir():
            return _of_saved_model(tf.saved_model.load(str(path)))
        if path.suffix in {".keras", ".h5"}:
            model = keras.models.load_model(path, compile=False, safe_mode=True)
            return _of_any_size(model, channels_last=contract.layout == "channels_last")
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path} cannot be loaded: {first_line(error)}; save the model again") from error
    raise ModelError(
        f"{path} is of no kind that is known; allowed: a .keras or .h5 file, a SavedModel folder; "
        "save it as one of these"
    )


def channels(model: Any, contract: ModelContract) -> int | None:
    """See `Backend.channels`; Keras itself would stretch one channel over several without a word."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4:
        return None
    size = shape[1] if contract.layout == "channels_first" else shape[3]
    return None if size is None else int(size)


def answer(model: Any, given: NDArray[Any]) -> Any:
    """See `Backend.answer`."""
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), _call(model, tf.constant(given)))


def export(model: Any, contract: ModelContract, destination: Path, given: NDArray[Any]) -> None:  # noqa: ARG001
    """See `Backend.export`."""
    wrapped = _Wrapped(model, contract)
    try:
        signatures = {
            "serving_default": tf.function(wrapped.of_bands).get_concrete_function(**_band_specs(contract)),
            "tiles": tf.function(wrapped.of_tiles).get_concrete_function(
                tiles=tf.TensorSpec([None, contract.channels, None, None], tf.float32, "tiles")
            ),
        }
        tf.saved_model.save(wrapped, str(destination), signatures=signatures)
    except Exception as error:
        raise ModelError(
            f"the model cannot be exported for tiles of any size: {first_line(error)}; build it with an input of "
            "height and width None"
        ) from error


def load_exported(folder: Path) -> Callable[[Tiles], Outputs]:
    """See `Backend.load_exported`."""
    loaded = tf.saved_model.load(str(folder))

    def run(tiles: Tiles) -> Outputs:
        answers = loaded.signatures["tiles"](tiles=tf.constant(tiles))
        return {name: tensor.numpy() for name, tensor in answers.items()}

    return run


class _Wrapped(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """A model with the contract's normalisation, padding, cast, layout and cropping in its graph."""

    def __init__(self, model: Any, contract: ModelContract) -> None:
        super().__init__()
        self.model = model
        self._contract = contract
        self._factors = np.array(contract.factors, np.float32)
        self._offsets = np.array(contract.offsets, np.float32)

    def of_tiles(self, tiles: Any) -> dict[str, Any]:
        """Answers to `[N, C, H, W]`."""
        return self._answers(tf.transpose(tiles, [0, 2, 3, 1]))

    def of_bands(self, **sent: Any) -> dict[str, Any]:
        """Answers to a tensor a band and a property."""
        bands = [
            tf.reshape(sent[band.name], tf.concat([tf.shape(sent[band.name])[:3], [band.channels]], 0))
            for band in self._contract.bands
        ]
        plane = tf.ones_like(bands[0][..., :1])
        properties = [plane * tf.reshape(sent[prop.name], [-1, 1, 1, 1]) for prop in self._contract.properties]
        return self._answers(tf.concat([*bands, *properties], axis=3))

    def _answers(self, raw: Any) -> dict[str, Any]:
        contract = self._contract
        height, width = tf.shape(raw)[1], tf.shape(raw)[2]
        given = raw * self._factors + self._offsets
        given = self._reflected(self._reflected(given, 1), 2)
        given = tf.cast(given, contract.model.type)
        if contract.layout == "channels_first":
            given = tf.transpose(given, [0, 3, 1, 2])
        answer = _call(self.model, given)
        outputs = {}
        for index, output in enumerate(contract.outputs):
            tensor = _pick(answer, output.name, index)
            outputs[output.name] = tf.cast(self._finished(tensor, output.dimensions, height, width), output.number)
        return outputs

    def _reflected(self, raw: Any, axis: int) -> Any:
        """Reflect the end of an axis up to the multiple, more than once where the tile is small."""
        if self._contract.model.multiple == 1:
            return raw
        size = tf.shape(raw)[axis]
        index = tf.range(size + (-size) % self._contract.model.multiple) % tf.maximum(2 * (size - 1), 1)
        return tf.gather(raw, tf.minimum(index, tf.abs(2 * (size - 1) - index)), axis=axis)

    def _finished(self, answer: Any, rank: int, height: Any, width: Any) -> Any:
        """One output as `[N, height, width, ...]`."""
        channels_first = self._contract.layout == "channels_first"
        if rank == 0 and len(answer.shape) in (2, 4):
            answer = tf.squeeze(answer, 1 if channels_first else -1)
        if len(answer.shape) == rank + 1:
            answer = answer[:, tf.newaxis, tf.newaxis]
        elif rank and channels_first:
            last = len(answer.shape) - 1
            answer = tf.transpose(answer, [0, last - 1, last, *range(1, last - 1)])
        return answer if self._contract.output_tile else answer[:, :height, :width]


def _band_specs(contract: ModelContract) -> dict[str, Any]:
    bands = {
        band.name: tf.TensorSpec([None, None, None, *(band.shape or (1,))], tf.float32, band.name)
        for band in contract.bands
    }
    return bands | {prop.name: tf.TensorSpec([None], tf.float32, prop.name) for prop in contract.properties}


def _pick(answer: Any, name: str, index: int) -> Any:
    if isinstance(answer, dict):
        return answer[name] if len(answer) > 1 else next(iter(answer.values()))
    return answer[index] if isinstance(answer, (list, tuple)) else answer


def _call(model: Any, given: Any) -> Any:
    return model(given, training=False) if isinstance(model, keras.Layer) else model(given)


def _of_saved_model(loaded: Any) -> Any:
    """What can be called in a loaded SavedModel: its serving signature with one input, else the object."""
    signature = loaded.signatures.get("serving_default")
    if signature is None:
        if callable(loaded):
            return loaded
        raise ModelError("the SavedModel has neither a serving_default signature nor a __call__; save it with one")
    _, inputs = signature.structured_input_signature
    if len(inputs) != 1:
        raise ModelError(
            f"the SavedModel's serving_default takes {len(inputs)} inputs ({', '.join(sorted(inputs))}), "
            "not one image; save it with one input of all channels"
        )
    return _Signature(loaded, signature, next(iter(inputs)))


class _Signature(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """A signature with one input as a function of one tensor, holding the variables that it needs."""

    def __init__(self, loaded: Any, signature: Any, argument: str) -> None:
        super().__init__()
        self.loaded = loaded
        self._signature = signature
        self._argument = argument

    def __call__(self, given: Any) -> Any:
        return self._signature(**{self._argument: given})


def _of_any_size(model: Any, *, channels_last: bool) -> Any:
    """A Keras model that was built for one size, built again for any; as it is where a layer forbids that."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape.count(None) == 3:
        return model
    channels = 3 if channels_last else 1
    anywhere = [size if axis == channels else None for axis, size in enumerate(shape)]
    try:
        again = keras.models.clone_model(model, input_tensors=keras.Input(anywhere[1:], dtype=model.inputs[0].dtype))
        again.set_weights(model.get_weights())
    except (ValueError, TypeError):
        return model
    return again
