"""What no codec may take: refused with the instance and the band where there is one, at once and in little memory."""

from __future__ import annotations

import base64
import json
import math
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import CODECS, Codec, predict_messages, tensors
from components.earthengine.payloads.messages_pb2 import Example, PredictRequest, TensorProto
from tests.earthengine.payloads.conftest import PLAIN, TABLE, tiles_of

Instance = dict[str, Any]

CONTRACT = ModelContract.parse(PLAIN)
EVERY = pytest.mark.parametrize("name", CODECS)
# What carries serialized TensorProtos, and how they are named in errors.
OF_PROTOS: tuple[PayloadFormat, ...] = ("SERIALIZED_TF_TENSORS", "GRPC_SERIALIZED_TF_TENSORS")
BOTH_OF_PROTOS = pytest.mark.parametrize("name", OF_PROTOS)
HTTP = pytest.mark.parametrize("name", [name for name, each in CODECS.items() if each.transport == "http"])
GRPC = pytest.mark.parametrize("name", [name for name, each in CODECS.items() if each.transport == "grpc"])


def strings(texts: list[bytes]) -> NDArray[Any]:
    array = np.empty(len(texts), tensors.STRING)
    array[:] = texts
    return array


def proto(value: Any) -> bytes:
    """A serialized TensorProto of a tile's band; of bytes themselves."""
    return value if isinstance(value, bytes) else tensors.encode(np.asarray(value)[..., None]).SerializeToString()


def example(instance: Instance) -> bytes:
    made = Example()
    for band, value in instance.items():
        made.features.feature[band].float_list.value.extend(np.ravel(value))
    return made.SerializeToString()


def body_of(name: str, instances: list[Instance]) -> bytes:
    """A request of these instances, whatever is in them; arrays `[H, W]`, or a serialized TensorProto's bytes."""
    bands = list(dict.fromkeys(band for instance in instances for band in instance))
    if name == "SERIALIZED_TF_TENSORS":
        sent: list[Any] = [
            {band: base64.urlsafe_b64encode(proto(value)).decode() for band, value in instance.items()}
            for instance in instances
        ]
    elif name == "RAW_JSON":
        sent = [{band: np.asarray(value).tolist() for band, value in instance.items()} for instance in instances]
    elif name == "ND_ARRAYS":
        sent = [[np.asarray(value).tolist() for value in instance.values()] for instance in instances]
    elif name == "GRPC_TF_EXAMPLES":
        return predict_messages.request({"input": strings([example(instance) for instance in instances])})
    elif name == "GRPC_TF_TENSORS":
        arrays = {band: [each[band] for each in instances if band in each] for band in bands}
        return predict_messages.request({band: np.stack(values)[..., None] for band, values in arrays.items()})
    else:
        protos = {band: [proto(each[band]) for each in instances if band in each] for band in bands}
        encoded = {band: [base64.urlsafe_b64encode(each) for each in values] for band, values in protos.items()}
        return predict_messages.request({band: strings(values) for band, values in encoded.items()})
    return json.dumps({"instances": sent}).encode()


def zeros(height: int = 2, width: int = 3) -> NDArray[np.float32]:
    return np.zeros((height, width), np.float32)


def refused(name: str, body: bytes, contract: ModelContract = CONTRACT) -> str:
    with pytest.raises(PayloadError) as error:
        CODECS[name].decode_request(contract, body)  # type: ignore[index]
    assert len(str(error.value)) < 500
    return str(error.value)


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@EVERY
def test_good_requests_as_built_here_are_taken(name: PayloadFormat) -> None:
    good = {"red": zeros(4, 4), "green": zeros(4, 4) + 1}
    tiles = CODECS[name].decode_request(CONTRACT, body_of(name, [good, good]))
    assert tiles.shape == (2, 2, 4, 4)
    assert tiles[:, 1].all()


@EVERY
@given(data=st.data())
def test_a_part_of_a_request_is_no_request(name: PayloadFormat, data: st.DataObject) -> None:
    body = CODECS[name].encode_request(CONTRACT, tiles_of(CONTRACT, 2, 4, 4))
    refused(name, body[: data.draw(st.integers(0, len(body) - 1))])


