"""GetModelMetadata: the signature that TensorFlow Serving would tell of an exported model, from its contract.

It is the one of GRPC_TF_TENSORS, the only format whose tensors are the model's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import batches, tensors
from components.earthengine.payloads.messages_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    ModelSpec,
    SignatureDef,
    SignatureDefMap,
    TensorInfo,
)

_FIELD = "signature_def"
_SIGNATURE = "serving_default"
_METHOD = "tensorflow/serving/predict"
# Of a dimension that each request chooses.
_ANY = -1


def answer(contract: ModelContract, body: bytes, deployed_model: str) -> bytes:
    """The serialized GetModelMetadataResponse to a request.

    Raises:
        PayloadError: the body is no GetModelMetadataRequest, or asks for other than `signature_def`.
    """
    try:
        asked = list(GetModelMetadataRequest.FromString(body).metadata_field)
    except DecodeError:
        raise PayloadError(f"the message is no GetModelMetadataRequest ({len(body)} bytes)") from None
    if not asked or set(asked) != {_FIELD}:
        said = ", ".join(repr(name[:100]) for name in asked[:3]) or "nothing"
        raise PayloadError(f"metadata_field names {said}; allowed: {_FIELD}")
    signatures = SignatureDefMap(signature_def={_SIGNATURE: signature(contract)})
    response = GetModelMetadataResponse(model_spec=ModelSpec(name=contract.name, version_label=deployed_model or None))
    response.metadata[_FIELD].type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    response.metadata[_FIELD].value = signatures.SerializeToString()
    serialized: bytes = response.SerializeToString()
    return serialized


def signature(contract: ModelContract) -> SignatureDef:
    """The signature of a contract's model: a tensor a band or property, a tensor an output."""
    found = SignatureDef(method_name=_METHOD)
    for part in batches.parts(contract):
        found.inputs[part.name].CopyFrom(_info(part.name, part.dtype, part.wire_shape(_ANY, _ANY)))
    for output in contract.outputs:
        value = (_ANY,) * output.dimensions
        # Over an image, a number is sent with a last dimension of 1.
        shape = value if contract.table else (_ANY, _ANY, *(value or (1,)))
        found.outputs[output.name].CopyFrom(_info(output.name, np.dtype(output.number), shape))
    return found


def _info(name: str, dtype: np.dtype[Any], shape: Iterable[int]) -> TensorInfo:
    """The description of a tensor with one entry of this shape for each instance."""
    info = TensorInfo(name=name, dtype=tensors.encode(np.empty(0, dtype)).dtype)
    for size in (_ANY, *shape):
        info.tensor_shape.dim.add(size=size)
    return info
