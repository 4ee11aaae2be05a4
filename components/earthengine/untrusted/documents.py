"""YAML from outside: plain values alone, as many as are written, each key once."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import yaml

# A contract has some hundred bytes; one of a thousand bands has a hundred thousand. PyYAML takes a second for this.
MAX_BYTES = 256 << 10
# Values with aliases written out, by which a few lines stand for billions ("billion laughs"): without aliases a text
# of MAX_BYTES has no more, as each value takes a sign and what divides it from the next.
MAX_VALUES = 128 << 10
# The contract's deepest value stands 4 levels down.
MAX_DEPTH = 32
# A number's characters: YAML reads 1:1:1 in base 60, for which Python takes ten seconds of 200,000.
MAX_DIGITS = 100
_NUMBERS = {"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}


def read_text(path: Path) -> str:
    """The UTF-8 text of an ordinary file of at most `MAX_BYTES`.

    Raises:
        ValueError: it is larger, no text, or no ordinary file, such as a pipe, which is not waited for.
        OSError: it cannot be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no ordinary file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than the {MAX_BYTES:,} bytes that are read")
    return content.decode("utf-8")


def load(text: str) -> Any:
    """The document in a YAML text, made by PyYAML's safe loader: no tag makes an object of Python's.

    Raises:
        yaml.YAMLError: it is not YAML.
        ValueError: it is too large, too deep, holds itself, or has a key twice or a number without end.
        Exception: what PyYAML's constructors raise for values that they cannot make.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text):,} characters; at most {MAX_BYTES:,} are read")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        values = _values(node, {}, 0)
        if values > MAX_VALUES:
            raise ValueError(
                f"it holds {'more than 10^30' if values > 10**30 else values} values with its aliases written out; at "
                f"most {MAX_VALUES:,} are taken"
            )
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _values(node: yaml.Node, known: dict[yaml.Node, int], depth: int) -> int:
    """How many values a node stands for, aliases written out; those counted already are known, 0 while they are."""
    if node in known:
        if not known[node]:
            raise ValueError("it holds itself by an alias")
        return known[node]
    if depth > MAX_DEPTH:
        raise ValueError(f"its lists and keys lie more than {MAX_DEPTH} deep in one another")
    if node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(node.value):,} characters, at line {node.start_mark.line + 1}")
    known[node] = 0
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_values(each, known, depth + 1) for each in node.value)
    elif isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys and key.tag != "tag:yaml.org,2002:merge":
                    raise ValueError(f"it has the key {key.value[:80]} twice, at line {key.start_mark.line + 1}")
                keys.add(key.value)
            total += _values(key, known, depth + 1) + _values(value, known, depth + 1)
    known[node] = total
    return total