@HTTP
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"7", b"[]", b"\xff\xfe", b'{"instances"}', b'{"instances": [}', b'{"Instances": [[1]]}'],
)
def test_a_body_that_is_not_the_formats_json_is_refused(name: str, body: bytes) -> None:
    assert refused(name, body).startswith(("the body is not JSON", 'the body has no key "instances"'))


@HTTP
@pytest.mark.parametrize("instances", ["[]", "{}", "null", '"a"', "7"])
def test_no_instances_are_refused(name: str, instances: str) -> None:
    assert refused(name, f'{{"instances": {instances}}}'.encode()).startswith('"instances" holds')


@GRPC
@pytest.mark.parametrize("body", [b"\xff", b"\x12\x05ab", b"{}"])
def test_a_body_that_is_no_message_is_refused(name: str, body: bytes) -> None:
    assert "no PredictRequest" in refused(name, body)


@GRPC
@pytest.mark.parametrize("shape", [(0,), (), (0, 2, 2, 1)])
def test_a_batch_of_nothing_is_refused(name: str, shape: tuple[int, ...]) -> None:
    dtype = np.dtype(np.float32) if name == "GRPC_TF_TENSORS" else tensors.STRING
    array = np.full(shape, b"", dtype) if dtype == tensors.STRING else np.zeros(shape, dtype)
    said = refused(
        name, predict_messages.request({"input": array} if "EXAMPLES" in name else {"red": array, "green": array})
    )
    assert "expected one entry a tile first, at least one" in said


@EVERY
def test_a_missing_band_is_named(name: str) -> None:
    good = {"red": zeros(), "green": zeros()}
    said = refused(
        name, body_of(name, [{"red": zeros()}] * 2 if name == "GRPC_TF_TENSORS" else [good, {"red": zeros()}])
    )
    if name in ("SERIALIZED_TF_TENSORS", "RAW_JSON", "GRPC_TF_EXAMPLES"):
        assert said.startswith("instance 1: green is missing; expected the bands and properties red, green")
    elif name == "ND_ARRAYS":
        assert said.startswith("instance 1")
    else:
        assert "green" in said


@EVERY
def test_a_surplus_band_is_named(name: str) -> None:
    surplus = {"red": zeros(), "green": zeros(), "blue": zeros()}
    said = refused(name, body_of(name, [surplus, surplus]))
    assert "instance 0 has shape [3, 2, 3]" in said if name == "ND_ARRAYS" else "'blue' is unknown" in said


@pytest.mark.parametrize("name", [name for name in CODECS if name != "GRPC_TF_TENSORS"])
def test_another_size_of_a_tile_is_named(name: str) -> None:
    good = {"red": zeros(4, 4), "green": zeros(4, 4)}
    said = refused(name, body_of(name, [good, {"red": zeros(4, 4), "green": zeros(3, 3)}]))
    assert said.startswith("instance 1" if name == "ND_ARRAYS" else "instance 1, band green")
    said = refused(name, body_of(name, [good, {"red": zeros(3, 3), "green": zeros(3, 3)}]))
    assert said.startswith("instance 1" if name == "ND_ARRAYS" else "instance 1, band red")


@EVERY
def test_another_size_of_a_band_is_named(name: str) -> None:
    said = refused(name, body_of(name, [{"red": zeros(4, 4), "green": zeros(3, 3)}] * 2))
    assert said.startswith("instance 0" if name == "ND_ARRAYS" else "instance 0, band green")


