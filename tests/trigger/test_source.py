"""The function as a folder of its own, as it is deployed from source."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from containers import trigger
from containers.trigger.events import LOG_FILTER
from tests.vertex_local.conftest import Emulator

from .conftest import pointed_at, upload
from .function import environment, running

SOURCE = Path(str(trigger.__file__)).parent
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_it_imports_nothing_of_the_project_but_itself() -> None:
    for path in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, f"{path.name} imports from above itself"
                names = [str(node.module)] if not node.level else []
            assert not [name for name in names if re.match(r"(components|containers|pipeline)\b", name)], path.name


def test_it_is_deployed_with_what_it_is_tested_with() -> None:
    required = [line for line in (SOURCE / "requirements.in").read_text().splitlines() if not line.startswith("#")]
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    base = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    assert sorted(required) == sorted([*extras["trigger"], *(pin for pin in base if pin.startswith("PyYAML"))])


def test_the_log_sink_is_made_with_the_filter() -> None:
    [program] = re.findall(r"--log-filter=\"\$\(python -c '(.*)'\)\"", (PYPROJECT.parent / "docs/cloud.md").read_text())
    printed = subprocess.run([sys.executable, "-c", program], cwd=PYPROJECT.parent, capture_output=True, check=True)
    assert printed.stdout.decode() == f"{LOG_FILTER}\n"


@pytest.mark.slow
def test_the_folder_alone_is_the_function(emulator: Emulator, tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    generation = upload(emulator, "trained/alone")
    # As the buildpack of Cloud Run functions starts it; FUNCTION_TARGET comes from --entry-point.
    variables = environment(FUNCTION_TARGET="deploy", HOST="127.0.0.1", **pointed_at(emulator))
    variables.pop("PYTHONPATH", None)
    command = [str(Path(sys.executable).with_name("functions-framework"))]
    with running(tmp_path / "log", variables, command, tmp_path / "source") as function:
        status, line = function.finalize("models", "trained/alone/model.yaml", generation)
    assert (status, line["message"].partition(" ")[0]) == (200, "started")
