"""Nested lists of numbers in JSON, to and from numpy; `json_buffers` reads the plain case faster."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.earthengine.errors import PayloadError


def array(value: Any, *, strings: bool) -> NDArray[np.float32]:
    """The float32 array of a number or nested lists of numbers, numeric strings among them where `strings` says so.

    Raises:
        ValueError: what it is instead.
    """
    # As objects, since numpy would make every string as long as the longest.
    found = np.array(value, object)
    kinds = set(map(type, found.flat))
    if list in kinds:
        raise ValueError("has rows of different lengths")
    if not kinds <= ({int, float, bool, str} if strings else {int, float, bool}):
        raise ValueError("holds something that is not a number")
    try:
        with np.errstate(over="ignore"):
            narrow = found.astype(np.float64).astype(np.float32)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"holds something that is not a number ({str(error)[:100]})") from None
    if not np.isfinite(narrow).all():
        raise ValueError("holds NaN, an infinity or a number too large for float32")
    return narrow


def stacked(
    values: list[Any], where: Callable[[int], str], ranks: Collection[int], expected: str, *, strings: bool
) -> NDArray[np.float32]:
    """The values, one an instance, as one float32 array `[N, ...]`, each of one of these ranks.

    Raises:
        PayloadError: the first value at fault, or of another shape than the first.
    """
    try:
        whole = array(values, strings=strings)
        if whole.ndim - 1 in ranks and 0 not in whole.shape:
            return whole
    except ValueError:
        pass
    shape: tuple[int, ...] | None = None
    for n, value in enumerate(values):
        try:
            found = array(value, strings=strings).shape
        except ValueError as error:
            raise PayloadError(f"{where(n)} {error}; expected {expected}") from None
        if len(found) not in ranks or 0 in found:
            raise PayloadError(f"{where(n)} has shape {list(found)}; expected {expected}")
        if shape is not None and found != shape:
            raise PayloadError(
                f"{where(n)} has shape {list(found)} but {where(0)} has {list(shape)}; send all at one size"
            )
        shape = found
    # Numbers and strings that are good each, but not together.
    raise PayloadError(f"{where(0)} is of another kind than the rest; expected {expected}")


def finite(values: NDArray[Any], what: str) -> NDArray[Any]:
    """The array as orjson takes it, refused where JSON has no word for a number in it."""
    if values.dtype.kind not in "fiub" or values.dtype.itemsize > 8:
        raise PayloadError(f"an array of {values.dtype} has no numbers for JSON; cast it to float32")
    if values.dtype.kind == "f":
        good = np.isfinite(values)
        if not good.all():
            index = tuple(int(i) for i in np.argwhere(~good)[0])
            raise PayloadError(
                f"{what} {index[0]} has {values[index]} at {list(index[1:])}, which JSON cannot carry; "
                "give a finite number there, or use SERIALIZED_TF_TENSORS or GRPC_TF_TENSORS"
            )
    return np.ascontiguousarray(values, values.dtype.newbyteorder("="))
