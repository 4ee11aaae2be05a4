"""The function, started as its users start it, and events as the platform sends them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import requests
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent

from containers.ports import free_ports
from containers.trigger.events import FINALIZED, PUBLISHED

COMMAND = (sys.executable, "-m", "containers.trigger")
# Of events that are asked for once more, and of those that are given up.
SOON, LATE = timedelta(minutes=59), timedelta(minutes=61)
_START_SECONDS = 60


@dataclass(frozen=True)
class Function:
    """A running function."""

    port: int
    log: Path
    process: subprocess.Popen[bytes]

    def deliver(
        self,
        event_type: str,
        data: Any,
        *,
        mode: Literal["binary", "structured"] = "binary",
        age: timedelta = timedelta(0),
        event_id: str = "",
    ) -> tuple[int, dict[str, str]]:
        """Send an event; returns the HTTP status, and the one line in the log that tells of it."""
        event_id = event_id or uuid.uuid4().hex
        attributes = {
            "id": event_id,
            "type": event_type,
            "source": "//storage.googleapis.com/projects/_/buckets/models",
            "time": (datetime.now(UTC) - age).isoformat(),
            "datacontenttype": "application/json",
        }
        headers, body = {"binary": to_binary, "structured": to_structured}[mode](CloudEvent(attributes, data))
        before = len(self.lines(event_id))
        status = self.post(headers, body)
        [line] = self.lines(event_id)[before:]
        return status, line

    def post(self, headers: Mapping[str, str], body: bytes | str) -> int:
        """Send a request as it is; returns the HTTP status."""
        return requests.post(f"http://127.0.0.1:{self.port}/", body, headers=headers, timeout=60).status_code

    def lines(self, event_id: str = "") -> list[dict[str, str]]:
        """The lines of the log, of one event or of all."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if not event_id or line.get("event") == event_id]

    def finalize(self, bucket: str, name: str, generation: int, **options: Any) -> tuple[int, dict[str, str]]:
        """Tell the function that an object was written."""
        return self.deliver(FINALIZED, finalized(bucket, name, generation), **options)

    def publish(self, entry: Any, **options: Any) -> tuple[int, dict[str, str]]:
        """Tell the function of a log entry."""
        return self.deliver(PUBLISHED, published(json.dumps(entry).encode()), **options)


def finalized(bucket: str, name: str, generation: int) -> dict[str, Any]:
    """The data of an event of Cloud Storage: an object's metadata, its 64-bit integers as texts."""
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{generation}",
        "name": name,
        "bucket": bucket,
        "generation": str(generation),
        "metageneration": "1",
        "contentType": "application/yaml",
        "size": "352",
    }


def published(data: bytes) -> dict[str, Any]:
    """The data of an event of Pub/Sub."""
    message = {"data": base64.b64encode(data).decode(), "messageId": "1", "publishTime": "2026-01-31T12:00:00Z"}
    return {"message": message, "subscription": "projects/local/subscriptions/trained"}


def pipeline_entry(job: str, state: str = "PIPELINE_STATE_SUCCEEDED", location: str = "us-central1") -> dict[str, Any]:
    """What Vertex AI logs of a pipeline job."""
    return {
        "logName": "projects/local/logs/aiplatform.googleapis.com%2Fpipeline_job_events",
        "resource": {
            "type": "aiplatform.googleapis.com/PipelineJob",
            "labels": {"pipeline_job_id": job, "location": location, "resource_container": "projects/1"},
        },
        "jsonPayload": {
            "@type": "type.googleapis.com/google.cloud.aiplatform.logging.PipelineJobLogEntry",
            "state": state,
        },
        "severity": "INFO",
        "timestamp": "2026-01-31T12:00:00Z",
    }


def custom_entry(job: str, **changes: Any) -> dict[str, Any]:
    """What Vertex AI logs of a custom job."""
    return {
        "logName": f"projects/local/logs/ml.googleapis.com%2F{job}",
        "resource": {"type": "ml_job", "labels": {"job_id": job, "project_id": "local", "task_name": "service"}},
        "labels": {"ml.googleapis.com/endpoint": "", "ml.googleapis.com/job_state": "SUCCEEDED"},
        "textPayload": "Job completed successfully.",
        "severity": "INFO",
        "timestamp": "2026-01-31T12:00:00Z",
        **changes,
    }


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without emulators, with the function's settings and what is given."""
    outside = {name: value for name, value in os.environ.items() if not name.endswith("_EMULATOR_HOST")}
    settings = {
        "GOOGLE_CLOUD_PROJECT": "local",
        "GOOGLE_CLOUD_LOCATION": "us-central1",
        "MODEL_BUCKET": "models",
        "MODEL_PREFIX": "trained/",
        "TEMPLATES": "gs://templates/deploy",
        # Those that tell who calls are for test_callers.py.
        "CALLERS": "public",
    }
    return outside | settings | variables


@contextlib.contextmanager
def running(
    log: Path, variables: Mapping[str, str], command: Sequence[str] = COMMAND, folder: Path | None = None
) -> Iterator[Function]:
    """The function for the block, with these variables as its environment."""
    [port] = free_ports(1)
    errors = log.with_suffix(".stderr")
    with log.open("w") as out, errors.open("w") as err:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=out, stderr=err, env=variables, cwd=folder)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(port):
            assert process.poll() is None, f"the function did not start: {errors.read_text()}"
            assert time.monotonic() < deadline, f"the function does not answer: {errors.read_text()}"
            time.sleep(0.05)
        yield Function(port, log, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
