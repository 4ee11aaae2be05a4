"""The lock files hold what pyproject.toml pins, each package with its hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "containers" / "requirements").glob("*.txt"))
STEPS = ["vertex", "export", "serving", "train"]
EXTRAS = {
    "steps-vertex-cpu": ["vertex"],
    "vertex-local": ["local"],
    **{f"serving-pytorch-{each}": ["serving", "pytorch"] for each in ("cpu", "cuda")},
    **{f"steps-pytorch-{each}": [*STEPS, "pytorch"] for each in ("cpu", "cuda")},
    **{f"serving-tensorflow-{each}": ["serving", f"tensorflow-{each}"] for each in ("cpu", "cuda")},
    **{f"steps-tensorflow-{each}": [*STEPS, f"tensorflow-{each}"] for each in ("cpu", "cuda")},
}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_package_has_its_hashes(lock: Path) -> None:
    entries = re.split(r"\n(?=\S)", lock.read_text())
    packages = [entry for entry in entries if not entry.startswith("#")]
    assert len(packages) > 20
    for entry in packages:
        assert re.fullmatch(r"[a-z0-9-]+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+\n?", entry), entry


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_it_holds_what_is_pinned(lock: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if lock.stem == "trigger":
        lines = (ROOT / "containers" / "trigger" / "requirements.in").read_text().splitlines()
        pinned, wanted = [Requirement(line) for line in lines if not line.startswith("#")], []
    else:
        pinned, wanted = [Requirement(pin) for pin in project["dependencies"]], [*EXTRAS[lock.stem]]
    for extra in wanted:
        for requirement in map(Requirement, project["optional-dependencies"][extra]):
            if requirement.name == project["name"]:
                wanted += requirement.extras
            else:
                pinned.append(requirement)
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ +]+)", lock.read_text(), re.MULTILINE))
    for requirement in pinned:
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert pinned


def test_without_a_gpu_there_is_nothing_of_nvidias() -> None:
    for lock in LOCKS:
        assert ("\nnvidia-" in lock.read_text()) == lock.stem.endswith("-cuda"), lock
