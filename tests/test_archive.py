from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from components.archive import archive_model
from components.earthengine.errors import ContractError, ModelError
from components.torchserve import HANDLER, description
from tests.conftest import contract_of

BESIDE = ("golden.npz", "golden.sha256", "source.sha256")


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """What export leaves, with bytes that only their length tells from a model."""
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "model.yaml").write_text(contract_of().dump())
    for name in ("model.pt", *BESIDE):
        (folder / name).write_bytes(name.encode() * 1000)
    return folder


def as_tensorflow(exported: Path) -> None:
    (exported / "model.yaml").write_text(contract_of(framework="tensorflow").dump())
    (exported / "model.pt").rename(exported / "saved_model.pb")
    (exported / "variables").mkdir()
    (exported / "variables" / "variables.index").write_bytes(b"index")


def test_mar_is_stored_and_whole(exported: Path, tmp_path: Path) -> None:
    contract = archive_model(exported, tmp_path / "archived")
    assert contract == contract_of()
    with zipfile.ZipFile(tmp_path / "archived" / "model.mar") as mar:
        assert mar.testzip() is None
        assert {entry.filename for entry in mar.infolist()} == {
            "MAR-INF/MANIFEST.json",
            "earthengine.json",
            "earthengine_handler.py",
            "model.pt",
            "model.yaml",
        }
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in mar.infolist())
        assert mar.read("model.pt") == (exported / "model.pt").read_bytes()
        assert mar.read("model.yaml") == (exported / "model.yaml").read_bytes()
        assert mar.read("earthengine_handler.py") == HANDLER.read_bytes()
        manifest = json.loads(mar.read("MAR-INF/MANIFEST.json"))
    assert manifest["runtime"] == "python"
    assert manifest["model"] == {
        "modelName": "model",
        "serializedFile": "model.pt",
        "handler": "earthengine_handler.py",
        "modelVersion": "1.0",
    }
    assert manifest["archiverVersion"]
    for name in ("model.yaml", *BESIDE):
        assert (tmp_path / "archived" / name).read_bytes() == (exported / name).read_bytes()
    assert len(list((tmp_path / "archived").iterdir())) == 5


def test_what_the_handler_is_told() -> None:
    contract = contract_of(
        bands=[{"name": "red"}, {"name": "series", "shape": [3, 2]}],
        properties=[{"name": "soil", "type": "string", "values": ["clay", "loam"]}],
    )
    assert json.loads(description(contract)) == {
        "payload_format": "SERIALIZED_TF_TENSORS",
        "table": False,
        "patch": [16, 16],
        "parts": [
            {"name": "red", "kind": "band", "shape": [], "channels": 1, "values": []},
            {"name": "series", "kind": "band", "shape": [3, 2], "channels": 6, "values": []},
            {"name": "soil", "kind": "property", "shape": [], "channels": 1, "values": ["clay", "loam"]},
        ],
        "outputs": [{"name": "total", "dimensions": 0}],
    }


def test_manifest_is_the_archivers_own(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    given = {"model-name": "model", "serialized-file": exported / "model.pt", "export-path": tmp_path / "theirs"}
    options = [f"--{key}={value}" for key, value in given.items()]
    program = [sys.executable, "-m", "model_archiver.model_packaging", "--version=1.0", f"--handler={HANDLER}"]
    subprocess.run([*program, *options], check=True, capture_output=True, timeout=60)
    archive_model(exported, tmp_path / "ours")
    manifests = []
    for folder in ("ours", "theirs"):
        with zipfile.ZipFile(tmp_path / folder / "model.mar") as mar:
            manifests.append(json.loads(mar.read("MAR-INF/MANIFEST.json")))
    ours, theirs = manifests
    ours.pop("createdOn", None)
    theirs.pop("createdOn", None)
    assert ours == theirs


def test_files_without_a_date(exported: Path, tmp_path: Path) -> None:
    os.utime(exported / "model.pt", (0, 0))
    archive_model(exported, tmp_path / "archived")
    assert zipfile.is_zipfile(tmp_path / "archived" / "model.mar")


def test_tensorflow_folder_has_the_saved_model_directly(exported: Path, tmp_path: Path) -> None:
    as_tensorflow(exported)
    archive_model(exported, tmp_path / "archived")

    def contents(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    assert contents(tmp_path / "archived") == contents(exported)
    assert (tmp_path / "archived" / "saved_model.pb").is_file()


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
@pytest.mark.parametrize("missing", ["model", *BESIDE])
def test_missing_part(exported: Path, tmp_path: Path, framework: str, missing: str) -> None:
    name = missing
    if framework == "tensorflow":
        as_tensorflow(exported)
    if missing == "model":
        name = "model.pt" if framework == "pytorch" else "saved_model.pb"
    (exported / name).unlink()
    with pytest.raises(ModelError, match=rf"{name} does not exist; export the model again"):
        archive_model(exported, tmp_path / "archived")
    assert not (tmp_path / "archived").exists()


def test_missing_contract(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="does not exist"):
        archive_model(tmp_path / "nothing", tmp_path / "archived")
    assert not (tmp_path / "archived").exists()
