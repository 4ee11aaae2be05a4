"""Makes hostile zips of good ones."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

# One mebibyte of zeros, which deflate shrinks a thousand times.
ZEROS = bytes(1 << 20)


def rewrite(
    source: Path,
    target: Path,
    changed: Callable[[str, bytes], bytes | None],
    further: Mapping[str, bytes] | None = None,
) -> None:
    """Write a zip again, each entry as a function has it, None where it is left out, and further ones after."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            if (content := changed(entry.filename, old.read(entry))) is not None:
                new.writestr(entry.filename, content)
        for name, content in (further or {}).items():
            new.writestr(name, content)


def with_entry(source: Path, target: Path, name: str, content: bytes = b"x") -> None:
    """Write a zip again with one entry more, whatever its name."""
    rewrite(source, target, lambda _, content: content, {"\1" * len(name): content})
    target.write_bytes(target.read_bytes().replace(b"\1" * len(name), name.encode()))


def with_link(source: Path, target: Path, name: str, to: str) -> None:
    """Write a zip again with a symbolic link."""
    rewrite(source, target, lambda _, content: content)
    with zipfile.ZipFile(target, "a") as archive:
        link = zipfile.ZipInfo(name)
        link.external_attr = 0o120777 << 16
        archive.writestr(link, to)


def bomb(target: Path, name: str, mebibytes: int, further: Mapping[str, bytes] | None = None) -> None:
    """Write a zip with one entry that unpacks to so much, 200 times its size; packed better it takes long to make."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for other, content in (further or {}).items():
            archive.writestr(other, content)
        with archive.open(name, "w", force_zip64=True) as entry:
            for _ in range(mebibytes):
                entry.write(ZEROS)


def declare(target: Path, name: str, size: int) -> None:
    """Have an entry of a zip declare another size, in its own header and in the archive's directory."""
    with zipfile.ZipFile(target) as archive:
        entry = archive.getinfo(name)
        start = archive.start_dir
    content = bytearray(target.read_bytes())
    content[entry.header_offset + 22 : entry.header_offset + 26] = struct.pack("<I", size)
    place = start
    while content[place + 46 : place + 46 + len(name)] != name.encode():
        place = content.index(b"PK\1\2", place + 4)
    content[place + 24 : place + 28] = struct.pack("<I", size)
    target.write_bytes(content)


def flag(target: Path, bits: int) -> None:
    """Set bits of the flags of every entry, as 1 for an encrypted one."""
    content = bytearray(target.read_bytes())
    with zipfile.ZipFile(target) as archive:
        for entry in archive.infolist():
            content[entry.header_offset + 6] |= bits
        place = archive.start_dir
    while (place := content.find(b"PK\1\2", place)) >= 0:
        content[place + 8] |= bits
        place += 4
    target.write_bytes(content)
