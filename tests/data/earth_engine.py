"""Files as Earth Engine's exports are: TFRecords of patches or points, and the mixer.json beside them."""

from __future__ import annotations

import gzip as gzip_module
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from components.earthengine.payloads.messages_pb2 import Example


def write_patches(path: Path, features: Mapping[str, Any], *, gzip: bool = False) -> None:
    """Write arrays `[N, H, W]`, or `[N]` of points, as N records with a float_list each; names of classes as bytes."""
    write_records(path, (example(values).SerializeToString() for values in _of_each(features)), gzip=gzip)


def write_records(path: Path, records: Iterable[bytes], *, gzip: bool = False) -> None:
    content = b"".join(framed(record) for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip_module.compress(content) if gzip else content)


def write_mixer(path: Path, width: int, height: int) -> None:
    """What Earth Engine writes beside patches, of which only the size matters here."""
    mixer = {"projection": {"crs": "EPSG:4326"}, "patchDimensions": [width, height], "patchesPerRow": 1}
    path.write_text(json.dumps(mixer), encoding="utf-8")


def example(features: Mapping[str, Any]) -> Example:
    """A tf.Example: numbers row by row as a float_list, as Earth Engine makes of all; text as a bytes_list."""
    made = Example()
    for name, values in features.items():
        array = np.asarray(values)
        feature = made.features.feature[name]
        if array.dtype.kind == "U":
            feature.bytes_list.value.extend(str(text).encode() for text in array.flat)
        else:
            feature.float_list.value.extend(array.ravel().tolist())
    return made


def framed(record: bytes) -> bytes:
    """A record as TFRecord frames it."""
    length = len(record).to_bytes(8, "little")
    return length + _masked(length) + record + _masked(record)


def _masked(content: bytes) -> bytes:
    crc: int = google_crc32c.value(content)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) % (1 << 32)).to_bytes(4, "little")


def _of_each(features: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    return (dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True))
