from __future__ import annotations

from typing import Any

import pytest

from components.data import check_trainable
from components.earthengine.errors import ContractError
from tests.conftest import contract_of
from tests.data.contracts import LABELS, of_a_number, of_classes


def test_classes_and_a_number_can_be_trained() -> None:
    check_trainable(of_classes())
    check_trainable(of_a_number())


NUMBER = {"name": "biomass", "dimensions": 0}
CLASSES = {"name": "cover", "dimensions": 1, "labels": LABELS}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "array band": ({"bands": [{"name": "red"}, {"name": "ndvi", "shape": [12]}]}, r"array-valued bands \(ndvi\)"),
    "properties": ({"properties": [{"name": "year"}]}, r"properties \(year\)"),
    "outputs": ({"outputs": [CLASSES, NUMBER]}, r"2 outputs \(cover, biomass\)"),
    "labels of a number": ({"outputs": [NUMBER | {"labels": LABELS}]}, "output biomass of dimensions 0 with labels"),
    "vector": ({"outputs": [{"name": "cover", "dimensions": 1}]}, "output cover of dimensions 1 without labels"),
    "matrix": ({"outputs": [{"name": "cover", "dimensions": 2}]}, "output cover of dimensions 2 without labels"),
    "a label twice": ({"outputs": [CLASSES | {"labels": ["a", "b", "a"]}]}, "output cover has the label 'a' twice"),
    "a band's name": ({"outputs": [NUMBER | {"name": "red"}]}, "red is a band and the output"),
    "output tile": ({"output_tile": [8, 8]}, r"answers of \(8, 8\) pixels to patches of \(16, 16\)"),
    "table": (
        {"bands": None, "tile": None, "scale": None, "properties": [{"name": "red"}], "outputs": [NUMBER]},
        "it has no bands; properties",
    ),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_other_contracts_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ContractError, match=rf"small cannot be trained here: {said}") as refused:
        check_trainable(contract_of(**{"outputs": [NUMBER]} | changes))
    assert str(refused.value).endswith("train it with your own code and let the trigger or `submit` deploy it")
