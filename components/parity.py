"""Compares a model's answers with the source model's, within the contract's tolerance."""

from __future__ import annotations

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
        difference, size = _difference(wanted.astype(np.float64), got.astype(np.float64))
        allowed = contract.tolerance.absolute + contract.tolerance.relative * size
        largest = max(largest, float(difference.max(initial=0.0)))
        if (beyond := np.argwhere(difference > allowed)).size:
            place = tuple(int(index) for index in beyond[0])
            faults.append(
                f"output {output.name} differs at {len(beyond)} of {difference.size} values, first in tile {place[0]} "
                f"at row {place[1]}, column {place[2]}: {got[place]:.6g} instead of {wanted[place]:.6g}, by "
                f"{difference[place]:.3g} where {allowed[place]:.3g} is allowed"
            )
    return Parity(largest, "; ".join(faults) or None)


def _difference(wanted: NDArray[np.float64], got: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """How far values lie apart, 0 for the same infinity or two NaN; and the size of what was wanted, 0 for these."""
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(same, 0, np.abs(got - wanted))
    return np.nan_to_num(apart, nan=np.inf, posinf=np.inf), np.nan_to_num(np.abs(wanted), nan=0, posinf=0)
