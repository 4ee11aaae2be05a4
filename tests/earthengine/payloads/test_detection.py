from __future__ import annotations

import base64
import contextlib
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import CODECS, Codec, grpc_codec, http_codec, predict_messages, tensors
from components.earthengine.payloads.grpc_serialized_tf_tensors import GrpcSerializedTfTensors
from components.earthengine.payloads.messages_pb2 import PredictRequest
from tests.earthengine.payloads.conftest import PLAIN, RICH, TABLE, tiles_of

CONTRACTS = [ModelContract.parse(each) for each in (PLAIN, RICH, TABLE)]
# Each format in each contract that can carry it; what the contract itself declares is another.
CASES = [
    pytest.param(each, contract, id=f"{each.format}-{contract.name}")
    for each in CODECS.values()
    for contract in CONTRACTS
    if contract.name == "plain" or each.format != "ND_ARRAYS"
]
FEATURE: dict[str, Any] = {"area": "1.5", "monthly": ["1", "2", "3"], "irrigated": True, "soil": "loam"}


def of(contract: str, payload_format: str) -> ModelContract:
    return ModelContract.parse(re.sub("payload_format: .*", f"payload_format: {payload_format}", contract))


def told(contract: ModelContract, body: bytes) -> str:
    codec = http_codec(contract, body) if body.lstrip()[:1] == b"{" else grpc_codec(contract, body)
    return codec.format


def proto(value: Any = 0.0) -> str:
    data = tensors.encode(np.full((1, 1, 1), value, np.float32)).SerializeToString()
    return base64.urlsafe_b64encode(data).decode()


def feature(**first: Any) -> dict[str, Any]:
    """A feature whose first properties are these."""
    return first | {name: value for name, value in FEATURE.items() if name not in first}


@pytest.mark.parametrize(("each", "contract"), CASES)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 3)])
def test_what_a_codec_encodes_is_told_to_be_its(each: Codec, contract: ModelContract, height: int, width: int) -> None:
    tiles = tiles_of(contract, 2, height, width)
    body = each.encode_request(contract, tiles)
    found = http_codec(contract, body) if each.transport == "http" else grpc_codec(contract, body)
    assert found.format == each.format
    np.testing.assert_array_equal(found.decode_request(contract, body), tiles)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda each: each.name)
def test_bare_tensors_are_answered_bare(contract: ModelContract) -> None:
    for bare in (True, False):
        body = GrpcSerializedTfTensors(bare=bare).encode_request(contract, tiles_of(contract, 2, 2, 2))
        found = grpc_codec(contract, body)
        assert isinstance(found, GrpcSerializedTfTensors)
        assert found.bare is bare


@pytest.mark.parametrize(
    "dump", [{}, {"indent": 2}, {"separators": (",", ":")}, {"separators": (" ,\r\n", "\t: ")}], ids=str
)
@pytest.mark.parametrize(
    ("contract", "instance", "expected"),
    [
        (PLAIN, {"red": proto(), "green": proto()}, "SERIALIZED_TF_TENSORS"),
        (PLAIN, {"red": {"b64": proto()}, "green": proto()}, "SERIALIZED_TF_TENSORS"),
        (PLAIN, {"red": [[1]], "green": [[1]]}, "RAW_JSON"),
        (PLAIN, {"red": [["1"]], "green": [["1"]]}, "RAW_JSON"),
        (PLAIN, {"red": "1", "green": "1"}, "RAW_JSON"),
        (PLAIN, {"red": " -1.5E+7 ", "green": "1"}, "RAW_JSON"),
        (PLAIN, {"red": 0, "green": 0}, "RAW_JSON"),
        (PLAIN, [[[1]], [[1]]], "ND_ARRAYS"),
        (TABLE, FEATURE, "RAW_JSON"),
        (TABLE, dict(reversed(FEATURE.items())), "RAW_JSON"),
        (TABLE, feature(irrigated="false"), "RAW_JSON"),
        (TABLE, feature(irrigated=False), "RAW_JSON"),
        (TABLE, feature(monthly=[1, 2, 3]), "RAW_JSON"),
        (TABLE, feature(soil="sand, gravel"), "RAW_JSON"),
        (TABLE, feature(area=proto()), "SERIALIZED_TF_TENSORS"),
    ],
    ids=range(15),
)
@pytest.mark.parametrize("parameters", [None, {"parameters": {"instance": [["1"]]}}], ids=["alone", "after parameters"])
def test_the_first_instance_tells(
    contract: str, instance: Any, expected: str, dump: dict[str, Any], parameters: dict[str, Any] | None
) -> None:
    body = json.dumps({**(parameters or {}), "instances": [instance, instance]}, **dump).encode()
    for declared in ("RAW_JSON", "SERIALIZED_TF_TENSORS"):
        assert told(of(contract, declared), body) == expected


