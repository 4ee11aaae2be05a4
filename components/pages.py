"""Pages: the templates of what steps write for people, with how numbers are shown there."""

from __future__ import annotations

import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.gate import Decision


def write_decision(decision: Decision, path: Path) -> None:
    """Write the page that says what the gate decided, and why."""
    path.write_text(templates().get_template("decision.html").render(decision=decision), encoding="utf-8")


def templates() -> Environment:
    """The templates of the pages that steps write, with how numbers are shown there."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(number=_number, count=_count, figure=_figure, short=_short, zip=zip)
    return templates


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "infinite"


def _figure(value: float) -> str:
    """A metric: as many digits as tell two models apart."""
    return f"{value:.4g}"


def _count(value: int) -> str:
    return f"{value:,}"


def _short(value: int) -> str:
    """A power of ten, or 0, in a few characters: 100k."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value // unit}{name}"
    return str(value)
