"""The signatures of an exported SavedModel, asked as TensorFlow Serving asks them for Earth Engine's requests.

There is no TensorFlow Serving in Python's package index, so they run in this process, on what its REST and gRPC
interfaces hand to them: the values of a request by name, without a look at the contract.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.payloads import codec
from components.export import export_model
from components.source import SourceModel
from tests.conftest import assert_close, contract_of
from tests.earthengine.payloads.conftest import tiles_of

PROPERTIES = [
    {"name": "year"},
    {"name": "winter", "type": "boolean"},
    {"name": "soil", "type": "string", "values": ["clay", "loam", "s\u00e4nd"]},
    {"name": "monthly", "shape": [2]},
]
TWO = [{"name": "a", "dimensions": 0, "type": "double"}, {"name": "b", "dimensions": 1}]
KEYS: dict[str, dict[str, Any]] = {
    "rich": {
        "payload_format": "GRPC_TF_EXAMPLES",
        "bands": [
            {"name": "red"},
            {"name": "quality", "type": "uint8"},
            {"name": "height", "type": "double"},
            {"name": "series", "shape": [2, 2]},
        ],
        "properties": PROPERTIES,
        "outputs": TWO,
        "tile": [5, 3],
    },
    "plain": {"payload_format": "ND_ARRAYS", "outputs": [{"name": "a", "dimensions": 0, "type": "uint16"}]},
    "vector": {"outputs": [{"name": "b", "dimensions": 1}]},
    "table": {
        "payload_format": "GRPC_TF_TENSORS",
        "bands": None,
        "tile": None,
        "scale": None,
        "properties": PROPERTIES,
        "outputs": TWO,
    },
    "row": {
        "payload_format": "ND_ARRAYS",
        "bands": None,
        "tile": None,
        "scale": None,
        "properties": PROPERTIES[:1],
        "outputs": TWO[:1],
    },
}


def save(contract: ModelContract, path: Path) -> None:
    """A SavedModel whose outputs tell what went in: `a` the sum of the channels, `b` the first two of them doubled."""

    def answer(x: Any) -> dict[str, Any]:
        answers = {"a": tf.reduce_sum(x, -1), "b": x[..., :2] * 2}
        return {output.name: answers[output.name] for output in contract.outputs}

    spec = tf.TensorSpec([None] * (2 if contract.table else 4), tf.float32)
    tf.saved_model.save(tf.Module(), str(path), signatures=tf.function(answer, input_signature=[spec]))


@dataclass
class Exported:
    contract: ModelContract
    source: SourceModel
    signatures: Any


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Each contract's export, and the source model that it must answer as."""
    found = {}
    for name, keys in KEYS.items():
        folder = tmp_path_factory.mktemp(name)
        contract = contract_of(framework="tensorflow", model={"file": "saved"}, **keys)
        (folder / "model.yaml").write_text(contract.dump(), encoding="utf-8")
        save(contract, folder / "saved")
        export_model(folder, folder / "exported")
        loaded = tf.saved_model.load(str(folder / "exported"))
        found[name] = Exported(contract, SourceModel(folder), loaded.signatures)
    return found


def over_rest(signature: Any, body: bytes) -> bytes:
    """The answer of TensorFlow Serving's REST interface in its row format (its g3doc/api_rest.md)."""
    (_, specs) = signature.structured_input_signature
    instances = json.loads(body)["instances"]
    if isinstance(instances[0], dict):
        sent = {name: tf.constant([each[name] for each in instances], specs[name].dtype) for name in instances[0]}
    else:
        ((name, spec),) = specs.items()
        sent = {name: tf.constant(instances, spec.dtype)}
    outputs = {name: _json(tensor) for name, tensor in signature(**sent).items()}
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return json.dumps({"predictions": [row if len(row) > 1 else next(iter(row.values())) for row in rows]}).encode()


def _json(tensor: Any) -> list[Any]:
    # json_tensor.cc writes these types and no others.
    assert tensor.dtype in {tf.float32, tf.float64, tf.int32, tf.int16, tf.int8, tf.uint8, tf.string}
    array = tensor.numpy()
    values: list[Any] = [text.decode() for text in array] if tensor.dtype == tf.string else array.tolist()
    return values


def over_grpc(signature: Any, body: bytes) -> bytes:
    """The answer of TensorFlow Serving's gRPC interface."""
    request = PredictRequest.FromString(body)
    outputs = signature(**{name: tf.constant(tf.make_ndarray(proto)) for name, proto in request.inputs.items()})
    response = PredictResponse()
    for name, tensor in outputs.items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(tensor.numpy()))
    serialized: bytes = response.SerializeToString()
    return serialized


ASKED: dict[PayloadFormat, tuple[str, Callable[[Any, bytes], bytes]]] = {
    "SERIALIZED_TF_TENSORS": ("serialized", over_rest),
    "ND_ARRAYS": ("arrays", over_rest),
    "GRPC_TF_TENSORS": ("bands", over_grpc),
    "GRPC_SERIALIZED_TF_TENSORS": ("serialized", over_grpc),
    "GRPC_TF_EXAMPLES": ("examples", over_grpc),
}
# What ND_ARRAYS can carry.
OF_LISTS = ("plain", "row")


def tiles_for(exported: Exported, n: int = 3, height: int = 3, width: int = 5) -> NDArray[np.float32]:
    return tiles_of(exported.contract, n, height, width)


