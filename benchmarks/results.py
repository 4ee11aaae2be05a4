"""Prints figures as a table and keeps them as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

_FOLDER = Path("build/benchmarks")


@dataclass(frozen=True)
class Figure:
    """One figure: what was measured, its value and unit, and the bound it is held against."""

    what: str
    value: float
    unit: str
    bound: str = ""


def report(title: str, figures: list[Figure]) -> None:
    """Print the figures and write them to build/benchmarks/TITLE.json."""
    table = Table("figure", "measured", "bound", title=title)
    for figure in figures:
        table.add_row(figure.what, f"{figure.value:.3g} {figure.unit}", figure.bound)
    Console().print(table)
    _FOLDER.mkdir(parents=True, exist_ok=True)
    document = [vars(figure) for figure in figures]
    (_FOLDER / f"{title.replace(' ', '-')}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