@pytest.mark.parametrize("name", ["RAW_JSON", "ND_ARRAYS"])
@pytest.mark.parametrize(
    "green", [[[1, 2, 3], [4, 5]], [[1, 2, 3], 4], [[1, 2, None], [4, 5, 6]], [[1, 2, {}], [4, 5, 6]]]
)
def test_ragged_lists_are_named(name: str, green: Any) -> None:
    good = zeros().tolist()
    first, second = {"red": good, "green": good}, {"red": good, "green": green}
    sent = [first, second] if name == "RAW_JSON" else [list(first.values()), list(second.values())]
    said = refused(name, json.dumps({"instances": sent}).encode())
    assert said.startswith("instance 1, band green" if name == "RAW_JSON" else "instance 1")


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", '"NaN"', '"inf"', "1e39"])
@pytest.mark.parametrize("name", ["RAW_JSON", "ND_ARRAYS"])
def test_numbers_that_are_not_finite_are_refused(name: str, word: str) -> None:
    instance = '{"red":[[1]],"green":[[%s]]}' if name == "RAW_JSON" else "[[[1]],[[%s]]]"
    said = refused(name, f'{{"instances":[{instance % word}]}}'.encode())
    if '"' in word and name == "RAW_JSON":
        assert said.startswith("instance 0, band green holds NaN, an infinity")
    else:
        assert said.startswith(("the body is not JSON", "instance 0"))


def test_the_type_of_every_property_is_checked() -> None:
    contract = ModelContract.parse(TABLE)
    good = {
        "area": np.zeros(2),
        "monthly": np.zeros((2, 3)),
        "irrigated": np.zeros(2, bool),
        "soil": strings([b"clay"] * 2),
    }
    for band, bad in {"area": good["soil"], "irrigated": good["soil"], "soil": good["area"]}.items():
        said = refused("GRPC_TF_TENSORS", predict_messages.request({**good, band: bad}), contract)
        assert said.startswith(f"instance 0, property {band}")
        texts = {
            key: strings([base64.urlsafe_b64encode(each) for each in tensors.serialize_each(array)])
            for key, array in {**good, band: bad}.items()
        }
        said = refused("GRPC_SERIALIZED_TF_TENSORS", predict_messages.request(texts), contract)
        assert said.startswith(f"instance 0, property {band}")


@BOTH_OF_PROTOS
@given(data=st.data())
def test_a_part_of_a_tensor_is_no_tensor(name: PayloadFormat, data: st.DataObject) -> None:
    whole = proto(zeros() + 1)
    # Up to its content it is a tensor of zeros, as TensorFlow reads it.
    header = len(whole) - zeros().nbytes - 2
    cut = data.draw(st.integers(0, len(whole) - 1).filter(lambda length: length != header))
    said = refused(name, body_of(name, [{"red": zeros(), "green": zeros()}, {"red": zeros(), "green": whole[:cut]}]))
    assert said.startswith("instance 1, band green: ")


def damaged_texts() -> list[bytes]:
    good = base64.urlsafe_b64encode(proto(zeros()))
    return [
        good[:-3] + b"!!!",
        good[:7] + b" " + good[8:],
        good[:9] + b"=" + good[10:],
        b"=" + good,
        good[:-5],
        "é".encode(),
        b"",
    ]


@BOTH_OF_PROTOS
@pytest.mark.parametrize("text", damaged_texts(), ids=range(7))
def test_what_is_not_base64_is_named(name: str, text: bytes) -> None:
    good = base64.urlsafe_b64encode(proto(zeros()))
    if name == "SERIALIZED_TF_TENSORS":
        instances = [{"red": good.decode(), "green": each.decode()} for each in (good, text)]
        said = refused(name, json.dumps({"instances": instances}).encode())
    else:
        said = refused(name, predict_messages.request({"red": strings([good, good]), "green": strings([good, text])}))
    assert said.startswith("instance 1, band green: ")


ABSURD = [
    ((1 << 40, 4, 1), {"float_val": [1]}),
    ((1 << 40, 1 << 40, 1), {}),
    ((0, 1 << 40, 1 << 40), {}),
    ((1 << 62, 0), {}),
    ((4, 4, 1), {"tensor_content": b"1234"}),
    ((4, 4, 1), {"float_val": [1] * 17}),
    ((-4, 4, 1), {"float_val": [1]}),
    ((-1, -1, 1), {"tensor_content": b"1234"}),
]


