"""The server's log on stderr: for Cloud Logging one JSON object a line, for a terminal plain lines.

The fields are those of Cloud Logging's "Structured logging"; Error Reporting finds a stack in `message`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from components.earthengine.errors import PipelineError
from components.earthengine.redaction import redact
from containers.serving.exchange import Exchange
from containers.serving.outcomes import Outcome

_log = logging.getLogger("serving")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# X-Cloud-Trace-Context: TRACE/SPAN;o=1, and W3C's traceparent: 00-TRACE-SPAN-FLAGS.
_TRACE = re.compile(r"(?:[0-9a-f]{2}-)?([0-9a-f]{32})(?![0-9a-f])")
# Of an error's text; a request cannot make the log grow with it.
_LONGEST = 2000


class _Cloud(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        when = datetime.fromtimestamp(record.created, UTC).isoformat()
        # The names of Python's levels are severities of Cloud Logging.
        # Each text before it is JSON, which a replacement could break.
        entry = {"severity": record.levelname, "time": when, "message": redact(message)}
        return json.dumps(entry | getattr(record, "fields", {}))


class _Terminal(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # What a request says must not move the cursor, or look like a line of its own.
        text = f"serving: {_CONTROL.sub(lambda found: repr(found[0])[1:-1], record.getMessage())}"
        return redact(f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text)


def start() -> None:
    """Send everything that is logged to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Terminal() if sys.stderr.isatty() else _Cloud())
    logging.basicConfig(handlers=[handler], level=logging.INFO)


def trace_of(headers: Mapping[str, str]) -> str:
    """The trace that a request belongs to, as Cloud Logging writes it; empty where its headers name none."""
    found = _TRACE.match(headers.get("x-cloud-trace-context") or headers.get("traceparent") or "")
    if found is None:
        return ""
    project = os.environ.get("AIP_PROJECT_NUMBER")
    return f"projects/{project}/traces/{found[1]}" if project else found[1]


def request(exchange: Exchange, outcome: Outcome, error: BaseException | None) -> None:
    """The one line of a request that has ended."""
    if not _log.isEnabledFor(outcome.level):
        return
    seconds = time.perf_counter() - exchange.started
    called = outcome.status if exchange.transport == "http" else outcome.code
    text = f"{exchange.method} {exchange.url[:500]} {called} in {seconds * 1000:.1f} ms"
    if exchange.format:
        text += f", {exchange.format}"
    if exchange.tiles:
        text += f", {exchange.tiles} instances"
    if error is not None:
        text += f": {str(error)[:_LONGEST]}"
    fields: dict[str, Any] = {
        "httpRequest": {
            "requestMethod": exchange.method,
            "requestUrl": redact(exchange.url[:500]),
            "status": outcome.status,
            "requestSize": str(exchange.request_bytes),
            "responseSize": str(exchange.response_bytes),
            "latency": f"{seconds:.6f}s",
            "remoteIp": exchange.remote,
            "protocol": "HTTP/1.1" if exchange.transport == "http" else "HTTP/2",
        }
    }
    if exchange.trace:
        fields["logging.googleapis.com/trace"] = exchange.trace
    # A model's failure is told by what caused it, anything unforeseen by itself; a refusal needs no stack.
    cause = error.__cause__ if isinstance(error, PipelineError) else error
    failed = outcome.level >= logging.ERROR and cause is not None
    _log.log(outcome.level, "%s", text, exc_info=cause if failed else None, extra={"fields": fields})
