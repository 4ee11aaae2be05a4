from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract

PLAIN = """
name: plain
framework: pytorch
payload_format: ND_ARRAYS
model: {file: net.pt}
bands: [{name: red}, {name: green}]
tile: [4, 4]
scale: 10
outputs: [{name: crop, dimensions: 0}]
"""

RICH = """
name: rich
framework: tensorflow
payload_format: SERIALIZED_TF_TENSORS
model: {file: net.keras}
bands:
- {name: red}
- {name: series, shape: [3]}
- {name: patch, shape: [2, 2]}
- {name: quality, type: uint8}
- {name: height, type: double}
properties:
- {name: year}
- {name: winter, type: boolean}
tile: [4, 4]
scale: 10
outputs:
- {name: crop, dimensions: 0}
- {name: chances, dimensions: 1}
- {name: covariance, dimensions: 2}
"""


@pytest.fixture(scope="session")
def plain() -> ModelContract:
    """Two bands, one output: every format carries it."""
    return ModelContract.parse(PLAIN)


@pytest.fixture(scope="session")
def rich() -> ModelContract:
    """Array-valued bands, other types, properties, three outputs."""
    return ModelContract.parse(RICH)


def tiles_of(contract: ModelContract, n: int, height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """A batch that every band's type can carry: whole numbers, properties constant."""
    random = np.random.default_rng(seed)
    tiles = random.integers(0, 200, (n, contract.channels, height, width)).astype(np.float32)
    for back, prop in enumerate(reversed(contract.properties), 1):
        values = random.integers(0, 2 if prop.type == "boolean" else 3000, n)
        tiles[:, -back] = values[:, None, None]
    return tiles


def outputs_of(contract: ModelContract, n: int, height: int, width: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(n)
    shape = (n, height, width, 5, 2)
    return {output.name: random.random(shape[: 3 + output.dimensions], dtype=np.float32) for output in contract.outputs}