@pytest.mark.parametrize("name", [*OF_PROTOS, "GRPC_TF_TENSORS"])
@pytest.mark.parametrize(("shape", "fields"), ABSURD, ids=str)
def test_a_shape_that_lies_is_named_and_takes_no_memory(
    name: str, shape: tuple[int, ...], fields: dict[str, Any]
) -> None:
    lying = TensorProto(dtype="DT_FLOAT", **fields)
    for size in (*((1,) if name == "GRPC_TF_TENSORS" else ()), *shape):
        lying.tensor_shape.dim.add(size=size)
    if name == "GRPC_TF_TENSORS":
        request = PredictRequest()
        request.inputs["red"].CopyFrom(tensors.encode(zeros()[None, :, :, None]))
        request.inputs["green"].CopyFrom(lying)
        body = request.SerializeToString()
    else:
        body = body_of(name, [{"red": zeros(), "green": lying.SerializeToString()}])
    with little_memory():
        said = refused(name, body)
    assert said.startswith(("instance 0, band green", "band green"))


@GRPC
def test_a_batch_that_claims_more_than_it_holds_takes_no_memory(name: str) -> None:
    claim = TensorProto(dtype="DT_FLOAT" if name == "GRPC_TF_TENSORS" else "DT_STRING")
    for size in (1 << 22, 2, 2, 1) if name == "GRPC_TF_TENSORS" else (1 << 14,):
        claim.tensor_shape.dim.add(size=size)
    if name == "GRPC_TF_TENSORS":
        claim.float_val.append(1)
    elif name == "GRPC_TF_EXAMPLES":
        claim.string_val.append(example({"red": zeros(1, 1), "green": zeros(1, 1)}))
    else:
        claim.string_val.append(base64.urlsafe_b64encode(proto(zeros(1, 1))))
    request = PredictRequest()
    for band in ("input",) if name == "GRPC_TF_EXAMPLES" else ("red", "green"):
        request.inputs[band].CopyFrom(claim)
    with little_memory():
        refused(name, request.SerializeToString())


@pytest.mark.parametrize("name", [*OF_PROTOS, "GRPC_TF_TENSORS"])
@pytest.mark.parametrize("values", [[1], [1, 2]], ids=str)
def test_many_bands_that_claim_more_than_they_hold_take_the_memory_of_one(name: str, values: list[float]) -> None:
    bands = [f"b{n}" for n in range(60)]
    named = ", ".join(f"{{name: {band}}}" for band in bands)
    contract = ModelContract.parse(PLAIN.replace("{name: red}, {name: green}", named))
    claim = TensorProto(dtype="DT_FLOAT", float_val=values)
    for size in (*((1,) if name == "GRPC_TF_TENSORS" else ()), 600, 600, 1):
        claim.tensor_shape.dim.add(size=size)
    if name == "GRPC_TF_TENSORS":
        request = PredictRequest()
        for band in bands:
            request.inputs[band].CopyFrom(claim)
        body = request.SerializeToString()
    else:
        body = body_of(name, [dict.fromkeys(bands, claim.SerializeToString())])
    assert math.prod((60, 600, 600)) > tensors.MAX_VALUES
    with little_memory():
        assert "has more than" in refused(name, body, contract)


@EVERY
@given(data=st.data())
def test_whatever_a_request_holds_is_decoded_or_refused(name: PayloadFormat, data: st.DataObject) -> None:
    each: Codec = CODECS[name]
    values = st.sampled_from([zeros(), zeros(1, 1), zeros(4, 4), zeros() + np.nan, np.float32(0), zeros(0, 3)])
    if name in ("GRPC_TF_TENSORS", "GRPC_SERIALIZED_TF_TENSORS"):
        instance = {band: data.draw(values) for band in data.draw(st.sets(st.sampled_from(["red", "green", "blue"])))}
        instances = [instance] * data.draw(st.integers(1, 2))
    else:
        instances = data.draw(
            st.lists(
                st.dictionaries(st.sampled_from(["red", "green", "blue"]), values, max_size=3), min_size=1, max_size=3
            )
        )
    try:
        tiles = each.decode_request(CONTRACT, body_of(name, instances))
    except PayloadError:
        return
    assert tiles.shape[:2] == (len(instances), 2)
    assert np.isfinite(tiles).all()
