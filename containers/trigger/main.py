"""The function: for each event a pipeline job or none, and one line of JSON in the log.

functions-framework loads this file as a package of its own, in which the files beside it are found, wherever they lie.
"""

import json
import os
import sys
from datetime import UTC, datetime, timedelta

import functions_framework
from cloudevents.exceptions import DataUnmarshallerError
from cloudevents.http import CloudEvent
from cloudevents.sdk.converters import is_binary
from flask import request
from werkzeug.exceptions import ServiceUnavailable

from .cloud import Cloud
from .deployment import job_id, start
from .errors import MalformedError, SettingsError, TriggerError
from .events import Finalized, Succeeded, read
from .model import Model, announced_folder, read_model
from .settings import Settings
from .training import output_folder

try:
    _SETTINGS = Settings.read(os.environ)
except SettingsError as error:
    sys.exit(f"trigger: {error}")
_CLOUD = Cloud(_SETTINGS.project, _SETTINGS.location)


@functions_framework.cloud_event
def deploy(event: CloudEvent) -> None:
    """Start the deploy pipeline for the model that an event announces.

    Raises:
        ServiceUnavailable: answered with 503, so that the event is delivered again.
    """
    fields = {"event": str(event["id"])}
    age = timedelta(0)
    try:
        age = _age()
        announced = read(str(event["type"]), event.data)
        model = _model(announced)
        fields |= {"model": model.folder.uri, "job": job_id(model)}
        started = start(_CLOUD, _SETTINGS, model)
    except TriggerError as error:
        if age < error.patience:
            _log("WARNING", f"{error} (to be tried again)", fields)
            raise ServiceUnavailable(str(error)) from error
        _log(error.severity, str(error), fields)
    else:
        _log("INFO", f"{'started' if started else 'already started'} {job_id(model)} for {model.folder.uri}", fields)


@functions_framework.errorhandler(DataUnmarshallerError)  # type: ignore[untyped-decorator]  # it has no types
def unreadable(error: Exception) -> str:
    """Acknowledge an event whose data cannot even be decoded."""
    _log("ERROR", f"the event's data cannot be read: {error}", {})
    return "OK"


def _model(announced: Finalized | Succeeded) -> Model:
    if isinstance(announced, Finalized):
        return read_model(_CLOUD, _SETTINGS, announced_folder(_SETTINGS, announced), announced.generation)
    return read_model(_CLOUD, _SETTINGS, output_folder(_CLOUD, announced))


def _age() -> timedelta:
    """How old the event is, by its request: the library gives one without a time the present, at each delivery anew."""
    binary = is_binary(dict(request.headers))
    moment = request.headers.get("ce-time") if binary else request.get_json(force=True).get("time")
    try:
        return datetime.now(UTC) - datetime.fromisoformat(str(moment))
    except (ValueError, TypeError) as error:
        raise MalformedError(
            f"the event's time is {moment!r:.50}; RFC 3339 is allowed, 2026-01-31T12:00:00Z"
        ) from error


def _log(severity: str, message: str, fields: dict[str, str]) -> None:
    """One line as Cloud Logging's "Structured logging" has it, written at once: events are handled side by side."""
    sys.stdout.write(json.dumps({"severity": severity, "message": message[:4000], **fields}) + "\n")
    sys.stdout.flush()
