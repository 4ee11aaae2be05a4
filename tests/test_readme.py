from __future__ import annotations

import re
from pathlib import Path

from components.earthengine.contract import ModelContract

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_contract_that_users_copy_is_valid() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    contract = ModelContract.parse(example)
    assert contract.patch == (80, 80)
    assert [output.name for output in contract.outputs] == ["landcover"]


def test_every_make_target_and_file_that_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert named
    assert named <= targets
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / path).exists(), path


def test_what_shows_that_boundaries_hold_exists() -> None:
    shown = re.findall(r"\| ([^|]*tests/[^|]*) \|$", (ROOT / "SECURITY.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(shown) == 10
    for row in shown:
        folder = ""
        for name in row.split(", "):
            path = ROOT / (name if "/" in name else f"{folder}/{name}")
            folder = str(path.parent.relative_to(ROOT))
            assert path.exists(), path
