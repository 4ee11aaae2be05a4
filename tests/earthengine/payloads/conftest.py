from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract
from components.earthengine.payloads import batches

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
- {name: region, type: string, values: [north, sud, "öst"]}
tile: [4, 4]
scale: 10
outputs:
- {name: crop, dimensions: 0}
- {name: chances, dimensions: 1}
- {name: covariance, dimensions: 2}
"""


TABLE = """
name: table
framework: pytorch
payload_format: RAW_JSON
model: {file: net.pt}
properties:
- {name: area}
- {name: monthly, shape: [3]}
- {name: irrigated, type: boolean}
- {name: soil, type: string, values: [clay, loam, "sand, gravel"]}
outputs:
- {name: crop, dimensions: 0}
- {name: chances, dimensions: 1}
"""


@pytest.fixture(scope="session")
def table() -> ModelContract:
    """Features, not tiles: numbers, an array, a boolean, a string."""
    return ModelContract.parse(TABLE)


@pytest.fixture(scope="session")
def plain() -> ModelContract:
    """Two bands, one output: every format carries it."""
    return ModelContract.parse(PLAIN)


@pytest.fixture(scope="session")
def rich() -> ModelContract:
    """Array-valued bands, other types, properties, three outputs."""
    return ModelContract.parse(RICH)


def tiles_of(contract: ModelContract, n: int, height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """A batch that every band's type can carry: whole numbers, properties constant, one pixel each of a table."""
    random = np.random.default_rng(seed)
    height, width = (1, 1) if contract.table else (height, width)
    tiles = random.integers(0, 200, (n, contract.channels, height, width)).astype(np.float32)
    for part in batches.parts(contract):
        if not part.has_pixels:
            most = len(part.values) or (2 if part.dtype.kind == "b" else 3000)
            values = random.integers(0, most, (n, part.channels, 1, 1))
            tiles[:, part.first : part.first + part.channels] = values
    return tiles


def outputs_of(contract: ModelContract, n: int, height: int, width: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(n)
    height, width = (1, 1) if contract.table else (height, width)
    shape = (n, height, width, 5, 2)
    return {output.name: random.random(shape[: 3 + output.dimensions], dtype=np.float32) for output in contract.outputs}
