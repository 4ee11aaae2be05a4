import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.trigger.errors import MalformedError, SkippedError
from containers.trigger.events import FINALIZED, PUBLISHED, Finalized, Succeeded, read

from .function import custom_entry, finalized, pipeline_entry, published

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def announced(entry: Any) -> Finalized | Succeeded:
    return read(PUBLISHED, published(json.dumps(entry).encode()))


@given(
    bucket=st.text(min_size=1),
    name=st.text(min_size=1),
    generation=st.integers(min_value=0, max_value=2**63 - 1),
    as_text=st.booleans(),
)
def test_an_object_is_read_as_it_was_announced(bucket: str, name: str, generation: int, as_text: bool) -> None:
    data = finalized(bucket, name, generation)
    if not as_text:
        data["generation"] = generation
    assert read(FINALIZED, data) == Finalized(bucket, name, generation)


@pytest.mark.parametrize(
    "changes",
    [
        {"bucket": None},
        {"bucket": 3},
        {"name": ""},
        {"generation": None},
        {"generation": "-1"},
        {"generation": "1.0"},
        {"generation": 1.0},
        {"generation": True},
        {"generation": "٣"},
        {"generation": "9" * 5000},
    ],
)
def test_what_is_no_object_is_malformed(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError, match="no object's metadata"):
        read(FINALIZED, finalized("models", "a/model.yaml", 1) | changes)


@pytest.mark.parametrize("data", [None, b"{", "text", [], 3])
@pytest.mark.parametrize("event_type", [FINALIZED, PUBLISHED])
def test_data_that_are_no_object_are_malformed(event_type: str, data: Any) -> None:
    with pytest.raises(MalformedError):
        read(event_type, data)


def test_events_of_another_type_are_skipped() -> None:
    with pytest.raises(SkippedError, match=r"'google\.cloud\.storage\.object\.v1\.deleted' start nothing"):
        read("google.cloud.storage.object.v1.deleted", finalized("models", "a/model.yaml", 1))


@given(job=st.from_regex(r"[a-z][-a-z0-9]{0,127}", fullmatch=True))
def test_a_pipeline_job_that_succeeded_is_read(job: str) -> None:
    assert announced(pipeline_entry(job)) == Succeeded("pipelineJobs", job, "us-central1")


def test_a_log_name_may_be_written_with_a_slash() -> None:
    entry = pipeline_entry("job")
    entry["logName"] = entry["logName"].replace("%2F", "/")
    assert announced(entry) == Succeeded("pipelineJobs", "job", "us-central1")


@pytest.mark.parametrize("state", ["PIPELINE_STATE_FAILED", "PIPELINE_STATE_CANCELLED", "PIPELINE_STATE_RUNNING", ""])
def test_a_pipeline_job_in_another_state_is_skipped(state: str) -> None:
    with pytest.raises(SkippedError, match=f"state '{state}'"):
        announced(pipeline_entry("job", state))


def test_a_task_of_a_pipeline_is_skipped() -> None:
    entry = pipeline_entry("job")
    entry["logName"] = entry["logName"].replace("pipeline_job_events", "pipeline_job_task_events")
    with pytest.raises(SkippedError, match="pipeline_job_task_events"):
        announced(entry)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"labels": {}},
        {"labels": {}, "textPayload": "", "jsonPayload": {"message": "Job completed successfully."}},
        {"textPayload": "The job is over."},
    ],
)
def test_a_custom_job_that_succeeded_is_read_in_each_shape(changes: dict[str, Any]) -> None:
    assert announced(custom_entry("4567", **changes)) == Succeeded("customJobs", "4567", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {"ml.googleapis.com/job_state": "FAILED"}},
        {"labels": {}, "textPayload": "Job failed."},
        {"labels": {}, "textPayload": "Job completed successfully. Or not."},
        # A training program's own output is no word of the service's.
        {"resource": {"type": "ml_job", "labels": {"job_id": "4567", "task_name": "workerpool0-0"}}, "labels": {}},
    ],
)
def test_a_custom_job_that_is_not_said_to_have_succeeded_is_skipped(changes: dict[str, Any]) -> None:
    with pytest.raises(SkippedError, match="does not say that a custom job succeeded"):
        announced(custom_entry("4567", **changes))


def test_entries_of_other_resources_are_skipped() -> None:
    with pytest.raises(SkippedError, match="'gce_instance'"):
        announced({"resource": {"type": "gce_instance", "labels": {}}, "textPayload": "Job completed successfully."})


@pytest.mark.parametrize("job", ["", "../models/1", "a/b", "-a", "a" * 129, 7, None])
@pytest.mark.parametrize("label", ["pipeline_job_id", "job_id"])
def test_an_entry_that_names_no_job_is_malformed(label: str, job: Any) -> None:
    entry = pipeline_entry("job") if label == "pipeline_job_id" else custom_entry("1")
    entry["resource"]["labels"][label] = job
    with pytest.raises(MalformedError, match=f"names no job: resource.labels.{label}"):
        announced(entry)


@pytest.mark.parametrize("entry", [{}, {"resource": {}}, {"resource": "ml_job"}, [], None, 7])
def test_what_is_no_log_entry_is_malformed(entry: Any) -> None:
    with pytest.raises(MalformedError, match=r"no LogEntry: it has no resource\.type"):
        announced(entry)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_message_that_is_no_json_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError, match="no JSON in base64"):
        read(PUBLISHED, published(data))


def test_a_message_with_something_between_its_base64_is_malformed() -> None:
    data = published(json.dumps(custom_entry("4567")).encode())
    data["message"]["data"] = "%" + data["message"]["data"]
    with pytest.raises(MalformedError, match="no JSON in base64"):
        read(PUBLISHED, data)


@given(text=st.text())
def test_any_text_that_is_no_log_entry_in_base64_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        read(PUBLISHED, {"message": {"data": text}})


@given(data=JSON, event_type=st.sampled_from([FINALIZED, PUBLISHED, "other"]))
def test_any_data_are_read_skipped_or_malformed(data: Any, event_type: str) -> None:
    with pytest.raises((SkippedError, MalformedError)):
        read(event_type, data)


@given(entry=JSON, resource=st.sampled_from(["ml_job", "aiplatform.googleapis.com/PipelineJob"]), rest=JSON)
def test_any_entry_is_read_skipped_or_malformed(entry: Any, resource: str, rest: Any) -> None:
    data = base64.b64encode(
        json.dumps(
            {"resource": {"type": resource, "labels": entry}, "jsonPayload": rest, "labels": rest, "logName": entry}
        ).encode()
    ).decode()
    with pytest.raises((SkippedError, MalformedError)):
        read(PUBLISHED, {"message": {"data": data}})
