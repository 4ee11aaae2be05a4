"""Protobuf messages of aiplatform_v1, to and from the service's JSON."""

import re
import secrets
from typing import Any

from google.cloud import aiplatform_v1
from google.protobuf import json_format, timestamp_pb2
from google.protobuf.message import Message

from .errors import InvalidArgumentError


def parse(message_class: Any, body: bytes) -> Any:
    """The message that the JSON ``body`` describes.

    Raises:
        InvalidArgumentError: not JSON, an unknown field, or a value of the wrong type.
    """
    message = message_class()
    try:
        json_format.Parse(body or b"{}", message)
    except (json_format.ParseError, UnicodeDecodeError) as fault:
        raise InvalidArgumentError(f"Invalid JSON payload for {message.DESCRIPTOR.name}: {fault}") from fault
    return message


def render(message: Message, *, enums_as_integers: bool = False) -> str:
    """JSON as the service writes it: camelCase, default values left out."""
    text: str = json_format.MessageToJson(message, use_integers_for_enums=enums_as_integers, indent=None)
    return text


def copy_of(message: Any) -> Any:
    """A message of its own with the same content."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def now() -> timestamp_pb2.Timestamp:
    """This moment, UTC."""
    stamp = timestamp_pb2.Timestamp()
    stamp.GetCurrentTime()
    return stamp


def new_etag() -> str:
    """A tag that no earlier state of any resource had."""
    return f'"{secrets.token_hex(8)}"'


def new_id() -> str:
    """A resource id such as the service gives: 19 digits, the first of them not 0."""
    return str(10**18 + secrets.randbelow(9 * 10**18))


def mask_fields(mask: str) -> list[str]:
    """Field names of an update mask, in proto spelling, from either spelling.

    Raises:
        InvalidArgumentError: no field is named.
    """
    fields = [
        re.sub(r"[A-Z]", lambda letter: "_" + letter[0].lower(), name.strip())
        for name in mask.split(",")
        if name.strip()
    ]
    if not fields:
        raise InvalidArgumentError("`updateMask` must name at least one field")
    return fields


def _message(name: str) -> Any:
    return getattr(aiplatform_v1, name).pb()


# proto-plus puts a second object over each message; the service works on the messages themselves.
Artifact = _message("Artifact")
CreateEndpointOperationMetadata = _message("CreateEndpointOperationMetadata")
DeleteOperationMetadata = _message("DeleteOperationMetadata")
DeployModelOperationMetadata = _message("DeployModelOperationMetadata")
DeployModelRequest = _message("DeployModelRequest")
DeployModelResponse = _message("DeployModelResponse")
DeployedModel = _message("DeployedModel")
DirectRawPredictRequest = _message("DirectRawPredictRequest")
DirectRawPredictResponse = _message("DirectRawPredictResponse")
Endpoint = _message("Endpoint")
ListEndpointsResponse = _message("ListEndpointsResponse")
ListModelVersionsResponse = _message("ListModelVersionsResponse")
ListModelsResponse = _message("ListModelsResponse")
ListPipelineJobsResponse = _message("ListPipelineJobsResponse")
Model = _message("Model")
PipelineJob = _message("PipelineJob")
PipelineTaskDetail = _message("PipelineTaskDetail")
UndeployModelOperationMetadata = _message("UndeployModelOperationMetadata")
UndeployModelRequest = _message("UndeployModelRequest")
UndeployModelResponse = _message("UndeployModelResponse")
UploadModelOperationMetadata = _message("UploadModelOperationMetadata")
UploadModelRequest = _message("UploadModelRequest")
UploadModelResponse = _message("UploadModelResponse")

PipelineState = aiplatform_v1.PipelineState
TaskState = aiplatform_v1.PipelineTaskDetail.State
