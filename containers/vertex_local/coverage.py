"""Which methods of aiplatform_v1 the emulator has, for its README.md.

``python -m containers.vertex_local.coverage`` writes the table there.
"""

import re
import sys
from pathlib import Path

from .api.methods import implemented, method_names
from .app import SERVICES

README = Path(__file__).with_name("README.md")
_TABLE = re.compile(r"(?<=<!-- coverage: begin -->\n).*(?=<!-- coverage: end -->)", re.DOTALL)


def table() -> str:
    """A row of Markdown a service: its methods that are implemented, and those that are not."""
    rows = [_row(service, implementation) for service, implementation in SERVICES.items()]
    return "\n".join(["| service | implemented | not implemented |", "|---|---|---|", *rows])


def with_table(readme: str) -> str:
    """The text of README.md with the table as it is now."""
    return _TABLE.sub(lambda _: f"\n{table()}\n\n", readme)


def _row(service: str, implementation: type) -> str:
    names = method_names(service)
    done = {method.name for method, _ in implemented({service: implementation})}
    here, missing = (", ".join(name for name in names if (name in done) == wanted) for wanted in (True, False))
    return f"| {service}, {len(done)} of {len(names)} | {here} | {missing} |"


def main() -> int:
    """Writes the table."""
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
