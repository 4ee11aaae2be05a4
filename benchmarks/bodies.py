"""Requests, encoded once before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from components.earthengine.contract import ModelContract, PayloadFormat
from components.earthengine.payloads import Tiles, codec


@dataclass(frozen=True)
class Request:
    """A request in a payload format, and what it is called in the results."""

    name: str
    format: PayloadFormat
    body: bytes

    @property
    def transport(self) -> str:
        """`http` or `grpc`."""
        return codec(self.format).transport


def encoded(payload_format: PayloadFormat, contract: ModelContract, tiles: Tiles) -> Request:
    """The request that Earth Engine would send for tiles."""
    return Request(payload_format, payload_format, codec(payload_format).encode_request(contract, tiles))


def raw_json(contract: ModelContract, tiles: Tiles) -> Request:
    """A request in RAW_JSON, its values numbers."""
    instances = [dict(zip(_names(contract), tile, strict=True)) for tile in tiles]
    body = orjson.dumps({"instances": instances}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Request("RAW_JSON of numbers", "RAW_JSON", body)


def raw_json_of_strings(contract: ModelContract, tiles: Tiles) -> Request:
    """A request in RAW_JSON, its values numeric strings, as Earth Engine's guide to payload formats has them."""
    instances = [dict(zip(_names(contract), tile.astype(str).tolist(), strict=True)) for tile in tiles]
    return Request("RAW_JSON of strings", "RAW_JSON", orjson.dumps({"instances": instances}))


def _names(contract: ModelContract) -> list[str]:
    return [band.name for band in contract.bands]
