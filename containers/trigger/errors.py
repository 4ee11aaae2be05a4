"""Why an event starts no pipeline, each reason with how long the event is delivered again.

TriggerError
├── SkippedError      INFO, never again    nothing is to be done: another object, a job that failed, a model replaced
├── MalformedError    ERROR, never again   the event, or the model.yaml that it announces, cannot be read
├── RefusedError      ERROR, never again   Vertex AI finds the job invalid
├── NotYetError       again for an hour    the model is still being written, or people have to mend something
└── UnavailableError  again always         Vertex AI or Cloud Storage cannot be reached, or is too busy

CallerError           the request is not from who may send events, which is looked at before anything else
SettingsError         the function cannot start
"""

from datetime import timedelta
from typing import ClassVar


class TriggerError(Exception):
    """An event starts no pipeline; the text is for the log.

    Attributes:
        severity: of the line in the log when the event is acknowledged.
        patience: how old the event may be to be asked for once more; what is older is acknowledged.
    """

    severity: ClassVar[str] = "ERROR"
    patience: ClassVar[timedelta] = timedelta.min


class SkippedError(TriggerError):
    """Nothing is to be done for this event."""

    severity = "INFO"


class MalformedError(TriggerError):
    """The event, or the model.yaml that it announces, cannot be read; it will never get better."""


class RefusedError(TriggerError):
    """Vertex AI finds the job invalid."""


class NotYetError(TriggerError):
    """What is missing comes by itself, or people mend it, within the hour."""

    patience = timedelta(hours=1)


class UnavailableError(TriggerError):
    """A service cannot be reached, or is too busy; the platform ends the attempts, after a day or more."""

    patience = timedelta.max


class CallerError(Exception):
    """A request is not from who may send events; the text is for the log, the caller gets the status alone.

    Attributes:
        status: of HTTP, 401 where it is not known whose request it is, 403 where it is known and another's.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class SettingsError(Exception):
    """A setting is missing or wrong; the text says which, what is allowed and how to mend it."""
