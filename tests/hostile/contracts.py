"""Hostile model.yaml files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from components.earthengine.contract import FILE_NAME
from tests.conftest import document
from tests.hostile.corpus import hostile


def write(folder: Path, text: str | bytes | None = None, **changes: Any) -> None:
    """Write a model.yaml: a text, or the small valid one with changes."""
    text = yaml.safe_dump(document(**changes)) if text is None else text
    (folder / FILE_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())


@hostile("contract", "is not YAML")
def tag_that_runs_a_command(folder: Path, mark: Path) -> None:
    write(folder, f"name: !!python/object/apply:os.system ['touch {mark}']")


@hostile("contract", "is not YAML")
def tag_that_makes_an_object(folder: Path, mark: Path) -> None:
    write(folder, f"name: !!python/object/new:subprocess.Popen [['touch', '{mark}']]")


@hostile("contract", "is not YAML")
def tag_that_imports_a_module(folder: Path, mark: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
    write(folder, "name: !!python/module:evil ''")


@hostile("contract", "more than 10\\^30|values with its aliases")
def aliases_that_laugh(folder: Path, mark: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 40)]
    write(folder, "\n".join([*lines, "bands: *a39"]))


@hostile("contract", "values with its aliases")
def aliases_of_a_property(folder: Path, mark: Path) -> None:
    """Within each other they are valid, and would be 400 million strings."""
    strings = ", ".join(f"v{n}" for n in range(20_000))
    lines = [yaml.safe_dump(document(properties=None)), "properties:", f"- &p {{name: a, values: [{strings}]}}"]
    write(folder, "\n".join([*lines, *["- *p"] * 20_000]))


@hostile("contract", "holds itself")
def alias_of_itself(folder: Path, mark: Path) -> None:
    write(folder, "bands: &a [*a]")


@hostile("contract", "maximum recursion depth|deep in one another")
def depth(folder: Path, mark: Path) -> None:
    write(folder, "[" * 100_000)


@hostile("contract", "deep in one another")
def depth_that_python_bears(folder: Path, mark: Path) -> None:
    write(folder, "bands: " + "[" * 60 + "]" * 60)


@hostile("contract", "bytes that are read")
def size(folder: Path, mark: Path) -> None:
    with (folder / FILE_NAME).open("wb") as file:
        file.truncate(1 << 40)  # a file with a hole of a terabyte


@hostile("contract", "the key framework twice")
def key_twice(folder: Path, mark: Path) -> None:
    write(folder, yaml.safe_dump(document()) + "\nframework: tensorflow\n")


@hostile("contract", "not YAML")
def nul(folder: Path, mark: Path) -> None:
    write(folder, b"name: a\0b")


@hostile("contract", "UTF-8")
def another_encoding(folder: Path, mark: Path) -> None:
    write(folder, yaml.safe_dump(document()).encode("utf-16"))


@hostile("contract", "ordinary file")
def pipe(folder: Path, mark: Path) -> None:
    os.mkfifo(folder / FILE_NAME)


@hostile("contract", "ordinary file")
def device(folder: Path, mark: Path) -> None:
    (folder / FILE_NAME).symlink_to("/dev/zero")


@hostile("contract", "cannot be read")
def link_to_itself(folder: Path, mark: Path) -> None:
    (folder / FILE_NAME).symlink_to(FILE_NAME)


@hostile("contract", "tile.*less than or equal to 4096")
def tile(folder: Path, mark: Path) -> None:
    write(folder, tile=[10**9, 10**9])


@hostile("contract", "overlap.*less than or equal to 2048")
def overlap(folder: Path, mark: Path) -> None:
    write(folder, overlap=[10**9, 10**9])


@hostile("contract", r"has [\d,]+ values; at most")
def patch(folder: Path, mark: Path) -> None:
    write(folder, tile=[4096, 4096], overlap=[2048, 2048])


@hostile("contract", r"has [\d,]+ values; at most")
def shapes_of_bands(folder: Path, mark: Path) -> None:
    """Each allowed by itself: 1000 bands of 16 million channels."""
    write(folder, bands=[{"name": f"b{n}", "shape": [4096, 4096]} for n in range(1000)])


@hostile("contract", r"has [\d,]+ values; at most")
def shapes_of_properties(folder: Path, mark: Path) -> None:
    properties = [{"name": f"p{n}", "shape": [4096, 4096]} for n in range(1000)]
    write(folder, bands=None, tile=None, scale=None, properties=properties)


@hostile("contract", r"multiple of 4096.* has [\d,]+ values; at most")
def multiple(folder: Path, mark: Path) -> None:
    write(folder, tile=[1, 1], model={"file": "net.pt", "multiple": 4096}, bands=[{"name": "b", "shape": [4096]}])


@hostile("contract", "bands.*at most 10000")
def number_of_bands(folder: Path, mark: Path) -> None:
    """All of one name: comparing each with each would take minutes."""
    lines = [yaml.safe_dump(document(bands=None)), "bands:", "- &b {name: b}"]
    write(folder, "\n".join([*lines, *["- *b"] * 20_000]))


@hostile("contract", "outputs.*at most 10000")
def number_of_outputs(folder: Path, mark: Path) -> None:
    lines = [yaml.safe_dump(document(outputs=None)), "outputs:", "- &b {name: b, dimensions: 0}"]
    write(folder, "\n".join([*lines, *["- *b"] * 20_000]))


@hostile("contract", "a number of 200,000 characters")
def number_of_digits(folder: Path, mark: Path) -> None:
    write(folder, f"tile: [{'9' * 200_000}, 1]")


@hostile("contract", "a number of 200,001 characters")
def number_in_sixties(folder: Path, mark: Path) -> None:
    """YAML reads 1:1:1 as a number of base 60."""
    write(folder, yaml.safe_dump(document(scale=None)) + "scale: 1" + ":1" * 100_000)


@hostile("contract", "must lie beside model.yaml")
def file_that_leads_out(folder: Path, mark: Path) -> None:
    write(folder, model={"file": "../../../../etc/passwd"})


@hostile("contract", "must lie beside model.yaml")
def file_of_the_system(folder: Path, mark: Path) -> None:
    write(folder, model={"file": "/etc/passwd"})


@hostile("contract", "must lie beside model.yaml")
def code_that_leads_out(folder: Path, mark: Path) -> None:
    (folder.parent / "net.py").write_text(f"def build():\n    open({str(mark)!r}, 'w')")
    write(folder, model={"file": "net.pt", "code": "../net.py:build"})


@hostile("contract", "model.code")
def code_of_the_system(folder: Path, mark: Path) -> None:
    write(folder, model={"file": "net.pt", "code": "/usr/lib/python3/net.py:build"})
