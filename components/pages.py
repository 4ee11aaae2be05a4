"""Pages: the templates of what steps write for people, with how numbers are shown there."""

from __future__ import annotations

import base64
import hashlib
import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from components.gate import Decision
from components.whole import write_text


def write_decision(decision: Decision, path: Path) -> None:
    """Write the page that says what the gate decided, and why."""
    write_text(path, templates().get_template("decision.html").render(decision=decision))


def templates() -> Environment:
    """The templates of the pages that steps write, with how numbers are shown there."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["policy"] = _policy
    templates.filters.update(number=_number, count=_count, figure=_figure, short=_short, zip=zip)
    return templates


def _policy(style: str, script: str = "") -> str:
    """What a page that stands alone may do: show pictures that it holds, and run what was written here, not there.

    Colours and widths are attributes of elements, which run nothing and, as pictures are, fetch nothing.
    """
    runs = _hash(script) if script else "'none'"
    return (
        f"default-src 'none'; script-src {runs}; style-src-elem {_hash(style)}; style-src-attr 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


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