@pytest.mark.parametrize(
    ("name", "payload_format"),
    [(name, each) for name in KEYS for each in ASKED if each != "ND_ARRAYS" or name in OF_LISTS],
)
def test_answers_as_the_source_model(exports: dict[str, Exported], name: str, payload_format: PayloadFormat) -> None:
    exported, (signature, ask) = exports[name], ASKED[payload_format]
    # Examples do not carry a size: the contract's patch, or a square.
    size = {} if name == "rich" else {"height": 4, "width": 4}
    tiles, wire = tiles_for(exported, **size), codec(payload_format)
    body = wire.encode_request(exported.contract, tiles)
    answered = wire.decode_response(exported.contract, ask(exported.signatures[signature], body))
    expected = exported.source.predict(tiles)
    assert sorted(answered) == sorted(expected)
    for output, array in expected.items():
        assert_close(answered[output], array.astype(answered[output].dtype))
        if payload_format != "ND_ARRAYS":
            assert answered[output].dtype == array.dtype


def test_our_server_is_answered_in_the_types_of_the_contract(exports: dict[str, Exported]) -> None:
    exported = exports["rich"]
    tiles = tiles_for(exported, height=4, width=7)
    answers = exported.signatures["tiles"](tiles=tf.constant(tiles))
    for output, array in exported.source.predict(tiles).items():
        assert_close(answers[output].numpy(), array)


@pytest.mark.parametrize(
    ("name", "signature"), [("rich", "examples"), ("plain", "arrays"), ("vector", "serialized"), ("table", "bands")]
)
def test_serving_default_is_for_the_contracts_format(exports: dict[str, Exported], name: str, signature: str) -> None:
    signatures = exports[name].signatures
    assert sorted(signatures) == ["arrays", "bands", "examples", "serialized", "serving_default", "tiles"]
    default, named = signatures["serving_default"], signatures[signature]
    assert default.structured_input_signature == named.structured_input_signature
    assert default.structured_outputs == named.structured_outputs


def test_bands_as_floats_whatever_their_type(exports: dict[str, Exported]) -> None:
    """Earth Engine's notebooks cast every band with `.float()`."""
    exported = exports["rich"]
    tiles = tiles_for(exported)
    floats = exported.contract.model_copy(
        update={"bands": tuple(band.model_copy(update={"type": "float"}) for band in exported.contract.bands)}
    )
    wire = codec("SERIALIZED_TF_TENSORS")
    body = over_rest(exported.signatures["serialized"], wire.encode_request(floats, tiles))
    for output, array in exported.source.predict(tiles).items():
        assert_close(wire.decode_response(exported.contract, body)[output], array)


def test_any_square_of_examples(exports: dict[str, Exported]) -> None:
    exported, wire = exports["rich"], codec("GRPC_TF_EXAMPLES")
    for side in (1, 7):
        tiles = tiles_for(exported, 2, side, side)
        answer = over_grpc(exported.signatures["examples"], wire.encode_request(exported.contract, tiles))
        expected = exported.source.predict(tiles)["a"]
        assert_close(wire.decode_response(exported.contract, answer)["a"], expected)


def encoded(array: Any) -> Any:
    return tf.io.encode_base64(tf.io.serialize_tensor(array))


GOOD = encoded(tf.ones([2, 2, 1]))


@pytest.mark.parametrize(
    ("green", "said"),
    [
        (b"$$$", "Invalid character found in base64"),
        (encoded(tf.ones([3, 2, 1])), "Dimension 1 in both shapes must be equal|Dimensions of inputs should match"),
        (encoded(tf.ones([4])), "shape"),
        (encoded(tf.ones([2, 2, 1], tf.float64)), "Type mismatch between parsed tensor .double. and dtype .float."),
        (tf.io.encode_base64(tf.strings.substr(tf.io.decode_base64(GOOD), 0, 9)), "Could not parse"),
    ],
)
def test_bad_tensors_fail_the_request(exports: dict[str, Exported], green: Any, said: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=said):
        exports["plain"].signatures["serialized"](red=tf.stack([GOOD]), green=tf.stack([green]))
    exports["plain"].signatures["serialized"](red=tf.stack([GOOD]), green=tf.stack([GOOD]))


def test_tiles_of_two_sizes_fail_the_request(exports: dict[str, Exported]) -> None:
    both = tf.stack([GOOD, encoded(tf.ones([3, 3, 1]))])
    with pytest.raises(tf.errors.InvalidArgumentError):
        exports["plain"].signatures["serialized"](red=both, green=both)


def test_unknown_string_fails_the_request(exports: dict[str, Exported]) -> None:
    sent = {"year": 1.0, "winter": True, "soil": "mud", "monthly": [1.0, 2.0]}
    signature = exports["table"].signatures["bands"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="property soil: not one of clay, loam, s\u00e4nd"):
        signature(**{name: tf.constant([value]) for name, value in sent.items()})


@pytest.mark.parametrize("values", [[1.0] * 5, [], [1.0] * 18])
def test_wrong_number_of_values_fails_the_request(exports: dict[str, Exported], values: list[float]) -> None:
    features = {
        name: tf.train.Feature(float_list=tf.train.FloatList(value=sent))
        for name, sent in (("red", [1.0] * 4), ("green", values))
    }
    example = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    with pytest.raises(tf.errors.InvalidArgumentError, match="band green: an Example has another number of values"):
        exports["plain"].signatures["examples"](input=tf.constant([example]))
