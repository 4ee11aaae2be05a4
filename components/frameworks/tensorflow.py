"""TensorFlow models: `.keras`, legacy `.h5`, and SavedModel folders (of a tf.Module, say).

Exported as ONNX where it converts (see `onnx`), and as a SavedModel with a signature for each way to ask:

- `tiles`, for our server: raw float32 tiles `[N, C, H, W]`; the outputs as the project has them.
- `arrays`, for ND_ARRAYS: the same tiles, or `[N, C]` of a table.
- `bands`, for GRPC_TF_TENSORS: a tensor a band or property.
- `serialized`, for SERIALIZED_TF_TENSORS and GRPC_SERIALIZED_TF_TENSORS: strings `[N]` a band or property, each a
  TensorProto in web-safe base64; and so the outputs.
- `examples`, for GRPC_TF_EXAMPLES: strings `[N]` named `input`, each a tf.Example.

`serving_default` is the one for the contract's payload format. TensorFlow Serving, and so Vertex AI's prebuilt image,
calls that, and needs nothing of ours to answer Earth Engine.
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
from components.earthengine.payloads import batches
from components.earthengine.untrusted import saved_model
from components.frameworks import beside, first_line, keras_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.earthengine.contract import ModelContract, PayloadFormat
    from components.earthengine.payloads.batches import Part
    from components.earthengine.payloads.codec import Outputs, Tiles

# Which signature answers a payload format. RAW_JSON: TensorFlow Serving reads the names and nested lists, but no
# numbers in strings.
_SIGNATURES: dict[PayloadFormat, str] = {
    "SERIALIZED_TF_TENSORS": "serialized",
    "GRPC_SERIALIZED_TF_TENSORS": "serialized",
    "GRPC_TF_TENSORS": "bands",
    "RAW_JSON": "bands",
    "GRPC_TF_EXAMPLES": "examples",
    "ND_ARRAYS": "arrays",
}


def load(directory: Path, contract: ModelContract, allow_pickle: bool) -> Any:  # noqa: ARG001
    """See `Backend.load`; nothing is unpickled: Keras's safe mode refuses Lambda layers, with leave or without.

    Nor does leave let a SavedModel reach files: the server would refuse it.
    """
    path = beside(directory, contract.model.file, "as model.file", "the trained model")
    try:
        if path.is_dir():
            _check(path)
            return _of_saved_model(tf.saved_model.load(str(path)))
        if path.suffix in {".keras", ".h5"}:
            keras_files.check(path)
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


def _check(path: Path) -> None:
    """Refuse a SavedModel that reaches beyond itself or claims more than it holds."""
    try:
        saved_model.check(path)
    except ValueError as error:
        raise ModelError(
            f"{path} is refused: {error}; if it is your own model, save it again without this, else do not load it"
        ) from error


def channels(model: Any, contract: ModelContract) -> int | None:
    """See `Backend.channels`; Keras itself would stretch one channel over several without a word."""
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != (2 if contract.table else 4):
        return None
    size = shape[1 if contract.layout == "channels_first" else -1]
    return None if size is None else int(size)


def answer(model: Any, given: NDArray[Any]) -> Any:
    """See `Backend.answer`."""
    return tf.nest.map_structure(lambda tensor: tensor.numpy(), _call(model, tf.constant(given)))


def export(model: Any, contract: ModelContract, destination: Path, given: NDArray[Any]) -> None:  # noqa: ARG001
    """See `Backend.export`."""
    # What is saved beside the signatures, and nothing more: a function in it would be traced once more.
    saved = tf.Module()
    saved.model = model
    try:
        signatures = _Wrapped(model, contract).signatures()
        signatures["serving_default"] = signatures[_SIGNATURES[contract.payload_format]]
        tf.saved_model.save(saved, str(destination), signatures=signatures)
    except Exception as error:
        raise ModelError(
            f"the model cannot be exported for tiles of any size: {first_line(error)}; build it with an input of "
            "height and width None"
        ) from error
    # Takes a second, which loading a model need not pay.
    from components.frameworks import onnx, tensorflow_onnx

    try:
        tensorflow_onnx.convert(signatures["tiles"], contract, destination)
    except ModelError as error:
        onnx.drop(contract, destination, str(error))


def load_exported(folder: Path) -> Callable[[Tiles], Outputs]:
    """See `Backend.load_exported`."""
    loaded = tf.saved_model.load(str(folder))

    def run(tiles: Tiles) -> Outputs:
        answers = loaded.signatures["tiles"](tiles=tf.constant(tiles))
        return {name: tensor.numpy() for name, tensor in answers.items()}

    return run


class _Wrapped:
    """A model with the contract's normalisation, padding, cast, layout and cropping in its graph."""

    def __init__(self, model: Any, contract: ModelContract) -> None:
        self._model = model
        self._contract = contract
        self._parts = batches.parts(contract)
        self._factors = np.array(contract.factors, np.float32)
        self._offsets = np.array(contract.offsets, np.float32)
        # Called by all signatures, so that the model is traced, and stands in the SavedModel, once.
        self._answers = tf.function(
            self._traced_answers, input_signature=[tf.TensorSpec([None, None, None, contract.channels], tf.float32)]
        )

    def signatures(self) -> dict[str, Any]:
        """The signatures by name."""
        tiles = [self._contract.channels, None, None]
        arrays = tiles[:1] if self._contract.table else tiles
        return {
            "tiles": _signature(self.of_tiles, {"tiles": tf.TensorSpec([None, *tiles], tf.float32)}),
            "arrays": _signature(self.of_arrays, {"tiles": tf.TensorSpec([None, *arrays], tf.float32)}),
            "bands": _signature(self.of_bands, {part.name: _spec(part) for part in self._parts}),
            "serialized": _signature(
                self.of_serialized, {part.name: tf.TensorSpec([None], tf.string) for part in self._parts}
            ),
            "examples": _signature(self.of_examples, {"input": tf.TensorSpec([None], tf.string)}),
        }

    def of_tiles(self, sent: dict[str, Any]) -> dict[str, Any]:
        """Answers to `[N, C, H, W]`."""
        return dict(self._answers(tf.transpose(sent["tiles"], [0, 2, 3, 1])))

    def of_arrays(self, sent: dict[str, Any]) -> dict[str, Any]:
        """Answers to `[N, C, H, W]`, or to `[N, C]` of a table, in types that TensorFlow Serving writes as JSON."""
        tiles, table = sent["tiles"], self._contract.table
        answers = self.of_tiles({"tiles": tiles[:, :, tf.newaxis, tf.newaxis] if table else tiles})
        answers = self._without_pixels(answers) if table else answers
        # json_tensor.cc of TensorFlow Serving has no word for uint16.
        return {name: tf.cast(a, tf.int32) if a.dtype == tf.uint16 else a for name, a in answers.items()}

    def of_bands(self, sent: dict[str, Any]) -> dict[str, Any]:
        """Answers to a tensor `[N, H, W, ...]` a band and `[N, ...]` a property, as the gRPC formats have them."""
        size = tf.shape(sent[self._parts[0].name])[:3]
        size = tf.stack([size[0], 1, 1]) if self._contract.table else size
        answers = self._answers(tf.concat([_channels(part, sent[part.name], size) for part in self._parts], 3))
        if self._contract.table:
            return self._without_pixels(answers)
        # Earth Engine's documents show a number a pixel with a trailing 1.
        return {
            output.name: answers[output.name] if output.dimensions else answers[output.name][..., tf.newaxis]
            for output in self._contract.outputs
        }

    def of_serialized(self, sent: dict[str, Any]) -> dict[str, Any]:
        """Answers in web-safe base64 to TensorProtos in web-safe base64, `[N]` a part."""
        tensors = tf.map_fn(
            lambda protos: {part.name: _parsed(part, protos[part.name]) for part in self._parts},
            {name: tf.io.decode_base64(texts) for name, texts in sent.items()},
            fn_output_signature={part.name: _parsed_spec(part) for part in self._parts},
        )
        protos = tf.map_fn(
            lambda answers: tf.nest.map_structure(tf.io.serialize_tensor, answers),
            self.of_bands(tensors),
            fn_output_signature={output.name: tf.string for output in self._contract.outputs},
        )
        return {name: tf.io.encode_base64(each) for name, each in protos.items()}

    def of_examples(self, sent: dict[str, Any]) -> dict[str, Any]:
        """Answers to serialized tf.Examples, each part a list of its values, row by row."""
        features = {part.name: tf.io.RaggedFeature(_parsed_spec(part).dtype) for part in self._parts}
        lists = tf.io.parse_example(sent["input"], features)
        first = self._parts[0]
        size = self._size(lists[first.name].row_lengths()[0] // first.channels)
        return self.of_bands({part.name: _unlisted(part, lists[part.name], size) for part in self._parts})

    def _size(self, pixels: Any) -> Any:
        """Height and width of a tile of so many pixels: the contract's patch, else a square."""
        width, height = self._contract.patch
        side = tf.cast(tf.round(tf.sqrt(tf.cast(pixels, tf.float32))), tf.int32)
        return tf.where(pixels == width * height, [height, width], tf.stack([side, side]))

    def _without_pixels(self, answers: dict[str, Any]) -> dict[str, Any]:
        return {name: tf.squeeze(answer, [1, 2]) for name, answer in answers.items()}

    def _traced_answers(self, raw: Any) -> dict[str, Any]:
        """Answers `[N, H, W, ...]` to `[N, H, W, C]`."""
        contract = self._contract
        height, width = tf.shape(raw)[1], tf.shape(raw)[2]
        given = raw * self._factors if (self._factors != 1).any() else raw
        given = given + self._offsets if self._offsets.any() else given
        given = self._reflected(self._reflected(given, 1), 2)
        given = tf.cast(given, contract.model.type)
        if contract.table:
            given = tf.squeeze(given, [1, 2])
        elif contract.layout == "channels_first":
            given = tf.transpose(given, [0, 3, 1, 2])
        answer = _call(self._model, given)
        outputs = {}
        for index, output in enumerate(contract.outputs):
            tensor = _pick(answer, output.name, index)
            outputs[output.name] = tf.cast(self._finished(tensor, output.dimensions, height, width), output.number)
        return outputs

    def _reflected(self, raw: Any, axis: int) -> Any:
        """Reflect the end of an axis up to the multiple, more than once where the tile is small."""
        multiple = self._contract.model.multiple
        if multiple == 1:
            return raw
        size = tf.shape(raw)[axis]
        # Of positive numbers: tf2onnx 1.17 takes the remainder of a negative one as C does.
        wanted = (size + multiple - 1) // multiple * multiple
        index = tf.range(wanted) % tf.maximum(2 * (size - 1), 1)
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


def _signature(answers: Callable[[dict[str, Any]], dict[str, Any]], specs: dict[str, Any]) -> Any:
    """A signature of these inputs by name, which the function gets as a dictionary."""
    return tf.function(lambda **sent: answers(sent), autograph=False).get_concrete_function(**specs)


def _type(part: Part) -> Any:
    return tf.string if part.values else tf.as_dtype(part.dtype)


def _spec(part: Part) -> Any:
    """A part of a batch as a tensor."""
    shape = [None, None, *(part.shape or (1,))] if part.has_pixels else part.shape
    return tf.TensorSpec([None, *shape], _type(part))


def _parsed_spec(part: Part) -> Any:
    """A part of one tile as it comes out of a string: flat in its channels, numbers as float32."""
    pixels = [None, None] if part.has_pixels else []
    return tf.TensorSpec([*pixels, part.channels], tf.string if part.values else tf.float32)


def _parsed(part: Part, proto: Any) -> Any:
    """What a serialized TensorProto holds, see `_parsed_spec`."""
    if _type(part) in {tf.string, tf.float32}:
        tensor = tf.io.parse_tensor(proto, _type(part))
    else:
        # That Earth Engine sends a band's own type is INFERRED; its notebooks cast all to float. A TensorProto begins
        # with its type, field 1, and DT_FLOAT is 1.
        tensor = tf.cond(
            tf.strings.substr(proto, 0, 2) == b"\x08\x01",
            lambda: tf.io.parse_tensor(proto, tf.float32),
            lambda: tf.cast(tf.io.parse_tensor(proto, _type(part)), tf.float32),
        )
    return tf.reshape(tensor, _with_channels(tf.shape(tensor)[:2], part))


def _with_channels(size: Any, part: Part) -> Any:
    """The shape of a part of one tile of this height and width, flat in its channels."""
    return tf.concat([size, [part.channels]], 0) if part.has_pixels else tf.constant([part.channels])


def _unlisted(part: Part, lists: Any, size: Any) -> Any:
    """The values of a part of tiles of this height and width, `[N, H, W, channels]` or `[N, channels]`."""
    shape = _with_channels(size, part)
    right = tf.debugging.assert_equal(
        lists.row_lengths(),
        tf.reduce_prod(shape),
        f"{part}: an Example has another number of values than a tile, of the size that model.yaml declares or square",
    )
    with tf.control_dependencies([right]):  # else the reshape fails first, and says less
        return tf.reshape(lists.values, tf.concat([[lists.nrows()], shape], 0))


def _channels(part: Part, tensor: Any, size: Any) -> Any:
    """A part of N tiles of this height and width as the channels that it fills, `[N, H, W, channels]`."""
    if part.values:
        places = tensor[..., tf.newaxis] == tf.constant(part.values)
        tf.debugging.assert_equal(
            tf.reduce_any(places, -1), True, f"{part}: not one of {', '.join(part.values)}, as model.yaml says"
        )
        tensor = tf.argmax(tf.cast(places, tf.int8), -1)
    numbers = tf.cast(tensor, tf.float32)
    if part.has_pixels:
        return tf.reshape(numbers, tf.concat([tf.shape(numbers)[:3], [part.channels]], 0))
    constant = tf.reshape(numbers, [size[0], 1, 1, part.channels])
    return tf.broadcast_to(constant, tf.concat([size, [part.channels]], 0))


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
