"""A local Vertex AI and trained models, shared by the tests that walk the road for real."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from components import local, storage
from components.archive import archive_model
from components.earthengine.contract import Framework
from components.export import export_model
from components.train import train_land_cover
from components.vertex import Vertex

ROOT = Path(__file__).parents[2]
FRAMEWORKS: tuple[Framework, ...] = get_args(Framework)


def pipeline(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run pipeline.py as a user does."""
    command = [sys.executable, str(ROOT / "pipeline.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[Framework, Path]:
    """The land-cover model of each framework, trained on the packaged samples."""
    folder = tmp_path_factory.mktemp("trained")
    for framework in FRAMEWORKS:
        train_land_cover(folder / framework, framework)
    return {framework: folder / framework for framework in FRAMEWORKS}


@pytest.fixture(scope="session")
def archives(trained: dict[Framework, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[Framework, Path]:
    """What the archive step makes of the trained models."""
    folder = tmp_path_factory.mktemp("archives")
    for framework, model in trained.items():
        export_model(model, folder / f"{framework}-exported")
        archive_model(folder / f"{framework}-exported", folder / framework)
    return {framework: folder / framework for framework in FRAMEWORKS}


@pytest.fixture(scope="module")
def vertex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vertex]:
    """An empty local Vertex AI, which the environment points at."""
    with local.local_vertex(tmp_path_factory.mktemp("vertex")):
        yield Vertex(local.PROJECT, local.LOCATION)


@pytest.fixture(scope="module")
def staging(vertex: Vertex) -> str:
    """A folder in a bucket that exists."""
    return f"gs://{local.BUCKET}/staging"


def upload_folder(folder: Path, name: str) -> str:
    """Upload a model directory as a user does; returns its gs:// address."""
    uri = f"gs://{local.BUCKET}/models/{name}"
    storage.stage(folder, uri)
    return uri
