"""Hostile samples beside a good trained model, and hostile data to train on."""

from __future__ import annotations

import gzip
import io
import os
import warnings
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import rasterio
from pyarrow import parquet
from rasterio.errors import NotGeoreferencedWarning

from tests.hostile import contracts, torch_models
from tests.hostile.corpus import hostile
from tests.hostile.zipped import ZEROS, bomb, rewrite

NPZ, TIFF = "sample.npz", "scene.tif"


def claim(path: Path, name: str, shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Have an array of an .npz claim another shape, in a header of the same length."""

    def changed(entry: str, content: bytes) -> bytes:
        if entry != name:
            return content
        old, new = repr(shape).encode(), repr(other).encode()
        return content.replace(
            old + b", }" + b" " * max(len(new) - len(old), 0), new + b", }" + b" " * max(len(old) - len(new), 0)
        )

    path.rename(path.with_suffix(".old"))
    rewrite(path.with_suffix(".old"), path, changed)
    path.with_suffix(".old").unlink()


def _sample(folder: Path, **arrays: Any) -> None:
    torch_models.harmless(folder)
    plane = np.ones((16, 16), "f4")
    np.savez(folder / NPZ, **({"red": plane, "green": plane} | arrays))


def harmless(folder: Path) -> None:
    _sample(folder)


@hostile("sample", "claims float32 of shape")
def array_of_terabytes(folder: Path, mark: Path) -> None:
    _sample(folder)
    claim(folder / NPZ, "red.npy", (16, 16), (10**6, 10**6))


@hostile("sample", "claims float32 of shape")
def array_of_gigabytes(folder: Path, mark: Path) -> None:
    """What a machine has, so that no allocator refuses it."""
    _sample(folder)
    claim(folder / NPZ, "red.npy", (16, 16), (30_000, 30_000))


@hostile("sample", "cannot be used as sample")
def array_of_a_negative_size(folder: Path, mark: Path) -> None:
    _sample(folder)
    claim(folder / NPZ, "red.npy", (16, 16), (-16, -16))


@hostile("sample", "cannot be used as sample")
def array_of_objects(folder: Path, mark: Path) -> None:
    _sample(folder, red=np.array([torch_models.Opens(mark)], object))


@hostile("sample", "times the archive's")
def npz_bomb(folder: Path, mark: Path) -> None:
    torch_models.harmless(folder)
    bomb(folder / NPZ, "red.npy", 256)


@hostile("sample", "leads out of the directory by a link")
def sample_outside(folder: Path, mark: Path) -> None:
    _sample(folder)
    outside = folder.parent / f"{folder.name}-outside.npz"
    (folder / NPZ).rename(outside)
    (folder / NPZ).symlink_to(outside)


@hostile("sample", "is a pipe")
def sample_pipe(folder: Path, mark: Path) -> None:
    torch_models.harmless(folder)
    os.mkfifo(folder / NPZ)


def _tiff(folder: Path, size: int = 16, **options: Any) -> Path:
    torch_models.harmless(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            folder / TIFF, "w", driver="GTiff", count=2, height=size, width=size, dtype="float32", **options
        ) as file:
            if size < 1000:
                file.write(np.ones((2, size, size), "f4"))
            file.descriptions = ("red", "green")
    return folder / TIFF


def harmless_tiff(folder: Path) -> None:
    _tiff(folder)


_VRT = """<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="0">{0}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>
</VRTDataset>"""


@hostile("sample", "cannot be read as GeoTIFF")
def tiff_that_is_a_vrt(folder: Path, mark: Path) -> None:
    torch_models.harmless(folder)
    (folder / TIFF).write_text(_VRT.format("/vsicurl/http://127.0.0.1:9/x.tif"))


@hostile("sample", "scene.tif.msk is no TIFF")
def mask_that_is_a_vrt(folder: Path, mark: Path) -> None:
    """GDAL opens it by itself, and it leads to any file or URL."""
    _tiff(folder).with_suffix(".tif.msk").write_text(_VRT.format("/vsicurl/http://127.0.0.1:9/x.tif"))


@hostile("sample", "scene.tif.ovr is no TIFF")
def overview_that_is_a_vrt(folder: Path, mark: Path) -> None:
    _tiff(folder).with_suffix(".tif.ovr").write_text(_VRT.format("/etc/passwd"))


@hostile("sample", "one of its blocks takes")
def tiff_of_one_block(folder: Path, mark: Path) -> None:
    """Of 80 GB, of which none is written."""
    _tiff(folder, 100_000, compress="deflate", SPARSE_OK=True, blockysize=100_000, interleave="pixel")


# Data to train on.


def _classes(folder: Path) -> None:
    contracts.write(folder, outputs=[{"name": "total", "dimensions": 0}])


def harmless_data(folder: Path) -> None:
    _classes(folder)
    (folder / "data.csv").write_text("red,green,total\n1,2,3\n")


def _framed(content: bytes) -> bytes:
    def masked(part: bytes) -> bytes:
        crc: int = google_crc32c.value(part)
        return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    length = len(content).to_bytes(8, "little")
    return length + masked(length) + content + masked(content)


def _packed(path: Path, head: bytes, mebibytes: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(mebibytes):
            file.write(ZEROS)


@hostile("data", "unpacks to more than")
def csv_bomb(folder: Path, mark: Path) -> None:
    _classes(folder)
    _packed(folder / "data.csv.gz", b"red,green,total\n", 256)


@hostile("data", "its first line")
def csv_of_columns(folder: Path, mark: Path) -> None:
    _classes(folder)
    (folder / "data.csv").write_text("red,green,total" + ",x" * 5_000_000)


@hostile("data", "claims .* values")
def parquet_of_rows(folder: Path, mark: Path) -> None:
    """A thousand million equal rows in some kilobytes."""
    _classes(folder)
    rows = 1 << 24
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([1.0]))
    table = pa.table({"red": column, "green": column, "total": column})
    with parquet.ParquetWriter(folder / "data.parquet", table.schema, compression="zstd") as writer:
        for _ in range(6):
            writer.write_table(table)


@hostile("data", "cannot be read as Parquet")
def parquet_of_noise(folder: Path, mark: Path) -> None:
    _classes(folder)
    (folder / "data.parquet").write_bytes(b"PAR1" + np.random.default_rng(0).bytes(1000) + b"\xff\xff\xff\x7fPAR1")


@hostile("data", "bytes that are read of one")
def tfrecord_bomb(folder: Path, mark: Path) -> None:
    """A record of zeros without an end, a two-hundredth of its size."""
    _classes(folder)
    length = (2048 << 20).to_bytes(8, "little")
    head = _framed(length)[12:-4]
    _packed(folder / "data.tfrecord.gz", head + _framed(head)[-4:], 256)


@hostile("data", "unpacks to more than")
def tfrecord_bomb_of_small_records(folder: Path, mark: Path) -> None:
    """Each of which is right."""
    from components.earthengine.payloads.messages_pb2 import Example

    _classes(folder)
    example = Example()
    for name in ("red", "green", "total"):
        example.features.feature[name].float_list.value.extend([0.0] * 1024)
    record = _framed(example.SerializeToString())
    many = record * (16 * (1 << 20) // len(record))
    packed = io.BytesIO()
    with gzip.open(packed, "wb") as file:
        file.write(many)
    # Members of gzip one after the other are one file.
    (folder / "data.tfrecord.gz").write_bytes(packed.getvalue() * 12)


@hostile("data", "ends after")
def tfrecord_that_claims_terabytes(folder: Path, mark: Path) -> None:
    _classes(folder)
    head = _framed((1 << 40).to_bytes(8, "little"))[12:-4]
    (folder / "data.tfrecord").write_bytes(head + _framed(head)[-4:] + b"few")
