"""The environment variables of a serving container, and references to them."""

import re
from collections.abc import Mapping
from typing import Any

_REFERENCE = re.compile(r"\$\$|\$\((?P<name>[A-Za-z_][A-Za-z0-9_]*)\)")


def variables_of(container_spec: Any, aip: Mapping[str, str]) -> dict[str, str]:
    """The variables of a container: those of Vertex AI, and the model's own, which may refer to earlier ones."""
    variables = dict(aip)
    for variable in container_spec.env:
        # AIP_ is Vertex AI's own.
        variables.setdefault(variable.name, expand(variable.value, variables))
    return variables


def expand(text: str, variables: Mapping[str, str]) -> str:
    """A text of ``containerSpec`` with each ``$(NAME)`` replaced by the variable's value.

    As on Vertex AI an unknown name is left as it is, and ``$$`` stands for ``$``.
    """

    def value_of(reference: re.Match[str]) -> str:
        return variables.get(reference["name"], reference[0]) if reference["name"] else "$"

    return _REFERENCE.sub(value_of, text)
