"""Evaluation: how well a model's answers agree with what is true, by the metrics that the contract names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.data import Labelled
from components.earthengine.contract import Metric, ModelContract, Output
from components.earthengine.payloads import Outputs

HIGHER_IS_BETTER: dict[Metric, bool] = {"accuracy": True, "f1": True, "iou": True, "rmse": False}


@dataclass(frozen=True)
class Evaluation:
    """How a model answered to held-out data.

    Attributes:
        model: who answered, for people.
        metrics: the contract's, by name: `accuracy` the share of pixels that are right, `f1` and `iou` the mean of
            each class's, `rmse` in the output's unit.
        pixels: that were judged.
        labels: the classes; none where the output is a number.
        confusion: of classes, how many pixels that are truly of the row's class were answered as the column's.
    """

    model: str
    metrics: dict[Metric, float]
    pixels: int
    labels: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()

    def finite(self) -> dict[str, float]:
        """The metrics that are numbers, which are all that can be shown."""
        return {name: value for name, value in self.metrics.items() if math.isfinite(value)}

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Evaluation:
        """Of what `dataclasses.asdict` and JSON made of it."""
        confusion = tuple(tuple(row) for row in fields["confusion"])
        return cls(**fields | {"labels": tuple(fields["labels"]), "confusion": confusion})


def evaluate(contract: ModelContract, held_out: Labelled, answers: Outputs, model: str) -> Evaluation:
    """Hold a model's answers against the truth.

    Args:
        contract: whose output is judged, by its `judged_by`.
        held_out: the tiles that were answered, and the truth; -1 or NaN where it is not known.
        answers: `[N, H, W]` or, of classes, `[N, H, W, K]`, by the output's name.
        model: who answered.
    """
    output = contract.outputs[0]
    if not output.labels:
        known = np.isfinite(held_out.truth)
        return Evaluation(model, {"rmse": _rmse(held_out.truth[known], answers[output.name][known])}, int(known.sum()))
    known = held_out.truth >= 0
    truth = held_out.truth[known].astype(np.int64)
    answered = answered_class(output, answers[output.name])[known]
    # One more column for answers that are none of the classes, as another model may give.
    confusion = np.zeros((len(output.labels), len(output.labels) + 1), np.int64)
    np.add.at(confusion, (truth, answered), 1)
    return Evaluation(
        model,
        {metric: _of_classes(metric, confusion) for metric in output.judged_by},
        len(truth),
        output.labels,
        tuple(tuple(int(count) for count in row) for row in confusion),
    )


def answered_class(output: Output, answer: NDArray[Any]) -> NDArray[np.int64]:
    """The class `[N, H, W]` that an answer says, the likeliest where it says how likely each is; -1 for none."""
    if output.dimensions == 1:
        return np.where(np.isnan(answer).any(-1), -1, answer.argmax(-1)).astype(np.int64)
    whole = np.nan_to_num(answer, nan=-1.0).round()
    return np.where((whole >= 0) & (whole < len(output.labels)), whole, -1).astype(np.int64)


def _rmse(truth: NDArray[Any], answered: NDArray[Any]) -> float:
    return math.sqrt(np.mean((answered.astype(np.float64) - truth) ** 2))


def _of_classes(metric: Metric, confusion: NDArray[np.int64]) -> float:
    """A metric of classes, over those that are there, whatever is answered: the same for every model."""
    right = np.diagonal(confusion)
    true, answered = confusion.sum(1), confusion.sum(0)[: len(right)]
    if metric == "accuracy":
        return float(right.sum() / true.sum())
    there = true > 0
    either = true + answered
    if metric == "f1":
        return float((2 * right[there] / either[there]).mean())
    return float((right[there] / (either - right)[there]).mean())
