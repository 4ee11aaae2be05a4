"""The contract of the small models that are served here, apart from all that needs pytest."""

from __future__ import annotations

_TEXT = """
name: mixed
framework: {framework}
payload_format: SERIALIZED_TF_TENSORS
model: {{file: source}}
bands: [{{name: red}}, {{name: green}}]
tile: [4, 4]
overlap: [1, 2]
scale: 10
outputs: [{{name: total, dimensions: 0}}{more}]
"""
_TWO = ", {name: pair, dimensions: 1}"


def contract_text(framework: str, *, two: bool = False) -> str:
    """The text of model.yaml, with one output or two."""
    return _TEXT.format(framework=framework, more=_TWO if two else "")
