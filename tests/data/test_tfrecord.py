from __future__ import annotations

import gzip
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.data.tfrecord import read_records
from components.earthengine.errors import DataError
from tests.data.earth_engine import framed, write_records

RECORDS = [b"", b"a", b"bc" * 100]
SOME_RECORDS = st.lists(st.binary(max_size=40), min_size=1, max_size=4)

# The file is written anew for each example.
each_example = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(path: Path, content: bytes) -> list[bytes]:
    path.write_bytes(content)
    return list(read_records(path, "a.tfrecord"))


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_reads_what_tensorflow_writes(tmp_path: Path, compression: str) -> None:
    import tensorflow as tf

    path = tmp_path / "misnamed"
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in RECORDS:
            writer.write(record)
    assert list(read_records(path, "a")) == RECORDS
    ours = tmp_path / "ours"
    write_records(ours, RECORDS, gzip=bool(compression))
    assert list(tf.data.TFRecordDataset(str(ours), compression).as_numpy_iterator()) == RECORDS


@each_example
@given(SOME_RECORDS, st.booleans())
def test_reads_what_was_written(tmp_path: Path, records: list[bytes], packed: bool) -> None:
    write_records(tmp_path / "a", records, gzip=packed)
    assert list(read_records(tmp_path / "a", "a")) == records


def test_members_of_gzip_are_one_file(tmp_path: Path) -> None:
    content = b"".join(gzip.compress(framed(record)) for record in RECORDS)
    assert read(tmp_path / "a", content) == RECORDS


@each_example
@given(SOME_RECORDS, st.data())
def test_cut_anywhere(tmp_path: Path, records: list[bytes], data: Any) -> None:
    frames = [framed(record) for record in records]
    whole = b"".join(frames)
    end = data.draw(st.integers(1, len(whole) - 1))
    ends = [sum(map(len, frames[:number])) for number in range(len(frames) + 1)]
    if end in ends:  # what is left is a whole file
        assert read(tmp_path / "a", whole[:end]) == records[: ends.index(end)]
        return
    number = max(number for number, start in enumerate(ends) if start < end)
    with pytest.raises(DataError, match=rf"^a\.tfrecord: record {number} at byte {ends[number]} ends .* is cut off"):
        read(tmp_path / "a", whole[:end])


@pytest.mark.parametrize("records", [[], RECORDS])
def test_cut_anywhere_when_packed(tmp_path: Path, records: list[bytes]) -> None:
    write_records(tmp_path / "whole", records, gzip=True)
    packed = (tmp_path / "whole").read_bytes()
    assert read(tmp_path / "a", packed) == records
    for end in range(1, len(packed)):
        with pytest.raises(
            DataError, match=r"^a\.tfrecord: record \d at byte \d+ .*(cut off|damaged).*: export it again$"
        ):
            read(tmp_path / "a", packed[:end])


def test_any_damaged_byte_when_packed(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(framed(record) for record in RECORDS))
    for place in range(10, len(packed)):  # after gzip's header, some of which says nothing of what is packed
        damaged = bytearray(packed)
        damaged[place] ^= 255
        with pytest.raises(DataError, match=r"^a\.tfrecord: record \d at byte \d+ of what it unpacks to .*: export it"):
            read(tmp_path / "a", bytes(damaged))


@each_example
@given(SOME_RECORDS, st.data())
def test_any_flipped_bit(tmp_path: Path, records: list[bytes], data: Any) -> None:
    whole = bytearray(b"".join(map(framed, records)))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DataError, match=r"^a\.tfrecord: record \d at byte \d+ has .* whose checksum is wrong"):
        read(tmp_path / "a", bytes(whole))


def test_where_a_checksum_is_wrong(tmp_path: Path) -> None:
    first, second = framed(b"first"), bytearray(framed(b"second"))
    second[12] ^= 1
    said = (
        f"a.tfrecord: record 1 at byte {len(first)} has 6 bytes whose checksum is wrong; it is damaged: export it again"
    )
    with pytest.raises(DataError, match=f"^{re.escape(said)}$"):
        read(tmp_path / "a", first + bytes(second))
    packed = gzip.compress(first + bytes(second))
    with pytest.raises(DataError, match=f"record 1 at byte {len(first)} of what it unpacks to has 6 bytes whose"):
        read(tmp_path / "a", packed)


@each_example
@given(st.binary(min_size=1))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"^a\.tfrecord: record 0 at byte 0"):
        read(tmp_path / "a", content)


@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize("packed", [False, True])
def test_a_length_that_lies_takes_no_memory(tmp_path: Path, length: int, packed: bool) -> None:
    content = framed(length.to_bytes(8, "little"))[12:-4]  # the length alone
    content += framed(content)[-4:] + b"few"
    tracemalloc.start()
    try:
        with pytest.raises(
            DataError, match=f"record 0 at byte 0.* ends after 3 of {length + 4} bytes; the file is cut"
        ):
            read(tmp_path / "a", gzip.compress(content) if packed else content)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_length_like_gzip(tmp_path: Path) -> None:
    record = bytes(0x088B1F)  # its length begins with the bytes that gzip does
    assert framed(record).startswith(b"\x1f\x8b\x08")
    assert read(tmp_path / "a", framed(record)) == [record]


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tfrecord is empty; export it again"):
        read(tmp_path / "a", b"")
    with pytest.raises(DataError, match=r"a\.tfrecord cannot be read: No such file or directory; correct the address"):
        list(read_records(tmp_path / "none", "a.tfrecord"))
    with pytest.raises(DataError, match=r"a\.tfrecord cannot be read: Is a directory; correct the address"):
        list(read_records(tmp_path, "a.tfrecord"))