@pytest.mark.parametrize("word", ["öst", 'a "quoted" one', "CAESsand", "Eg", "long " * 20, "CABERNET " * 6, "x"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_string_of_the_contract_is_raw_json(word: str, ascii_only: bool) -> None:
    contract = ModelContract.parse(TABLE.replace("clay", json.dumps(word, ensure_ascii=False)))
    body = json.dumps({"instances": [feature(soil=word)]}, ensure_ascii=ascii_only).encode()
    assert told(contract, body) == "RAW_JSON"


@pytest.mark.parametrize("declared", ["RAW_JSON", "SERIALIZED_TF_TENSORS"])
@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": []}',
        b'{"instances": [7]}',
        b"{}",
        b"{",
        b'{"instances": [{}]}',
        b'{"instances": [{"red": "what?"}]}',
    ],
)
def test_what_tells_nothing_is_left_to_the_contract(declared: str, body: bytes) -> None:
    assert told(of(PLAIN, declared), body) == declared


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("GRPC_TF_EXAMPLES", "GRPC_TF_EXAMPLES"),
        ("GRPC_SERIALIZED_TF_TENSORS", "GRPC_SERIALIZED_TF_TENSORS"),
        ("GRPC_TF_TENSORS", "GRPC_SERIALIZED_TF_TENSORS"),
    ],
)
def test_a_band_named_input_could_be_either_so_the_contract_decides(declared: str, expected: str) -> None:
    contract = of(PLAIN.replace("{name: red}, {name: green}", "{name: input}"), declared)
    tiles = tiles_of(contract, 2, 3, 3)
    body = CODECS[contract.payload_format].encode_request(contract, tiles)
    if declared == "GRPC_TF_TENSORS":
        assert told(contract, body) == "GRPC_TF_TENSORS"
        body = CODECS["GRPC_SERIALIZED_TF_TENSORS"].encode_request(contract, tiles)
    assert told(contract, body) == expected
    np.testing.assert_array_equal(grpc_codec(contract, body).decode_request(contract, body), tiles)


def test_numbers_for_the_only_band_are_no_examples() -> None:
    contract = of(PLAIN.replace("{name: red}, {name: green}", "{name: input}"), "GRPC_TF_EXAMPLES")
    body = CODECS["GRPC_TF_TENSORS"].encode_request(contract, tiles_of(contract, 2, 3, 3))
    assert told(contract, body) == "GRPC_TF_TENSORS"


@pytest.mark.parametrize("name", ["input", "inputs", "examples"])
def test_one_tensor_of_strings_under_another_name_is_of_examples(plain: ModelContract, name: str) -> None:
    sent = PredictRequest.FromString(CODECS["GRPC_TF_EXAMPLES"].encode_request(plain, tiles_of(plain, 2, 3, 3)))
    renamed = PredictRequest()
    renamed.inputs[name].CopyFrom(sent.inputs["input"])
    assert told(plain, renamed.SerializeToString()) == "GRPC_TF_EXAMPLES"


@pytest.mark.parametrize("bare", [True, False])
def test_strings_alone_are_told_by_the_contract(bare: bool) -> None:
    words = TABLE.replace("- {name: area}\n- {name: monthly, shape: [3]}\n- {name: irrigated, type: boolean}\n", "")
    plain, serialized = of(words, "GRPC_TF_TENSORS"), of(words, "GRPC_SERIALIZED_TF_TENSORS")
    tiles = tiles_of(serialized, 2, 1, 1)
    assert told(plain, CODECS["GRPC_TF_TENSORS"].encode_request(plain, tiles)) == "GRPC_TF_TENSORS"
    found = grpc_codec(serialized, GrpcSerializedTfTensors(bare=bare).encode_request(serialized, tiles))
    assert isinstance(found, GrpcSerializedTfTensors)
    assert found.bare is bare


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda each: each.name)
@given(body=st.binary(max_size=200) | st.from_regex(rb'\{"instances" ?: ?\[[\[{"\\a-z:0-9,. ]{0,30}'))
def test_any_bytes_are_told_or_refused(contract: ModelContract, body: bytes) -> None:
    assert http_codec(contract, body).transport == "http"
    with contextlib.suppress(PayloadError):
        assert grpc_codec(contract, body).transport == "grpc"


@pytest.mark.parametrize(("each", "contract"), CASES)
@given(data=st.data())
def test_a_damaged_body_is_told_or_refused(each: Codec, contract: ModelContract, data: st.DataObject) -> None:
    body = each.encode_request(contract, tiles_of(contract, 1, 2, 2))
    at = data.draw(st.integers(0, len(body) - 1))
    damaged = body[:at] + data.draw(st.binary(max_size=3)) + body[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(PayloadError):
        found = http_codec(contract, damaged) if each.transport == "http" else grpc_codec(contract, damaged)
        found.decode_request(contract, damaged)


def test_no_predict_request_is_refused(plain: ModelContract) -> None:
    with pytest.raises(PayloadError, match="no PredictRequest"):
        grpc_codec(plain, b"\xff")
    assert grpc_codec(plain, b"").format == "GRPC_TF_TENSORS"
    assert grpc_codec(plain, predict_messages.request({})).format == "GRPC_TF_TENSORS"
