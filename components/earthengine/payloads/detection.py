"""Tells the payload format of a request from the request itself.

The contract names a format too, but a rehearsal may send others, and the answer is in the style of the request.
"""

from __future__ import annotations

import re

from components.earthengine.contract import ModelContract
from components.earthengine.payloads import predict_messages
from components.earthengine.payloads.codec import Codec
from components.earthengine.payloads.grpc_serialized_tf_tensors import GrpcSerializedTfTensors, is_bare
from components.earthengine.payloads.grpc_tf_examples import GrpcTfExamples
from components.earthengine.payloads.grpc_tf_tensors import GrpcTfTensors
from components.earthengine.payloads.messages_pb2 import DataType, PredictRequest
from components.earthengine.payloads.nd_arrays import NdArrays
from components.earthengine.payloads.raw_json import RawJson
from components.earthengine.payloads.serialized_tf_tensors import SerializedTfTensors

# The beginning of the first instance: a list; or of an object the first name and its value, a string or another.
_FIRST = re.compile(rb'"instances"\s*:\s*\[\s*(?:(?P<list>\[)|\{\s*"[^"]*"\s*:\s*(?:"(?P<text>[^"]{0,1000})|\S))')
_NUMBER = re.compile(rb"\s*[-+]?[0-9.]+([eE][-+]?[0-9]+)?\s*|true|false")
# A TensorProto begins with the tag of its type (0x08) or of its shape (0x12), in base64:
_PROTO = re.compile(rb"C[AB]|E[g-n]")


def http_codec(contract: ModelContract, body: bytes) -> Codec:
    """The codec of a request over HTTP, told from its first instance.

    A list has no names; an object holds strings where it is of TensorProtos (or `{"b64": ...}`). A string may also be
    RAW_JSON's number or word, as in a table; where it could be either the contract's own format decides.
    """
    found = _FIRST.search(body)
    if found is None:
        return RawJson() if contract.payload_format == "RAW_JSON" else SerializedTfTensors()
    if found["list"]:
        return NdArrays()
    text = found["text"]
    if text is None:
        wrapped = re.match(rb'\{\s*"b64"', body[found.end() - 1 : found.end() + 20])
        return SerializedTfTensors() if wrapped else RawJson()
    words = {value.encode() for prop in contract.properties for value in prop.values}
    plain = _NUMBER.fullmatch(text) or text in words
    if not plain and not _PROTO.match(text):
        plain = contract.payload_format == "RAW_JSON"
    return RawJson() if plain else SerializedTfTensors()


def grpc_codec(contract: ModelContract, body: bytes) -> Codec:
    """The codec of a request over gRPC, told from the names and types of its inputs.

    Raises:
        PayloadError: the body is no PredictRequest.
    """
    request = predict_messages.parse(body)
    if _is_of_examples(contract, request):
        return GrpcTfExamples()
    words = {prop.name for prop in contract.properties if prop.values}
    of_numbers = [part.name for part in contract.sent if part.name not in words and part.name in request.inputs]
    strings = [name for name in of_numbers if request.inputs[name].dtype == DataType.DT_STRING]
    if strings or (not of_numbers and contract.payload_format == "GRPC_SERIALIZED_TF_TENSORS"):
        texts = [text for name in strings or request.inputs for text in request.inputs[name].string_val[:1]]
        return GrpcSerializedTfTensors(bare=any(map(is_bare, texts)))
    return GrpcTfTensors()


def _is_of_examples(contract: ModelContract, request: PredictRequest) -> bool:
    """Whether there is one tensor of strings, under a name that is no part's or in a contract of this format."""
    if len(request.inputs) != 1:
        return False
    ((name, proto),) = request.inputs.items()
    named = any(part.name == name for part in contract.sent)
    return proto.dtype == DataType.DT_STRING and (not named or contract.payload_format == "GRPC_TF_EXAMPLES")
