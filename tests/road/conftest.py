"""A local Vertex AI and trained models, shared by the tests that walk the road for real."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

from components import local, storage
from components.archive import archive_model
from components.earthengine.contract import FILE_NAME, Band, ModelContract, Output, Source
from components.endpoint import find_or_create_endpoint
from components.export import export_model
from components.vertex import Vertex
from tests.road.runs import Site

ROOT = Path(__file__).parents[2]


def pipeline(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run pipeline.py as a user does."""
    command = [sys.executable, str(ROOT / "pipeline.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a model that is exported, started and asked in next to no time."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "model").mkdir()
    torch.jit.script(torch.nn.Conv2d(1, 1, 1)).save(str(folder / "model" / "model.pt"))
    contract = ModelContract(
        name="small",
        framework="pytorch",
        payload_format="SERIALIZED_TF_TENSORS",
        model=Source(file="model.pt"),
        bands=(Band(name="B2"),),
        tile=(16, 16),
        scale=10,
        outputs=(Output(name="index", dimensions=0),),
    )
    (folder / "model" / FILE_NAME).write_text(contract.dump(), encoding="utf-8")
    export_model(folder / "model", folder / "exported")
    archive_model(folder / "exported", folder / "archive")
    return folder / "archive"


@pytest.fixture(scope="module")
def vertex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vertex]:
    """An empty local Vertex AI, which the environment points at."""
    with local.local_vertex(tmp_path_factory.mktemp("vertex")):
        yield Vertex(local.PROJECT, local.LOCATION)


@pytest.fixture(scope="module")
def staging(vertex: Vertex) -> str:
    """A folder in a bucket that exists."""
    return f"gs://{local.BUCKET}/staging"


@pytest.fixture
def site(vertex: Vertex, staging: str, small: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    """An endpoint for a test alone, for versions of the small model."""
    name = f"site-{zlib.crc32(request.node.name.encode())}"
    return Site(vertex, staging, small, tmp_path, find_or_create_endpoint(vertex, name).name)


def upload_folder(folder: Path, name: str) -> str:
    """Upload a model directory as a user does; returns its gs:// address."""
    uri = f"gs://{local.BUCKET}/models/{name}"
    storage.stage(folder, uri)
    return uri


def changed(model: Path, folder: Path, **keys: object) -> Path:
    """A copy of a model directory with keys of its model.yaml changed."""
    shutil.copytree(model, folder)
    contract = yaml.safe_load((model / FILE_NAME).read_text()) | keys
    (folder / FILE_NAME).write_text(yaml.safe_dump(contract, sort_keys=False))
    return folder


def processes_under(folder: Path) -> list[str]:
    """Command lines of the processes that name a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in command:
                found.append(command)
    return found
