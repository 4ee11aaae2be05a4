"""Compares a model's answers with the source model's, within the contract's tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract
from components.earthengine.payloads.codec import Outputs


@dataclass(frozen=True)
class Parity:
    """How far answers lie from what was expected.

    `largest` is the largest absolute difference; `fault` says what is beyond the tolerance, if anything.
    """

    largest: float
    fault: str | None


def compare(contract: ModelContract, expected: Outputs, answered: Outputs) -> Parity:
    """Compare answers to the same tiles: names, shapes, then every value."""
    largest = 0.0
    faults = []
    for output in contract.outputs:
        if output.name not in answered:
            faults.append(f"output {output.name} is missing; the answer has {', '.join(sorted(answered)) or 'none'}")
            continue
        wanted, got = expected[output.name], answered[output.name]
        if wanted.shape != got.shape:
            faults.append(f"output {output.name} has shape {list(got.shape)}, expected {list(wanted.shape)}")
            continue
        lost = np.argwhere(~np.isfinite(got.astype(np.float64)) & np.isfinite(wanted.astype(np.float64)))
        if lost.size:
            place = tuple(int(index) for index in lost[0])
            largest = math.inf
            faults.append(
                f"output {output.name} is not a number at {len(lost)} of {got.size} values, "
                f"first {spot(contract, place)}: {got[place]} instead of {wanted[place]:.6g}"
            )
            continue
        difference, allowed = apart(contract, wanted.astype(np.float64), got.astype(np.float64))
        largest = max(largest, float(difference.max(initial=0.0)))
        if (beyond := np.argwhere(difference > allowed)).size:
            place = tuple(int(index) for index in beyond[0])
            faults.append(
                f"output {output.name} differs at {len(beyond)} of {difference.size} values, "
                f"first {spot(contract, place)}: {got[place]:.6g} instead of {wanted[place]:.6g}, "
                f"by {difference[place]:.3g} where {allowed[place]:.3g} is allowed"
            )
    return Parity(largest, "; ".join(faults) or None)


def apart(
    contract: ModelContract, wanted: NDArray[np.float64], got: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far each value lies from what was wanted, and how far the contract's tolerance allows.

    It is infinity where one is no number and the other is.
    """
    difference, size = _difference(wanted, got)
    return difference, contract.tolerance.absolute + contract.tolerance.relative * size


def spot(contract: ModelContract, place: tuple[int, ...]) -> str:
    """Where an element `[tile, row, column, ...]` of an output lies, in words."""
    if contract.table:
        return f"in feature {place[0]}"
    return f"in tile {place[0]} at row {place[1]}, column {place[2]}"


def _difference(wanted: NDArray[np.float64], got: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """How far values lie apart, 0 for the same infinity or two NaN; and the size of what was wanted, 0 for these."""
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(same, 0, np.abs(got - wanted))
    return np.nan_to_num(apart, nan=np.inf, posinf=np.inf), np.nan_to_num(np.abs(wanted), nan=0, posinf=0)
