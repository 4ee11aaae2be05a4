"""The interface that every payload format's codec fills, both directions.

The server decodes requests and encodes answers; whoever verifies a deployment encodes requests,
as Earth Engine does, and decodes answers. Both use the same codec.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from components.earthengine.contract import ModelContract, PayloadFormat

Tiles = NDArray[np.float32]
"""Raw values of a batch of tiles, `[N, C, height, width]`, C as `ModelContract.channels` counts."""

Outputs = dict[str, NDArray[np.generic]]
"""The answers to a batch by the output's name: `[N, height, width]`, `[N, height, width, D]` for a
vector a pixel, `[N, height, width, D, E]` for a matrix."""


class Codec(Protocol):
    """One payload format. Every method raises PayloadError, naming the instance and the band."""

    format: PayloadFormat
    transport: Literal["http", "grpc"]

    def encode_request(self, contract: ModelContract, tiles: Tiles) -> bytes:
        """The body that Earth Engine would send for these tiles."""

    def decode_request(self, contract: ModelContract, body: bytes) -> Tiles:
        """The tiles in the body of a request."""

    def encode_response(self, contract: ModelContract, outputs: Outputs) -> bytes:
        """The body that answers with these outputs."""

    def decode_response(self, contract: ModelContract, body: bytes) -> Outputs:
        """The outputs in the body of an answer, float32 unless the format names a type."""

    def instance_bytes(self, contract: ModelContract, width: int, height: int) -> int:
        """Bytes that one tile of this size takes in a request (its share of the body, rounded up)."""
