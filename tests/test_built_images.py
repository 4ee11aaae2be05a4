from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.built_images import Images, read_digests
from components.earthengine.errors import ParameterError

DIGEST = f"sha256:{'0a' * 32}"

_digests = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _digests,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digests") / "digests.json"


def test_by_tag() -> None:
    assert Images("host/project/name", "v1").uri("steps-vertex") == "host/project/name/steps-vertex:v1"
    assert Images("local").of_framework("tensorflow") == {
        "steps-vertex": "local/steps-vertex:latest",
        "steps-tensorflow": "local/steps-tensorflow:latest",
        "serving-tensorflow": "local/serving-tensorflow:latest",
    }


def test_by_digest(file: Path) -> None:
    file.write_text(json.dumps({"steps-vertex": DIGEST}))
    images = Images.named("host/project/name", "v1", file)
    assert images.uri("steps-vertex") == f"host/project/name/steps-vertex@{DIGEST}"
    assert Images.named("host", "v1", None) == Images("host", "v1")


@pytest.mark.parametrize(
    ("digests", "told"),
    [
        ({}, "no image steps-vertex, only none at all"),
        ({"trigger": DIGEST, "steps-vertex": DIGEST}, "no image steps-pytorch, only steps-vertex, trigger"),
    ],
)
def test_no_digest_of_an_image(digests: dict[str, str], told: str) -> None:
    with pytest.raises(ParameterError, match=f"--digests names {told}; .*make push"):
        Images("images", digests=digests).of_framework("pytorch")


@given(st.dictionaries(st.text(), _digests))
def test_digests_are_read(file: Path, digests: dict[str, str]) -> None:
    file.write_text(json.dumps(digests), encoding="utf-8")
    assert read_digests(file) == digests


@given(st.binary(max_size=40) | _json.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_digests_is_named(file: Path, content: bytes) -> None:
    """Whatever the file holds, it is read or refused in one line with its name."""
    file.write_bytes(content)
    try:
        digests = read_digests(file)
    except ParameterError as error:
        said = str(error)
        assert said.startswith(f"--digests {file}")
        assert said.endswith("give the file that `make push` has written")
        assert len(said.splitlines()) == 1
    else:
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each, re.ASCII) for each in digests.values())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "cannot be read as JSON: Expecting value"),
        ("{'steps-vertex': 1}", "cannot be read as JSON: Expecting property name"),
        ("[" * 100_000, "cannot be read as JSON: "),
        ([DIGEST], "holds a list, not a mapping"),
        (None, "holds a NoneType, not a mapping"),
        ({"trigger": None}, "'trigger' is None; allowed: sha256: and 64 digits"),
        ({"trigger": DIGEST[:-1]}, "'trigger' is 'sha256:"),
        ({"trigger": f"{DIGEST}\n"}, "'trigger' is 'sha256:"),
        ({"trigger": DIGEST.upper()}, "'trigger' is 'SHA256:"),
        ({"trigger": DIGEST.removeprefix("sha256:")}, "'trigger' is '0a0a"),
        ({"trigger": f"host/trigger@{DIGEST}"}, "'trigger' is 'host/trigger@sha"),
    ],
)
def test_bad_file(file: Path, content: Any, fault: str) -> None:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ParameterError, match=re.escape(f"--digests {file}") + ":? " + re.escape(fault)):
        read_digests(file)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"none\.json cannot be read as JSON: .*No such file"):
        read_digests(tmp_path / "none.json")
