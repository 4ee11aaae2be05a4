"""Contest: a challenger and the champion, judged by the same held-out data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from components.champion import evaluate_champion, find_champion
from components.data import Labelled
from components.earthengine.contract import Metric
from components.earthengine.payloads import Outputs
from components.evaluation import Evaluation, evaluate
from components.golden import batches, joined
from components.held_out import load_held_out
from components.source import SourceModel
from components.vertex import Vertex


@dataclass(frozen=True)
class Contest:
    """What both answered.

    Attributes:
        metrics: that the contract names, the one that decides first.
        held_out: where the data come from that both are judged by.
        challenger: the retrained model's evaluation.
        champion: that of the model that serves; None where none does.
        deployed_model: the champion's id at its endpoint; empty where there is none.
    """

    metrics: tuple[Metric, ...]
    held_out: str
    challenger: Evaluation
    champion: Evaluation | None
    deployed_model: str = ""

    @property
    def sentence(self) -> str:
        """Both sets of metrics."""
        return "; ".join(
            f"{each.model}: {', '.join(f'{name} {value:.4g}' for name, value in each.metrics.items())}"
            for each in (self.challenger, self.champion)
            if each
        )

    def dump(self) -> str:
        """All of it as JSON that `parse` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Contest:
        """Read what `dump` wrote."""
        fields = json.loads(text)
        champion = fields["champion"]
        return cls(
            tuple(fields["metrics"]),
            fields["held_out"],
            Evaluation.parse(fields["challenger"]),
            Evaluation.parse(champion) if champion else None,
            fields["deployed_model"],
        )


def evaluate_both(vertex: Vertex, model: Path, held_out: Path, endpoint: str) -> Contest:
    """Judge a trained model, and the one that serves at an endpoint, by the same held-out data.

    Args:
        vertex: where the champion serves.
        model: folder with the challenger and its model.yaml.
        held_out: folder with the held-out data.
        endpoint: id or name; empty for the one that is named as the model.

    Raises:
        ContractError, ModelError: the challenger is not what its contract says.
        DataError: the held-out data cannot be read.
        EvaluationError: the champion cannot be judged.
        VertexError: Vertex AI does not answer.
    """
    source, data = SourceModel(model), load_held_out(held_out)
    contract = source.contract
    challenger = evaluate(contract, data, _answers(source, data), "challenger")
    champion = find_champion(vertex, endpoint or contract.name)
    against = evaluate_champion(vertex, champion, contract, data) if champion else None
    serving = champion.deployed_model if champion else ""
    return Contest(contract.outputs[0].judged_by, data.origin, challenger, against, serving)


def _answers(source: SourceModel, held_out: Labelled) -> Outputs:
    return joined([source.predict(tiles) for tiles in batches(held_out.tiles)])
