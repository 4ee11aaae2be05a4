"""Protobuf messages of aiplatform_v1, to and from the service's JSON."""

import json
import re
import secrets
from collections.abc import Sequence
from typing import Any

from google.cloud import aiplatform_v1
from google.protobuf import json_format, timestamp_pb2
from google.protobuf.message import Message

from .errors import InvalidArgumentError

_UNKNOWN_FIELD = re.compile(r'has no field named "(?P<field>[^"]*)" at "(?P<place>[^"]*)"')


def parse(message_class: Any, body: bytes) -> Any:
    """The message that the JSON ``body`` describes.

    Raises:
        InvalidArgumentError: not JSON, an unknown field, or a value of the wrong type.
    """
    try:
        fields = json.loads(body)
    except ValueError as fault:
        raise InvalidArgumentError(f"Invalid JSON payload received. {fault}") from fault
    return from_fields(message_class, fields)


def from_fields(message_class: Any, fields: Any) -> Any:
    """The message of these fields, as JSON has them.

    Raises:
        InvalidArgumentError: an unknown field, or a value of the wrong type.
    """
    message = message_class()
    try:
        json_format.ParseDict(fields, message)
    except (json_format.ParseError, OverflowError) as fault:  # the latter of integers greater than any double
        raise InvalidArgumentError(f"Invalid JSON payload received. {_in_words_of_the_service(str(fault))}") from fault
    return message


def _in_words_of_the_service(fault: str) -> str:
    unknown = _UNKNOWN_FIELD.search(fault)
    if not unknown:
        return fault
    place = f" at '{unknown['place'].partition('.')[2]}'" if "." in unknown["place"] else ""
    return f'Unknown name "{unknown["field"]}"{place}: Cannot find field.'


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


def last_segment(name: str) -> str:
    """The id at the end of a resource name."""
    return name.rpartition("/")[2]


def snake_case(name: str) -> str:
    """``create_time`` for ``createTime``, and for itself."""
    return re.sub(r"(?<!^)[A-Z]", lambda letter: "_" + letter[0].lower(), name)


def update(resource: Any, wanted: Any, mask: Any, changeable: Sequence[str]) -> None:
    """Gives ``resource`` the fields of ``wanted`` that an update mask names.

    Raises:
        InvalidArgumentError: the mask names no field, or one that cannot be changed.
    """
    if not mask.paths:
        raise InvalidArgumentError("updateMask is required: it names the fields to change")
    for path in mask.paths:
        if path not in changeable:
            raise InvalidArgumentError(f"updateMask {path!r}: only {', '.join(changeable)} can be updated")
    mask.MergeMessage(wanted, resource, True, True)


def __getattr__(name: str) -> Any:
    """The class of a message of aiplatform_v1; proto-plus puts a second object over each, which is left out here."""
    message = getattr(aiplatform_v1, name)
    return message.pb()


JobState = aiplatform_v1.JobState
PipelineState = aiplatform_v1.PipelineState
TaskState = aiplatform_v1.PipelineTaskDetail.State
ScheduleState = aiplatform_v1.Schedule.State
