"""A Keras model with its decoding in the graph, as Earth Engine's TensorFlow notebook deploys it.

    python -m benchmarks.wrapper MODEL BODY

Each band comes as a vector of strings, which are decoded one by one; so is the answer encoded. TensorFlow
Serving would put HTTP in front; here the saved signature is called in process, which is its upper bound.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.processes import repeated, take_turns
from components.earthengine.payloads import codec
from components.frameworks.quiet import quiet_import
from components.parity import compare
from components.source import SourceModel

with quiet_import():
    import tensorflow as tf


class Wrapper(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """A model that takes and answers TensorProtos in web-safe base64."""

    def __init__(self, source: SourceModel) -> None:
        super().__init__()
        self.model = source.model
        self._names = [band.name for band in source.contract.bands]

    def __call__(self, **texts: Any) -> dict[str, Any]:
        bands = [
            tf.map_fn(
                lambda proto: tf.io.parse_tensor(proto, tf.float32),
                tf.io.decode_base64(texts[name]),
                fn_output_signature=tf.TensorSpec([None, None, 1], tf.float32),
            )
            for name in self._names
        ]
        answers = self.model(tf.concat(bands, axis=3), training=False)
        encoded = tf.map_fn(
            lambda answer: tf.io.encode_base64(tf.io.serialize_tensor(answer)), answers, fn_output_signature=tf.string
        )
        return {"answers": encoded}


def load(model: SourceModel) -> Callable[..., dict[str, Any]]:
    """The wrapped model's signature, after it was saved and loaded as TensorFlow Serving would."""
    wrapper = Wrapper(model)
    specs = {band.name: tf.TensorSpec([None], tf.string, band.name) for band in model.contract.bands}
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(wrapper, folder, tf.function(wrapper.__call__).get_concrete_function(**specs))
        loaded = tf.saved_model.load(folder)
    signature = loaded.signatures["serving_default"]
    signature.loaded = loaded  # the signature's variables live only as long as what was loaded

    return lambda **texts: {name: tensor.numpy() for name, tensor in signature(**texts).items()}


def main() -> None:
    """Load the model, check its answer to a SERIALIZED_TF_TENSORS body, then work in turns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="the trained model's folder")
    parser.add_argument("body", type=Path, help="the request")
    arguments = parser.parse_args()
    model, body = SourceModel(arguments.model, allow_pickle=True), arguments.body.read_bytes()
    signature = load(model)
    instances = json.loads(body)["instances"]
    names = [band.name for band in model.contract.bands]
    texts = {name: tf.constant([instance[name] for instance in instances]) for name in names}
    serialized = codec("SERIALIZED_TF_TENSORS")
    answers = [text.decode("ascii") for text in signature(**texts)["answers"]]
    answered = serialized.decode_response(model.contract, json.dumps({"predictions": answers}).encode())
    expected = model.predict(serialized.decode_request(model.contract, body))
    if fault := compare(model.contract, expected, answered).fault:
        raise SystemExit(f"the wrapped model answers otherwise: {fault}")
    take_turns(repeated(lambda: signature(**texts)))


if __name__ == "__main__":
    main()
