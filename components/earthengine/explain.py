"""Puts what pydantic found wrong into sentences: the key, the value, what is allowed, the way out."""

from __future__ import annotations

import difflib
import reprlib
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

# Python writes out no whole number of more than 4300 digits, and takes long for one of less.
_LONGEST_NUMBER = 1000  # bits


class _Bounded(reprlib.Repr):
    """Bounded in depth and width: a few lines of YAML aliases stand for gigabytes when written out."""

    def repr_int(self, x: int, level: int) -> str:
        """A whole number, or its size."""
        return super().repr_int(x, level) if x.bit_length() < _LONGEST_NUMBER else f"a number of {x.bit_length()} bits"


_REPR = _Bounded()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 3, 80, 80, 80


def explain(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One sentence for each fault in a document that should have been a `model`."""
    faults = error.errors()
    places = [fault["loc"] for fault in faults]
    # A list with a bad item is also reported as too short: the item says it better.
    return [
        _sentence(model, fault)
        for fault in faults
        if not any(place != fault["loc"] and place[: len(fault["loc"])] == fault["loc"] for place in places)
        or not fault["loc"]
    ]


def _sentence(model: type[BaseModel], fault: Any) -> str:
    """One fault that pydantic found, as a sentence: the key, the value, what is allowed, the way out."""
    place = fault["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    part, field = _field_at(model, place)
    meaning = f" ({field.description})" if field is not None else ""
    value = shown(fault["input"])
    match fault["type"]:
        case "missing":
            return f"{key} is missing; add it{meaning}"
        case "extra_forbidden":
            allowed = sorted(part.model_fields)
            near = difflib.get_close_matches(str(place[-1]), allowed, n=1)
            mend = f"did you mean {near[0]}?" if near else "remove it"
            return f"{key} is not a key of the contract; allowed here: {', '.join(allowed)}; {mend}"
        case "literal_error":
            allowed = _literals(field.annotation) if field is not None else [fault["ctx"]["expected"]]
            given = fault["input"] if isinstance(fault["input"], str) else ""
            near = difflib.get_close_matches(given, allowed, n=1, cutoff=0.5)
            mend = f"did you mean {near[0]}?" if near else "write one of these"
            return f"{key} is {value}; allowed: {', '.join(allowed)}; {mend}{meaning}"
        case "value_error":
            if field is not None and not isinstance(fault["input"], dict):
                return f"{key} is {value}; it {fault['ctx']['error']}"
            return f"{key} {fault['ctx']['error']}".lstrip()
        case _:
            rule = fault["msg"][0].lower() + fault["msg"][1:]
            mend = "put it in quotes" if fault["type"] == "string_type" else "correct it"
            return f"{key} is {value}; {rule}; {mend}{meaning}"


def _field_at(model: type[BaseModel], place: tuple[int | str, ...]) -> tuple[type[BaseModel], Any]:
    """The part of the document that a fault lies in, and its field where the key is one."""
    part = model
    field = None
    for key in place:
        if isinstance(key, int):
            continue
        if field is not None:
            part = next((t for t in _types(field.annotation) if issubclass(t, BaseModel)), part)
        field = part.model_fields.get(key)
    return part, field


def _types(annotation: Any) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _types(argument)]


def _literals(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for argument in get_args(annotation) for value in _literals(argument)]


def shown(value: object) -> str:
    """A value as an error shows it, cut to a line."""
    text = _REPR.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
