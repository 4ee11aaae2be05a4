"""Hostile archives: what a server loads, and the golden tiles beside it."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from tests.conftest import contract_of
from tests.hostile import samples, torch_models
from tests.hostile.corpus import hostile
from tests.hostile.zipped import bomb, declare, flag, rewrite, with_entry, with_link

MAR = "model.mar"
_MANIFEST, _SCRIPT, _CONTRACT, _ONNX = "MAR-INF/MANIFEST.json", "script.pt", "model.yaml", "model.onnx"


class Served(nn.Module):
    def forward(self, tiles: Tensor) -> dict[str, Tensor]:
        return {"total": tiles.sum(1)}


def _manifest(name: str = _SCRIPT) -> bytes:
    return json.dumps({"model": {"modelName": "model", "serializedFile": name}}).encode()


@cache
def _good() -> Path:
    """A good archive."""
    folder = Path(mkdtemp())
    torch_models.script(Served(), folder / _SCRIPT)
    with zipfile.ZipFile(folder / MAR, "w") as archive:
        archive.writestr(_MANIFEST, _manifest())
        archive.writestr(_CONTRACT, contract_of().dump())
        archive.write(folder / _SCRIPT, _SCRIPT)
    return folder / MAR


def harmless(folder: Path) -> None:
    (folder / MAR).write_bytes(_good().read_bytes())


def _with(folder: Path, **contents: bytes) -> None:
    """The good archive with other contents of manifest, script or contract, or with a graph of ONNX."""
    names = {"manifest": _MANIFEST, "script": _SCRIPT, "contract": _CONTRACT, "graph": _ONNX}
    named = {names[key]: content for key, content in contents.items()}
    rewrite(_good(), folder / MAR, named.pop)
    with zipfile.ZipFile(folder / MAR, "a") as archive:
        for name, content in named.items():
            archive.writestr(name, content)


def _script_of(folder: Path, model: nn.Module, mark: Path) -> bytes:
    torch_models.marked(model, folder / "made.pt", mark)
    content = (folder / "made.pt").read_bytes()
    (folder / "made.pt").unlink()
    return content


@hostile("server", "leads out of the archive")
def traversal(folder: Path, mark: Path) -> None:
    with_entry(_good(), folder / MAR, f"../{mark.name}")


@hostile("server", "leads out of the archive")
def absolute_name(folder: Path, mark: Path) -> None:
    with_entry(_good(), folder / MAR, str(mark))


@hostile("server", "leads out of the archive")
def name_with_a_nul(folder: Path, mark: Path) -> None:
    with_entry(_good(), folder / MAR, "model.yaml\0.txt")


@hostile("server", "is a link")
def link(folder: Path, mark: Path) -> None:
    with_link(_good(), folder / MAR, "weights.pt", "/etc/passwd")


@hostile("server", "twice")
def entry_twice(folder: Path, mark: Path) -> None:
    """Whoever checks reads the first, whoever loads the last."""
    with_entry(_good(), folder / MAR, _CONTRACT, b"name: other")


@hostile("server", "twice")
def entry_twice_but_for_its_case(folder: Path, mark: Path) -> None:
    with_entry(_good(), folder / MAR, _CONTRACT.upper())


@hostile("server", "times the archive's")
def mar_bomb(folder: Path, mark: Path) -> None:
    bomb(folder / MAR, _SCRIPT, 256, {_MANIFEST: _manifest(), _CONTRACT: contract_of().dump().encode()})


@hostile("server", "cannot be read as a .mar")
def mar_bomb_that_declares_little(folder: Path, mark: Path) -> None:
    bomb(folder / MAR, _SCRIPT, 256, {_MANIFEST: _manifest(), _CONTRACT: contract_of().dump().encode()})
    declare(folder / MAR, _SCRIPT, 1000)


@hostile("server", "at most 262,144 are read")
def contract_bomb(folder: Path, mark: Path) -> None:
    bomb(folder / MAR, _CONTRACT, 32, {_MANIFEST: _manifest(), _SCRIPT: b""})


@hostile("server", "is encrypted")
def encrypted(folder: Path, mark: Path) -> None:
    harmless(folder)
    flag(folder / MAR, 1)


@hostile("server", "packed by method")
def another_method(folder: Path, mark: Path) -> None:
    with zipfile.ZipFile(folder / MAR, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(_MANIFEST, _manifest())


@hostile("server", "is no archive of ours")
def manifest_that_leads_out(folder: Path, mark: Path) -> None:
    _with(folder, manifest=_manifest("../../../../etc/passwd"))


@hostile("server", "is no archive of ours")
def manifest_of_a_file_that_is_not_there(folder: Path, mark: Path) -> None:
    _with(folder, manifest=_manifest("none.pt"))


@hostile("server", "cannot be read as a .mar")
def manifest_of_another_kind(folder: Path, mark: Path) -> None:
    _with(folder, manifest=b'{"model": [1]}')


@hostile("server", "cannot be read as a .mar")
def manifest_of_depth(folder: Path, mark: Path) -> None:
    _with(folder, manifest=b"[" * 100_000)


@hostile("server", "is not YAML")
def contract_with_a_tag(folder: Path, mark: Path) -> None:
    _with(folder, contract=f"name: !!python/object/apply:os.system ['touch {mark}']".encode())


@hostile("server", "has .* values; at most")
def contract_of_terabytes(folder: Path, mark: Path) -> None:
    text = contract_of().dump().replace("- 16", "- 4096").replace("- name: red", "- name: red\n  shape: [4096, 4096]")
    _with(folder, contract=text.encode())


@hostile("server", "calls save, which reaches files.* must not be served")
def script_that_writes_when_loaded(folder: Path, mark: Path) -> None:
    _with(folder, script=_script_of(folder, torch_models.SavesWhenLoaded(), mark))


@hostile("server", "calls from_file, which reaches files")
def script_that_maps_a_file(folder: Path, mark: Path) -> None:
    _with(folder, script=_script_of(folder, torch_models.Maps(), mark))


@hostile("server", "cannot load its TorchScript")
def script_that_is_a_pickle(folder: Path, mark: Path) -> None:
    torch.save(torch_models.Opens(mark), folder / "made.pt")
    content = (folder / "made.pt").read_bytes()
    (folder / "made.pt").unlink()
    _with(folder, script=content)


@hostile("server", "times the archive's")
def script_that_is_a_bomb(folder: Path, mark: Path) -> None:
    """A zip in a zip: the outer one is as large as it says."""
    bomb(folder / "made.pt", "n/data/0", 256, {"n/code/__torch__.py": b""})
    content = (folder / "made.pt").read_bytes()
    (folder / "made.pt").unlink()
    _with(folder, script=content)


@hostile("server", "is a pipe")
def pipe_for_an_archive(folder: Path, mark: Path) -> None:
    os.mkfifo(folder / MAR)


def _graph(operator: str, weight: TensorProto, domain: str = "") -> bytes:
    given = helper.make_tensor_value_info("tiles", TensorProto.FLOAT, ["n", 2, "h", "w"])
    answer = helper.make_tensor_value_info("total", TensorProto.FLOAT, None)
    node = helper.make_node(operator, ["tiles", weight.name], ["total"], domain=domain)
    graph = helper.make_graph([node], "g", [given], [answer], [weight])
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return content


def _outside(location: str) -> TensorProto:
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 1, 1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    return weight


@hostile("server", "ONNX Runtime .* cannot load model.onnx")
def onnx_with_weights_outside(folder: Path, mark: Path) -> None:
    _with(folder, graph=_graph("Mul", _outside("../../../../../../etc/passwd")))


@hostile("server", "ONNX Runtime .* cannot load model.onnx")
def onnx_with_weights_of_the_system(folder: Path, mark: Path) -> None:
    _with(folder, graph=_graph("Mul", _outside("/etc/passwd")))


@hostile("server", "ONNX Runtime .* cannot load model.onnx")
def onnx_with_weights_beside_the_server(folder: Path, mark: Path) -> None:
    _with(folder, graph=_graph("Mul", _outside("pyproject.toml")))


@hostile("server", "ONNX Runtime .* cannot load model.onnx")
def onnx_with_weights_of_terabytes(folder: Path, mark: Path) -> None:
    _with(folder, graph=_graph("Mul", TensorProto(name="w", data_type=1, dims=[10**6, 10**6, 1], raw_data=b"1234")))


@hostile("server", "ONNX Runtime .* cannot load model.onnx")
def onnx_with_an_operator_of_its_own(folder: Path, mark: Path) -> None:
    _with(folder, graph=_graph("System", onnx.numpy_helper.from_array(np.ones((2, 1, 1), "f4"), "w"), "evil"))


# Golden tiles.


def _golden(folder: Path, **arrays: Any) -> None:
    np.savez(folder / "golden.npz", **({"tiles": np.zeros((1, 2, 4, 4), "f4"), "scene": np.zeros(2, int)} | arrays))


def digest(folder: Path) -> str:
    """What a folder's golden.sha256 must say."""
    return hashlib.sha256((folder / "golden.npz").read_bytes()).hexdigest()


def _hashed(folder: Path) -> None:
    (folder / "golden.sha256").write_text(digest(folder))


def harmless_golden(folder: Path) -> None:
    _golden(folder)
    _hashed(folder)


@hostile("golden", "are not those that were exported")
def golden_of_another_digest(folder: Path, mark: Path) -> None:
    harmless_golden(folder)
    _golden(folder, tiles=np.ones((1, 2, 4, 4), "f4"))


@hostile("golden", "holds no golden tiles")
def golden_pickle(folder: Path, mark: Path) -> None:
    _golden(folder, tiles=np.array([torch_models.Opens(mark)], object))
    _hashed(folder)


@hostile("golden", "claims float32 of shape")
def golden_of_terabytes(folder: Path, mark: Path) -> None:
    _golden(folder)
    samples.claim(folder / "golden.npz", "tiles.npy", (1, 2, 4, 4), (10**6, 10**6))
    _hashed(folder)


@hostile("golden", "times the archive's")
def golden_bomb(folder: Path, mark: Path) -> None:
    bomb(folder / "golden.npz", "tiles.npy", 256)
    _hashed(folder)


@hostile("golden", "is a pipe")
def golden_pipe(folder: Path, mark: Path) -> None:
    os.mkfifo(folder / "golden.npz")
