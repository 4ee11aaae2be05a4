"""ND_ARRAYS: HTTP, each tile a nested list of numbers without names.

Request: `{"instances": [tile, ...]}`, a tile `[C, H, W]` (channels first), shown by Earth Engine's
PyTorch notebook and by PRESTO's handler; of a table `[C]`, the properties in order (INFERRED). Response:
`{"predictions": [...]}`, each `[H, W]` for dimensions 0 and `[H, W, D]` for 1 (channels last). One output only,
since it has no name on the wire.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract, Output, PayloadFormat
from components.earthengine.errors import PayloadError
from components.earthengine.payloads import batches, json_bodies, json_buffers, json_numbers
from components.earthengine.payloads.codec import Outputs, Tiles

# What Earth Engine reckons with when it packs tiles: 713 tiles of 206 numbers in 1,500,000 bytes
# (DERIVED from the batch that PRESTO's handler was tested with).
BYTES_A_NUMBER = 10


class NdArrays:
    """The format without keys, made for PyTorch models (see `Codec`)."""

    format: PayloadFormat = "ND_ARRAYS"
    transport: Literal["http", "grpc"] = "http"

    def encode_request(self, contract: ModelContract, tiles: Tiles) -> bytes:
        """The body that Earth Engine would send for these tiles."""
        finite = json_numbers.finite(batches.check_tiles(contract, tiles), "instance")
        return json_bodies.body("instances", finite[:, :, 0, 0] if contract.table else finite)

    def decode_request(self, contract: ModelContract, body: bytes) -> Tiles:
        """The tiles in the body of a request."""
        expected = f"[{contract.channels}, height, width]: the bands, each a list of rows"
        if contract.table:
            expected = f"[{contract.channels}]: the properties"
        tiles = _numbers(body, "instances", "instance", (1, 3) if contract.table else (3,), expected)
        if tiles.shape[1] != contract.channels or (contract.table and tiles.shape[2:] not in {(), (1, 1)}):
            raise PayloadError(f"instance 0 has shape {list(tiles.shape[1:])}; expected {expected}")
        return batches.check_finite(contract, tiles.reshape(*tiles.shape[:2], *(tiles.shape[2:] or (1, 1))))

    def encode_response(self, contract: ModelContract, outputs: Outputs) -> bytes:
        """The body that answers with the only output."""
        _only_output(contract)
        (array,) = batches.features(contract, batches.check_outputs(contract, outputs)).values()
        return json_bodies.body("predictions", json_numbers.finite(array, "prediction"))

    def decode_response(self, contract: ModelContract, body: bytes) -> Outputs:
        """The only output in the body of an answer, float32."""
        output = _only_output(contract)
        sizes = ["D", "E"] if contract.table else ["height", "width", "D", "E"]
        rank = len(sizes) - 2 + output.dimensions
        expected = str(sizes[:rank]).replace("'", "")
        ranks = (rank, rank + 1) if output.dimensions == 0 else (rank,)
        return batches.check_outputs(
            contract, {output.name: _numbers(body, "predictions", "prediction", ranks, expected)}
        )

    def instance_bytes(self, contract: ModelContract, width: int, height: int) -> int:
        """Bytes that Earth Engine reckons one tile of this size takes in a request."""
        return BYTES_A_NUMBER * contract.channels * width * height


def _only_output(contract: ModelContract) -> Output:
    if len(contract.outputs) > 1:
        raise PayloadError(
            f"ND_ARRAYS has no names on the wire and carries 1 output, not {len(contract.outputs)}; "
            "use SERIALIZED_TF_TENSORS or GRPC_TF_TENSORS"
        )
    return contract.outputs[0]


def _numbers(
    body: bytes, key: json_bodies.Key, what: str, ranks: tuple[int, ...], expected: str
) -> NDArray[np.float32]:
    """The items under a key as one float32 array `[N, ...]`; an error names the first that is at fault."""
    whole = json_buffers.tiles(body, key)
    if whole is not None and whole.ndim - 1 in ranks:
        return whole
    items = json_bodies.items(body, key)
    return json_numbers.stacked(items, lambda n: f"{what} {n}", ranks, expected, strings=False)
