"""What a verification found: checks and their verdicts, figures and pictures, as they are written down and shown."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from components import parity, pictures
from components.earthengine.contract import ModelContract
from components.earthengine.payloads import MAX_PAYLOAD_BYTES, UNTYPED, Outputs
from components.replay import Replay, percentile_ms

_BINS = 24


@dataclass(frozen=True)
class Check:
    """One thing that was checked, whether it passed, and what was found."""

    what: str
    passed: bool
    text: str


@dataclass(frozen=True)
class OutputFigures:
    """An output's values as two histograms over the same bins, the source model's and the endpoint's.

    `largest` is the largest absolute difference between the two; bin i lies between edges i and i + 1.
    """

    name: str
    largest: float
    edges: tuple[float, ...]
    expected: tuple[int, ...]
    answered: tuple[int, ...]


@dataclass(frozen=True)
class Verification:
    """What a deployed model answered to golden tiles.

    Attributes:
        endpoint: resource name of the endpoint that was asked.
        deployed_model: whose answers counted.
        share: percent of the endpoint's traffic that it had then.
        checks: what was checked.
        conclusive: whether the model was judged by what it answered; a disturbed verification says nothing of it.
        moment: when, in UTC, as ISO 8601.
        tiles: how many were sent.
        requests: that the deployed model answered.
        elsewhere: requests that traffic led to other models, and that were sent again.
        p50_ms: the time of a request, the median.
        p99_ms: the time of a request, the 99th percentile.
        largest_request: bytes of the largest request.
        largest_answer: bytes of the largest answer.
        output_multiplier: how many times the bytes of a request its answer takes, at least 1.
        outputs: figures of each output.
        pictures: PNG in base64 by title: `input`, and of each output `NAME endpoint`, `NAME source`, `NAME difference`.
    """

    endpoint: str
    deployed_model: str
    share: int
    checks: tuple[Check, ...]
    conclusive: bool = True
    moment: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    tiles: int = 0
    requests: int = 0
    elsewhere: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    largest_request: int = 0
    largest_answer: int = 0
    output_multiplier: float = 1.0
    outputs: tuple[OutputFigures, ...] = ()
    pictures: dict[str, str] = field(default_factory=dict)

    @property
    def fault(self) -> str:
        """What did not pass; empty where all did."""
        return "; ".join(check.text for check in self.checks if not check.passed)

    @property
    def largest_difference(self) -> float:
        """The largest absolute difference from the source model, over all outputs."""
        return max((output.largest for output in self.outputs), default=0.0)

    def metrics(self) -> dict[str, float]:
        """What compares from run to run; without what was not measured, as where nothing was answered."""
        found = {"passed": float(not self.fault), "requests": self.requests}
        if self.outputs:
            found["largest_difference"] = self.largest_difference
        if self.requests:
            found |= {
                "p50_milliseconds": self.p50_ms,
                "p99_milliseconds": self.p99_ms,
                "largest_request_bytes": self.largest_request,
                "largest_answer_bytes": self.largest_answer,
            }
        return found

    def dump(self) -> str:
        """All of it as JSON that `parse` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Verification:
        """Read what `dump` wrote."""
        fields = json.loads(text)
        checks = tuple(Check(**check) for check in fields.pop("checks"))
        outputs = tuple(
            OutputFigures(
                each["name"], each["largest"], *(tuple(each[key]) for key in ("edges", "expected", "answered"))
            )
            for each in fields.pop("outputs")
        )
        return cls(checks=checks, outputs=outputs, **fields)


def checks_of(contract: ModelContract, replayed: Replay) -> list[Check]:
    """The checks that any server must pass: names, shapes and values, types, payload sizes."""
    compared = [parity.compare(contract, replayed.expected, answers) for answers in replayed.answers]
    faults = [each.fault for each in compared if each.fault]
    largest = max(each.largest for each in compared)
    allowed = f"{contract.tolerance.absolute:g} + {contract.tolerance.relative:g} * |value|"
    values = f"the largest difference from the source model is {largest:.3g}; allowed: {allowed}"
    return [
        Check("answers", not faults, faults[0] if faults else values),
        _types(contract, replayed.answers[0]),
        _payload("request", contract, max(one.request_bytes for one in replayed.exchanges)),
        _payload("answer", contract, max(one.answer_bytes for one in replayed.exchanges)),
    ]


def latency_check(replayed: Replay, most_seconds: float) -> Check:
    """Whether all but one request in a hundred were answered in time."""
    p50, p99 = percentile_ms(replayed, 50), percentile_ms(replayed, 99)
    took = f"a request takes {p50:,.0f} ms at the median, {p99:,.0f} ms at the 99th percentile"
    if p99 <= 1000 * most_seconds:
        return Check("latency", True, f"{took}; allowed: {1000 * most_seconds:,.0f} ms")
    return Check(
        "latency",
        False,
        f"the model is too slow: {took}; allowed by max_latency_seconds: {1000 * most_seconds:,.0f} ms; choose a "
        "faster machine_type, more replicas, a smaller tile, or raise max_latency_seconds",
    )


def figures_of(contract: ModelContract, replayed: Replay) -> tuple[OutputFigures, ...]:
    """The figures of each output that was answered in the shape expected."""
    answers = replayed.answers[0]
    return tuple(
        _figures(contract, output.name, replayed.expected[output.name], answers[output.name])
        for output in contract.outputs
        if output.name in answers and answers[output.name].shape == replayed.expected[output.name].shape
    )


def pictures_of(contract: ModelContract, replayed: Replay, scene: tuple[int, int] | None) -> dict[str, str]:
    """PNGs in base64 by title, as `Verification.pictures` holds them; none of a table."""
    if contract.table:
        return {}
    drawn = pictures.compared(contract, replayed.sent, replayed.expected, replayed.answers[0], scene)
    return {title: base64.b64encode(pictures.png(picture)).decode() for title, picture in drawn.items()}


def _types(contract: ModelContract, answers: Outputs) -> Check:
    if contract.payload_format in UNTYPED:
        return Check("types", True, f"numbers in {contract.payload_format} have no type")
    wrong = [
        f"output {output.name} is {answers[output.name].dtype}, declared is {output.type} ({output.number})"
        for output in contract.outputs
        if output.name in answers and answers[output.name].dtype != np.dtype(output.number)
    ]
    if wrong:
        return Check("types", False, f"{'; '.join(wrong)}; declare the type that the model answers in model.yaml")
    return Check("types", True, ", ".join(f"{output.name} {output.number}" for output in contract.outputs))


def _payload(what: str, contract: ModelContract, length: int) -> Check:
    taken = f"the largest {what} takes {length:,} bytes in {contract.payload_format}; allowed: {MAX_PAYLOAD_BYTES:,}"
    if length <= MAX_PAYLOAD_BYTES:
        return Check(f"{what} size", True, taken)
    return Check(f"{what} size", False, f"{taken}; declare a smaller tile in model.yaml")


def _figures(
    contract: ModelContract, name: str, expected: NDArray[np.generic], answered: NDArray[np.generic]
) -> OutputFigures:
    wanted, got = expected.astype(np.float64), answered.astype(np.float64)
    edges = np.linspace(*pictures.span(wanted, got), _BINS + 1)
    counts = [
        tuple(int(count) for count in np.histogram(array[np.isfinite(array)].clip(edges[0], edges[-1]), edges)[0])
        for array in (wanted, got)
    ]
    largest = float(parity.apart(contract, wanted, got)[0].max(initial=0.0))
    return OutputFigures(name, largest, tuple(float(edge) for edge in edges), *counts)
