"""Good artifacts with bytes flipped, cut and put in, and entries renamed: an error of the tree, or a result."""

from __future__ import annotations

import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.earthengine.contract import ModelContract
from components.earthengine.errors import PipelineError
from components.golden import Golden, golden_hash, tiles_for
from components.source import SourceModel
from containers.serving import model
from tests.conftest import contract_of
from tests.hostile import archives, contracts, samples, torch_models

_LARGEST_BYTES = 128 << 20

_NAMES = st.sampled_from(["../out", "/out", "a\\..\\out", "..", "model.yaml", "x.npy", "C:out", "n/code/__torch__.py"])


def mutated(content: bytes, data: st.DataObject) -> bytes:
    """Bytes with a few changes."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        if not changed:
            break
        place = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "fill"])):
            case "flip":
                changed[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del changed[place : place + data.draw(st.integers(1, 1000))]
            case "insert":
                changed[place:place] = data.draw(st.binary(min_size=1, max_size=8))
            case "fill":
                changed[place : place + 4] = data.draw(st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"]))
    return bytes(changed)


def renamed(path: Path, data: st.DataObject) -> None:
    """Write a zip again with one entry under another name."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    chosen = data.draw(st.sampled_from(sorted(contents)))
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name that is there already
        for name, content in contents.items():
            archive.writestr(data.draw(_NAMES) if name == chosen else name, content)


def _contract(folder: Path) -> None:
    ModelContract.read(folder)


def _sample(folder: Path) -> None:
    tiles_for(contract_of(), folder)


def _golden(folder: Path) -> None:
    (folder / "golden.sha256").write_text(archives.digest(folder))
    golden_hash(folder)
    Golden.load(folder)


def _archive(folder: Path) -> None:
    model.load(folder)


def _torchscript(folder: Path) -> None:
    SourceModel(folder)


_READERS: dict[str, tuple[Callable[[Path], object], str, Callable[[Path], Any]]] = {
    "contract": (contracts.write, "model.yaml", _contract),
    "sample": (samples.harmless, "sample.npz", _sample),
    "geotiff": (samples.harmless_tiff, "scene.tif", _sample),
    "golden": (archives.harmless_golden, "golden.npz", _golden),
    "archive": (archives.harmless, "model.mar", _archive),
    "torchscript": (torch_models.harmless, "net.pt", _torchscript),
}


@pytest.mark.parametrize("name", _READERS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_read_or_refused(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    write, file, read = _READERS[name]
    around = tmp_path_factory.mktemp(name)
    folder = around / "folder"
    folder.mkdir()
    write(folder)
    if zipfile.is_zipfile(folder / file) and data.draw(st.booleans()):
        renamed(folder / file, data)
    else:
        (folder / file).write_bytes(mutated((folder / file).read_bytes(), data))
    before = set(around.rglob("*"))
    tracemalloc.start()
    try:
        read(folder)
    except PipelineError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < _LARGEST_BYTES
    assert {path.name for path in set(around.rglob("*")) - before} <= {"golden.sha256"}
