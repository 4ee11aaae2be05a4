"""Truth: the values of labelled data, checked, and the number of the class that each label means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import Output
from components.earthengine.errors import DataError
from components.earthengine.explain import shown

Where = Callable[[int], str]
"""Says where the value at an index of the flat array stands."""


def finite(values: NDArray[Any], where: Where) -> NDArray[np.float32]:
    """Numbers as float32.

    Args:
        values: numbers, of any shape.
        where: for the error.

    Raises:
        DataError: a number is NaN or infinite, or so large that it is in float32.
    """
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32, copy=False)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        index = int(wrong.argmax())
        value = values.flat[index]
        said = "is empty or no number (NaN)" if np.isnan(value) else f"is {value}, which float32 cannot hold"
        raise DataError(f"{where(index)} {said}; allowed: finite numbers; correct it or leave it out")
    return numbers


def class_numbers(output: Output, values: NDArray[Any], where: Where) -> NDArray[np.int64]:
    """The number of each value's class.

    Args:
        output: whose labels the classes are.
        values: labels as text, or whole numbers from 0; of any shape.
        where: for the error.

    Raises:
        DataError: a value is empty, or no class.
    """
    import pandas as pd

    meanings = _meanings(output)
    places, distinct = pd.factorize(values.ravel())  # -1 where a value is empty
    found = [_meaning(value, meanings) for value in distinct]
    numbers = np.array([*found, -1], np.int64)[places]
    if (wrong := numbers < 0).any():
        index = int(wrong.argmax())
        said = "is empty"
        if places[index] >= 0:
            value = distinct[places[index]]
            plain = value.item() if isinstance(value, np.generic) else value
            said = f"is {shown(plain)}, which is no class of {output.name}"
        allowed = ", ".join(output.labels)
        if len(meanings) > len(output.labels):
            allowed += f", or a number from 0 to {len(output.labels) - 1}"
        raise DataError(f"{where(index)} {said}; allowed: {allowed}; correct it or leave it out")
    return numbers.reshape(values.shape)


def _meanings(output: Output) -> dict[str, int]:
    """The class that a text means; where a label is itself a number, only labels count."""
    numbers = {str(number): number for number in range(len(output.labels))}
    labels = {label: number for number, label in enumerate(output.labels)}
    return labels if any(_is_number(label) for label in labels) else numbers | labels


def _meaning(value: object, meanings: dict[str, int]) -> int:
    """The class that a value means; -1 where it is none."""
    text = str(value)
    if text not in meanings and _is_number(text) and float(text).is_integer():
        text = str(int(float(text)))
    return meanings.get(text, -1)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
