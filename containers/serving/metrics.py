"""What Prometheus reads at /metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    Summary,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from containers.serving.admission import Admission
from containers.serving.exchange import Exchange
from containers.serving.model import ServedModel
from containers.serving.outcomes import Outcome

CONTENT_TYPE = CONTENT_TYPE_LATEST

# From a tile of a small network to the 60 s after which a shared endpoint gives up.
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)


class Metrics:
    """The server's own registry."""

    def __init__(self, admission: Admission) -> None:
        # Or each number would have a second line.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        waiting = Gauge("serving_waiting_requests", "Requests that wait or are worked on", registry=registry)
        waiting.set_function(lambda: admission.requests)
        held = Gauge("serving_waiting_bytes", "Bytes of the requests that wait or are worked on", registry=registry)
        held.set_function(lambda: admission.bytes)
        self._replaced = Counter(
            "serving_worker_restarts", "Processes of the model that took the place of one that ended", registry=registry
        )
        self._model = Info("serving_model", "The model that is served", registry=registry)
        self._requests = Counter(
            "serving_requests", "Requests by how they ended", ["transport", "format", "code"], registry=registry
        )
        self._latency = Histogram(
            "serving_request_seconds",
            "Time from a request's arrival to its answer",
            ["transport"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._phases = Summary("serving_phase_seconds", "Time in each phase of a request", ["phase"], registry=registry)
        self._instances = Counter("serving_instances", "Tiles or features answered", registry=registry)
        self._bytes_in = Counter("serving_request_bytes", "Bytes of bodies read", ["transport"], registry=registry)
        self._bytes_out = Counter("serving_response_bytes", "Bytes of answers", ["transport"], registry=registry)

    def loaded(self, model: ServedModel) -> None:
        """Tell which model is served, and what runs it."""
        self._model.info(
            {
                "name": model.contract.name,
                "payload_format": model.contract.payload_format,
                "runtime": model.runtime,
                "deployed_model": os.environ.get("AIP_DEPLOYED_MODEL_ID", ""),
            }
        )

    def watch_worker(self, pid: Callable[[], int]) -> None:
        """Tell of the model's process too: its memory, its time on the cores."""
        ProcessCollector("serving_worker", pid, registry=self._registry)

    def replaced(self) -> None:
        """Count a process of the model that has taken the place of one that ended."""
        self._replaced.inc()

    def observe(self, exchange: Exchange, outcome: Outcome) -> None:
        """Count a request that has ended."""
        transport = exchange.transport
        code = str(outcome.status) if transport == "http" else outcome.code
        self._requests.labels(transport, exchange.format or "unknown", code).inc()
        self._latency.labels(transport).observe(time.perf_counter() - exchange.started)
        self._bytes_in.labels(transport).inc(exchange.request_bytes)
        self._bytes_out.labels(transport).inc(exchange.response_bytes)
        for phase, seconds in exchange.seconds.items():
            self._phases.labels(phase).observe(seconds)
        if exchange.response_bytes:
            self._instances.inc(exchange.tiles)

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
