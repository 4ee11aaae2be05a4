from __future__ import annotations

import numpy as np

from components.earthengine.payloads import Outputs
from components.replay import Exchange, Replay
from components.report import Histogram
from components.verification import figures_of
from tests.conftest import contract_of


def test_figures_of_numbers_that_lie_farther_apart_than_any_number() -> None:
    contract = contract_of(outputs=[{"name": "total", "dimensions": 0, "type": "double"}])
    expected: Outputs = {"total": np.array([[[1.7e308, 0, -1.7e308]]])}
    replayed = Replay(np.zeros((1, 2, 1, 3), np.float32), expected, [expected], [Exchange(expected, 0.1, 1, 1, 0)])
    (figures,) = figures_of(contract, replayed)
    assert np.isfinite(figures.edges[-1] - figures.edges[0])
    assert (figures.expected[0], figures.expected[-1], sum(figures.expected)) == (1, 1, 3)
    assert Histogram.of(figures).across
