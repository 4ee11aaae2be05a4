from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.earthengine.payloads import json_strings

NAMES = ["red", "green"]
TEXTS = st.text("AZaz09-_=+/ .é", max_size=5)


@given(
    instances=st.lists(st.fixed_dictionaries({"red": TEXTS, "green": TEXTS}), min_size=1, max_size=4),
    indent=st.sampled_from([None, 0, 2]),
    turned=st.booleans(),
)
def test_plain_strings_are_read_as_a_parser_reads_them(
    instances: list[dict[str, str]], indent: int | None, turned: bool
) -> None:
    sent = [{name: each[name] for name in (reversed(NAMES) if turned else NAMES)} for each in instances]
    body = json.dumps({"instances": sent}, indent=indent, ensure_ascii=False).encode()
    found = json_strings.columns(body, NAMES)
    assert found == {name: [each[name].encode() for each in instances] for name in NAMES}


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [{"red": "a"}]},
        {"instances": [{"red": "a", "green": "b", "blue": "c"}]},
        {"instances": [{"red": "a", "green": 1}]},
        {"instances": [{"red": "a", "green": None}]},
        {"instances": [{"red": "a", "green": {"b64": "b"}}]},
        {"instances": [{"red": "a", "green": 'b"'}]},
        {"instances": [{"red": "a", "green": "b"}, {"green": "d", "red": "c"}]},
        {"instances": [{"red": "a", "green": "b"}], "parameters": {"x": "y"}},
        {"instances": [["red", "a", "green", "b"]]},
        {"instances": []},
        {"instance": [{"red": "a", "green": "b"}]},
        ["instances", "red", "a", "green", "b"],
        "instances",
    ],
)
def test_anything_else_is_left_to_the_parser(document: Any) -> None:
    assert json_strings.columns(json.dumps(document).encode(), NAMES) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"instances":[{"red":"a","green":"b"}]',
        b'{"instances":[{"red":"a","green":"b"}]}}',
        b'{"instances":[{"red":"a" "green":"b"}]}',
        b'{"instances":[{"red":"a","green":"b"},]}',
        b'{"instances":[{"red":"a","green":"b"}{"red":"a","green":"b"}]}',
        b'{"instances":[{"red":"a","red":"b"}]}',
        b'{"instances":{"red":"a","green":"b"}}',
    ],
)
def test_what_is_no_such_json_is_left_to_the_parser(body: bytes) -> None:
    assert json_strings.columns(body, NAMES) is None
