"""Times, durations, sizes, states and values as the pages show them: Jinja's filters."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from urllib.parse import quote

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from markupsafe import Markup

from ..messages import PipelineState, ScheduleState, TaskState, last_segment

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_UNITS = ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m"), (1, "s"))
_NONE = "–"
# Colours for terminals and the moves of progress bars, which a page shows as rubbish.
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class State:
    """A word for a state, and one of the few looks that style.css and the icons know."""

    look: str
    word: str


NOT_RUN = State("idle", "Not run")
_LOOKS = {
    "waiting": {"QUEUED": "Queued", "PENDING": "Waiting"},
    "running": {"RUNNING": "Running", "CANCELLING": "Cancelling", "CANCEL_PENDING": "Cancelling"},
    "succeeded": {"SUCCEEDED": "Succeeded", "SKIPPED": "Cached", "ACTIVE": "Active"},
    "failed": {"FAILED": "Failed"},
    "cancelled": {"CANCELLED": "Cancelled", "PAUSED": "Paused"},
    "idle": {"NOT_TRIGGERED": "Not run", "COMPLETED": "Completed"},
}
_STATES = {name: State(look, word) for look, words in _LOOKS.items() for name, word in words.items()}


def job_state(number: int) -> State:
    return _STATES.get(PipelineState(number).name.removeprefix("PIPELINE_STATE_"), State("waiting", "Unknown"))


def task_state(number: int) -> State:
    return _STATES.get(TaskState(number).name, State("waiting", "Unknown"))


def schedule_state(number: int) -> State:
    return _STATES.get(ScheduleState(number).name, State("waiting", "Unknown"))


def server_state(name: str) -> State:
    """Of a model server: starting, serving or restarting."""
    return State({"serving": "succeeded", "starting": "running"}.get(name, "failed"), name.capitalize())


def seconds(stamp: Timestamp) -> float:
    """Since 1970; 0 for a time that is not set."""
    return float(stamp.seconds + stamp.nanos / 1e9)


def duration(elapsed_s: float | None) -> str:
    """``0.4 s``, ``42 s``, ``2 m 03 s``, ``1 h 02 m``, ``3 d 04 h``."""
    if elapsed_s is None:
        return _NONE
    if elapsed_s < 9.95:
        return f"{max(elapsed_s, 0):.1f} s"
    whole = round(elapsed_s)
    for (unit, name), (smaller, smaller_name) in pairwise(_UNITS):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller:02d} {smaller_name}"
    return f"{whole} s"


def ago(stamp: Timestamp) -> Markup:
    """A ``<time>`` that says how long ago it was, or how long it is until then, and UTC on hovering."""
    if not seconds(stamp):
        return Markup(_NONE)  # noqa: S704
    moment = datetime.fromtimestamp(seconds(stamp), UTC)
    passed = datetime.now(UTC).timestamp() - seconds(stamp)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(timespec="seconds"), f"{moment:%Y-%m-%d %H:%M:%S} UTC", _roughly(passed)
    )


def _roughly(passed_s: float) -> str:
    away = abs(passed_s)
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if away >= unit:
            text = f"{away // unit:.0f} {name}"
            return f"{text} ago" if passed_s >= 0 else f"in {text}"
    # No seconds: the page would change with each of them.
    return "just now" if passed_s >= 0 else "in less than a minute"


def size(count: int) -> str:
    """Bytes, in units of 1000: ``512 B``, ``1.5 MB``."""
    amount, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if units[0] == "B" or amount >= 10 else f"{amount:.1f} {units[0]}"


def value(content: Any) -> str:
    """A parameter or a metadata entry: text as it is, integers without ``.0``, the rest as JSON."""
    if isinstance(content, Value):
        content = json_format.MessageToDict(content)
    if isinstance(content, str):
        return content
    if isinstance(content, float) and content.is_integer() and abs(content) < 2**53:
        content = int(content)
    if isinstance(content, float):
        return f"{content:.6g}"
    return json.dumps(content, ensure_ascii=False)


def page_of(name: str) -> str:
    """The path of the page of a resource."""
    return "/console/" + quote(name)


def anchor(task: str) -> str:
    """The id of a step's section in its run's page, which must have no space in it."""
    return "task-" + re.sub(r"\s", "-", task)


def plain(log: str) -> str:
    """A log without what only a terminal understands."""
    return _TERMINAL.sub("", log)


FILTERS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        job_state,
        schedule_state,
        server_state,
        duration,
        ago,
        size,
        value,
        last_segment,
        page_of,
        anchor,
        plain,
    )
}
