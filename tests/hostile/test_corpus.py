"""Every file of the corpus is refused: by an error that says why, with nothing run, written outside, or allocated."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Figure
from tests.hostile import archives, contracts, samples, tensorflow_models, torch_models
from tests.hostile.corpus import CORPUS

# What refusing may take beyond what the process has, once it has read a harmless file of the kind.
LARGEST_BYTES = 256 << 20
# To import TensorFlow and to refuse some dozen files.
_SECONDS = 240

_HARMLESS: dict[str, Callable[[Path], object]] = {
    "contract": contracts.write,
    "pytorch": torch_models.harmless,
    "tensorflow": tensorflow_models.harmless,
    "sample": torch_models.harmless,
    "server": archives.harmless,
    "golden": archives.harmless_golden,
    "data": samples.harmless_data,
}
_CASES = [(reader, name) for reader, files in CORPUS.items() for name in files]


@dataclass
class Refusals:
    """What a reader said to each file of its corpus, read in one process."""

    said: dict[str, dict[str, Any]]
    log: str
    marks: dict[str, Path]
    strays: list[str]


_READ: dict[str, Refusals] = {}


def _refusals(reader: str, folder: Path) -> Refusals:
    """Write a reader's corpus and have it read."""
    harmless = folder / "harmless"
    harmless.mkdir()
    _HARMLESS[reader](harmless)
    marks = {}
    for name, hostile in CORPUS[reader].items():
        (folder / "files" / name).mkdir(parents=True)
        marks[name] = folder / f"made-by-{name}"
        hostile.write(folder / "files" / name, marks[name])
    before = sorted(folder.rglob("*"))
    places = [str(folder / "files" / name) for name in CORPUS[reader]]
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.reader", reader, str(harmless), *places],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"folder"')]
    strays = [str(path) for path in sorted(folder.rglob("*")) if path not in before and "__pycache__" not in path.parts]
    return Refusals({line["folder"]: line for line in lines}, done.stderr[-3000:], marks, strays)


@pytest.mark.parametrize(("reader", "name"), _CASES)
def test_refused(tmp_path_factory: pytest.TempPathFactory, reader: str, name: str) -> None:
    if reader not in _READ:
        _READ[reader] = _refusals(reader, tmp_path_factory.mktemp(reader))
    read = _READ[reader]
    assert name in read.said, f"the reader ended: {read.log}"
    said = read.said[name]
    assert said["refused"], said["error"]
    assert re.search(CORPUS[reader][name].said, said["error"]), said["error"]
    # A line for each fault, each of which names the file.
    assert all(f"/files/{name}" in line for line in said["error"].splitlines()), said["error"]
    assert not read.marks[name].exists()
    assert said["bytes"] < LARGEST_BYTES
    assert not [stray for stray in read.strays if name in stray]


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_a_vocabulary_of_its_own_is_read(tmp_path: Path, allow_pickle: bool) -> None:
    """Before the export and, as the server does, after it; leave for pickles changes nothing for SavedModels."""
    import numpy as np

    from components.earthengine.errors import ModelError
    from components.earthengine.untrusted import saved_model
    from components.export import export_model
    from components.source import SourceModel

    tensorflow_models.with_vocabulary(tmp_path)
    tiles = np.ones((1, 2, 3, 3), np.float32)
    (answer,) = SourceModel(tmp_path, allow_pickle=allow_pickle).predict(tiles).values()
    assert (answer == 3).all()
    if allow_pickle:
        writes = tmp_path / "writes"
        writes.mkdir()
        tensorflow_models.saved_model_that_writes(writes, tmp_path / "mark")
        with pytest.raises(ModelError, match=r"is refused: .* that only computes is loaded; if it is your own model"):
            SourceModel(writes, allow_pickle=True)
    else:
        export_model(tmp_path, tmp_path / "exported")
        saved_model.check(tmp_path / "exported")


def test_figures(figure: Figure) -> None:
    if not _READ:
        pytest.skip("no file of the corpus was read")
    said = [each for read in _READ.values() for each in read.said.values()]
    refused = sum(each["refused"] for each in said)
    largest = max(said, key=lambda each: each["bytes"])
    figure("hostile files", len(_CASES), len(said))
    figure("hostile files refused", "all", f"{refused} of {len(said)}")
    figure("largest memory beyond the base, MB", f"at most {LARGEST_BYTES >> 20}", f"{largest['bytes'] / 2**20:.0f}")
    figure("longest refusal, s", "-", f"{max(each['seconds'] for each in said):.1f}")
    assert not [stray for read in _READ.values() for stray in read.strays]
