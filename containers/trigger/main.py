"""The function: for each event a pipeline job or none, and one line of JSON in the log.

functions-framework loads this file as a package of its own, in which the files beside it are found, wherever they lie.
"""

import json
import os
import sys
from datetime import UTC, datetime, timedelta

import functions_framework
from cloudevents.exceptions import DataUnmarshallerError, GenericException
from cloudevents.http import CloudEvent, from_http
from cloudevents.sdk.converters import is_binary
from flask import Request, request

from .callers import Callers, GoogleCertificates
from .cloud import Cloud
from .deployment import job_id, start
from .errors import CallerError, MalformedError, SettingsError, TriggerError, UnavailableError
from .events import Finalized, Succeeded, read
from .model import Model, announced_folder, read_model
from .redaction import redact, redact_output
from .settings import Settings
from .training import output_folder

redact_output()
try:
    _SETTINGS = Settings.read(os.environ)
except SettingsError as error:
    sys.exit(redact(f"trigger: {error}"))
_CLOUD = Cloud(_SETTINGS.project, _SETTINGS.location)
_CALLERS = Callers(_SETTINGS, GoogleCertificates())

_Answer = tuple[str, int]


# Of HTTP, and not of CloudEvents: for these the framework reads a request before anyone can ask whose it is.
@functions_framework.http
def deploy(sent: Request) -> _Answer:
    """Start the deploy pipeline for the model that an event announces.

    Returns:
        What is answered: 503 so that the event is delivered again, 401 and 403 to who may send none.
    """
    if sent.method != "POST":
        return "an event is sent by POST", 405
    try:
        headers = dict(sent.headers)
        _CALLERS.check(headers)
        event = from_http(headers, sent.get_data())
    except CallerError as error:
        _log("WARNING", f"refused with {error.status}: {error}", {})
        return "refused", error.status
    except UnavailableError as error:
        _log("WARNING", f"{error} (to be tried again)", {})
        return "to be tried again", 503
    except DataUnmarshallerError as error:
        _log("ERROR", f"the event's data cannot be read: {error}", {})
        return "OK", 200
    except GenericException:
        return "this is no CloudEvent", 400
    return _deploy(event)


def _deploy(event: CloudEvent) -> _Answer:
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
            return "to be tried again", 503
        _log(error.severity, str(error), fields)
    else:
        _log("INFO", f"{'started' if started else 'already started'} {job_id(model)} for {model.folder.uri}", fields)
    return "OK", 200


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
    line = {"severity": severity, "message": message, **fields}
    sys.stdout.write(json.dumps({name: redact(text)[:4000] for name, text in line.items()}) + "\n")
    sys.stdout.flush()
