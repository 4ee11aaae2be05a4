"""What an event says: that an object was written, or that a job has succeeded."""

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

from .errors import MalformedError, SkippedError

FINALIZED = "google.cloud.storage.object.v1.finalized"
PUBLISHED = "google.cloud.pubsub.topic.v1.messagePublished"

# Cloud Logging's list of Google Cloud's logs names this log for the resource, and Vertex AI's page on metrics of
# pipelines the field and its values. A task's own entries are in another log of the same resource.
_PIPELINE_JOB = "aiplatform.googleapis.com/PipelineJob"
_PIPELINE_LOG = "aiplatform.googleapis.com/pipeline_job_events"
_PIPELINE_SUCCEEDED = "PIPELINE_STATE_SUCCEEDED"
# INFERRED: no page says how the end of a custom job is logged. Entries that people show have this resource, this text
# and this label. What a training program writes itself has the name of its replica as task, workerpool0-0.
_CUSTOM_JOB = "ml_job"
_REPLICA = "workerpool"
_JOB_SUCCEEDED = "Job completed successfully."
_STATE_LABEL = "ml.googleapis.com/job_state"

LOG_FILTER = f"""\
(resource.type="{_PIPELINE_JOB}" AND log_id("{_PIPELINE_LOG}")
 AND jsonPayload.state="{_PIPELINE_SUCCEEDED}")
OR
(resource.type="{_CUSTOM_JOB}" AND NOT resource.labels.task_name:"{_REPLICA}"
 AND (textPayload="{_JOB_SUCCEEDED}" OR jsonPayload.message="{_JOB_SUCCEEDED}"))
"""
"""The filter of the log sink whose messages the function is sent."""

_GENERATION = re.compile(r"[0-9]{1,19}")
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


@dataclass(frozen=True)
class Finalized:
    """An object was written."""

    bucket: str
    name: str
    generation: int


@dataclass(frozen=True)
class Succeeded:
    """A job has succeeded, as its log says.

    Attributes:
        collection: `pipelineJobs` or `customJobs`.
        job: its id.
        location: its region; empty where the log does not name it.
    """

    collection: str
    job: str
    location: str


def read(event_type: str, data: Any) -> Finalized | Succeeded:
    """What an event announces.

    Args:
        event_type: the CloudEvent's `type`.
        data: the CloudEvent's data, as JSON has it.

    Raises:
        SkippedError: nothing that a pipeline is started for.
        MalformedError: the data are not such as events of this type have.
    """
    if event_type == FINALIZED:
        return _finalized(data)
    if event_type == PUBLISHED:
        return _succeeded(_log_entry(data))
    raise SkippedError(f"events of type {event_type!r} start nothing; those of {FINALIZED} and {PUBLISHED} do")


def _finalized(data: Any) -> Finalized:
    bucket, name = _text(data, "bucket"), _text(data, "name")
    generation = data.get("generation") if isinstance(data, dict) else None
    if not bucket or not name or not _GENERATION.fullmatch(str(generation)):
        raise MalformedError(
            "the event's data are no object's metadata:"
            f" bucket {bucket!r:.250}, name {name!r:.1000}, generation {generation!r:.50}"
        )
    return Finalized(bucket, name, int(str(generation)))


def _log_entry(data: Any) -> Any:
    """The LogEntry in a Pub/Sub message, https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry."""
    try:
        entry = json.loads(base64.b64decode(_text(data, "message", "data"), validate=True))
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"the message's data are no JSON in base64: {error}") from error
    if not _text(entry, "resource", "type"):
        raise MalformedError("the message is no LogEntry: it has no resource.type")
    return entry


def _succeeded(entry: Any) -> Succeeded:
    resource = _text(entry, "resource", "type")
    if resource == _PIPELINE_JOB:
        return _pipeline_job(entry)
    if resource == _CUSTOM_JOB:
        return _custom_job(entry)
    raise SkippedError(f"the log entry is of {resource!r:.100}; {_PIPELINE_JOB} and {_CUSTOM_JOB} start something")


def _pipeline_job(entry: Any) -> Succeeded:
    # The id of a log is URL-encoded within its name.
    log = _text(entry, "logName").replace("%2F", "/")
    state = _text(entry, "jsonPayload", "state")
    if not log.endswith(f"/logs/{_PIPELINE_LOG}") or state != _PIPELINE_SUCCEEDED:
        raise SkippedError(f"the log entry does not say that a pipeline job succeeded: log {log!r}, state {state!r}")
    job = _job_id(entry, "pipeline_job_id")
    return Succeeded("pipelineJobs", job, _text(entry, "resource", "labels", "location"))


def _custom_job(entry: Any) -> Succeeded:
    task = _text(entry, "resource", "labels", "task_name")
    message = _text(entry, "textPayload") or _text(entry, "jsonPayload", "message")
    state = _text(entry, "labels", _STATE_LABEL)
    if task.startswith(_REPLICA) or state not in {"", "SUCCEEDED"} or not (state or message == _JOB_SUCCEEDED):
        raise SkippedError(
            f"the log entry does not say that a custom job succeeded: task {task!r}, state {state!r}, {message!r:.100}"
        )
    return Succeeded("customJobs", _job_id(entry, "job_id"), "")


def _job_id(entry: Any, label: str) -> str:
    job = _text(entry, "resource", "labels", label)
    if not _JOB_ID.fullmatch(job):
        raise MalformedError(f"the log entry names no job: resource.labels.{label} is {job!r:.150}")
    return job


def _text(data: Any, *path: str) -> str:
    """The text at a path of keys, empty where there is none."""
    for key in path:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, str) else ""
