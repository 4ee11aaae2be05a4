"""Contracts of models that can be trained."""

from __future__ import annotations

from typing import Any

from components.earthengine.contract import ModelContract
from tests.conftest import contract_of

LABELS = ["Urban", "Vegetation", "Water"]


def of_classes(**changes: Any) -> ModelContract:
    """Bands red and green, output cover of three classes."""
    return contract_of(**{"outputs": [{"name": "cover", "dimensions": 1, "labels": LABELS}]} | changes)


def of_a_number(**changes: Any) -> ModelContract:
    """Bands red and green, output biomass, a number."""
    return contract_of(**{"outputs": [{"name": "biomass", "dimensions": 0}]} | changes)
