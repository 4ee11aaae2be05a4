"""Gate: whether a challenger is better than the champion, and so goes on."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

from components.contest import Contest
from components.earthengine.contract import Metric
from components.earthengine.errors import ParameterError
from components.evaluation import HIGHER_IS_BETTER, Evaluation


@dataclass(frozen=True)
class Decision:
    """What the gate decided.

    Attributes:
        better: whether the challenger goes on.
        reason: in a sentence.
        margin: by how much it had to be better.
        contest: what was compared.
    """

    better: bool
    reason: str
    margin: float
    contest: Contest

    def dump(self) -> str:
        """All of it as JSON that `parse` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Decision:
        """Read what `dump` wrote."""
        fields = json.loads(text)
        return cls(**fields | {"contest": Contest.parse(json.dumps(fields["contest"]))})

    def labels(self) -> dict[str, str]:
        """What the registry's version is labelled with: who it was held against, and each metric of both."""
        challenger, champion = self.contest.challenger, self.contest.champion
        found = {"champion": champion.model if champion else "none"}
        for evaluation, who in ((challenger, "challenger"), (champion, "champion")):
            if evaluation:
                # A label's value has no point: 0-9722.
                found |= {f"{who}-{name}": f"{value:.4g}" for name, value in evaluation.metrics.items()}
        return found


# Of a metric: by as much may it differ of one model that two programs run, as evaluation and a server do.
_NOISE = 1e-4


def check_margin(margin: float) -> None:
    """Check the margin by which a challenger must be better.

    Raises:
        ParameterError: it is negative, or no number.
    """
    if not 0 <= margin < math.inf:
        raise ParameterError(
            f"margin is {margin:g}; allowed: 0 or more, in the first metric's own unit (0.01 is one percent of "
            "accuracy, f1 and iou); correct it"
        )


def decide(contest: Contest, margin: float) -> Decision:
    """Whether a challenger is better: by the margin in the first metric, and in no other worse.

    Differences of a ten-thousandth of the metric count for nothing.

    Args:
        contest: where no model serves any challenger is better.
        margin: by how much the first metric must be better, in its own unit; at 0 it must be better at all.

    Raises:
        ParameterError: the margin is negative, or no number.
    """
    check_margin(margin)
    better, reason = _judge(contest, margin)
    return Decision(better, reason, margin, contest)


def _judge(contest: Contest, margin: float) -> tuple[bool, str]:
    challenger, champion = contest.challenger, contest.champion
    for name, value in challenger.metrics.items():
        if not math.isfinite(value):
            return False, f"the challenger's {name} is {value}: it has not learnt"
    if champion is None:
        return True, "no model serves yet, so there is none to be better than"
    first, *others = contest.metrics
    gain = _gain(first, challenger, champion)
    compared = f"{_both(first, challenger, champion)} of {champion.model}"
    # 0.95 - 0.94 falls short of 0.01 by one in 10^15.
    if not (gain > 0 and gain >= margin * (1 - 1e-9)):
        return False, f"{compared}: not better{f' by {margin:g}' if margin else ''}"
    for name in others:
        if _gain(name, challenger, champion) < 0:
            return False, f"{compared} is better, but {_both(name, challenger, champion)} is worse"
    return True, f"{compared}: better"


def _both(metric: Metric, challenger: Evaluation, champion: Evaluation) -> str:
    return f"{metric} {challenger.metrics[metric]:.6g} against {champion.metrics[metric]:.6g}"


def _gain(metric: Metric, challenger: Evaluation, champion: Evaluation) -> float:
    """By how much the challenger is better; 0 where that is noise."""
    ours, theirs = challenger.metrics[metric], champion.metrics[metric]
    gain = ours - theirs if HIGHER_IS_BETTER[metric] else theirs - ours
    return gain if abs(gain) > _NOISE * abs(theirs) else 0.0
