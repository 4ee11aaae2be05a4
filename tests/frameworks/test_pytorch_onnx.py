from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from components.archive import archive_model
from components.earthengine.contract import ModelContract
from components.export import export_model
from components.frameworks import ONNX_NAME, pytorch_onnx
from components.frameworks import onnx as onnx_framework
from components.source import SourceModel
from tests.conftest import WriteModel, assert_close, assert_same_answers
from tests.frameworks.test_pytorch import Last, Matrix, Strided, Sum, TakesDict, TakesTuple, Unscriptable

TWO = [{"name": "a", "dimensions": 0}, {"name": "b", "dimensions": 1}]
VECTOR = [{"name": "v", "dimensions": 1}]
# Count, height and width; the golden tiles are 4 of 16 x 16.
SHAPES = ((1, 16, 16), (5, 16, 16), (2, 5, 13), (3, 1, 1))


class Branch(nn.Module):
    """Answers by another formula where the first channel is negative as a whole."""

    def forward(self, x: Tensor) -> Tensor:
        if x[:, 0].mean() < 0:
            return x.sum(1) * 10
        return x[:, 0] - x[:, 1]


class Unsupported(nn.Module):
    """ONNX has no error function's inverse."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.erfinv(torch.tanh(x)).sum(1)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 3, 1)
        )
        for weight in self.state_dict().values():
            if weight.is_floating_point():
                weight.copy_(torch.rand(weight.shape) + 0.5)  # equal ones would be written once

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.layers(x), 1)


def scripted(model: nn.Module) -> Callable[[Path], object]:
    return lambda path: torch.jit.script(model.eval()).save(str(path))


def traced(model: nn.Module) -> Callable[[Path], object]:
    example = torch.zeros(1, 2, 16, 16)
    return lambda path: torch.jit.trace(model.eval(), example, strict=False).save(str(path))


def pickled(model: nn.Module) -> Callable[[Path], object]:
    return lambda path: torch.save(model, path)


def random_tiles(contract: ModelContract, count: int, height: int, width: int) -> Any:
    return np.random.default_rng(1).normal(0, 9, (count, contract.channels, height, width)).astype(np.float32)


def exported(directory: Path) -> Path:
    folder = directory.parent / "exported"
    export_model(directory, folder, allow_pickle=True)
    return folder


def check_onnx(directory: Path, shapes: tuple[tuple[int, int, int], ...] = SHAPES) -> onnx.ModelProto:
    """Export; ONNX Runtime must answer batches of these shapes as the source model does. The ONNX model."""
    folder = exported(directory)
    source = SourceModel(directory, allow_pickle=True)
    run = onnx_framework.load_exported(folder)
    for shape in shapes:
        tiles = random_tiles(source.contract, *shape)
        assert_same_answers(run(tiles), source.predict(tiles))
    onnx.checker.check_model(folder / ONNX_NAME, full_check=True)
    return onnx.load(folder / ONNX_NAME)


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("save", [scripted, traced, pickled])
@pytest.mark.parametrize("model", [TakesTuple(), TakesDict()])
def test_several_outputs(write_model: WriteModel, save: Any, model: nn.Module) -> None:
    check_onnx(write_model(save(model), outputs=TWO))


@pytest.mark.parametrize("save", [scripted, traced, pickled])
def test_weights_and_softmax(write_model: WriteModel, save: Any) -> None:
    torch.manual_seed(0)
    model = check_onnx(write_model(save(Classifier()), outputs=VECTOR))
    assert "Softmax" not in operators(model)
    assert [given.name for given in model.graph.input] == ["tiles"]
    assert len([weight for weight in model.graph.initializer if "layers" in weight.name]) == 8


def test_state_dict(write_model: WriteModel) -> None:
    code = "from torch import nn\ndef build():\n    return nn.Conv2d(2, 3, 3, padding=1)\n"
    directory = write_model(
        lambda path: torch.save(nn.Conv2d(2, 3, 3, padding=1).state_dict(), path),
        model={"file": "net.pt", "code": "net.py:build"},
        outputs=VECTOR,
    )
    (directory / "net.py").write_text(code)
    check_onnx(directory)


def test_what_cannot_be_scripted(write_model: WriteModel) -> None:
    check_onnx(write_model(pickled(Unscriptable()), outputs=TWO))


def test_a_matrix_a_pixel(write_model: WriteModel) -> None:
    check_onnx(write_model(scripted(Matrix()), outputs=[{"name": "m", "dimensions": 2}]))


def test_channels_last(write_model: WriteModel) -> None:
    check_onnx(write_model(scripted(Last()), model={"file": "net.pt", "layout": "channels_last"}))


@pytest.mark.parametrize("save", [scripted, pickled])
def test_multiple_of_32_on_small_tiles(write_model: WriteModel, save: Any) -> None:
    check_onnx(
        write_model(save(Strided()), model={"file": "net.pt", "multiple": 32}, outputs=VECTOR, tile=[1, 1]),
        (*SHAPES, (2, 33, 64), (1, 40, 31)),
    )


def test_normalisation_array_bands_and_types(write_model: WriteModel) -> None:
    model = check_onnx(
        write_model(
            scripted(Sum()),
            bands=[{"name": "a", "factor": 2, "shape": [3]}, {"name": "b", "type": "uint8"}],
            properties=[{"name": "year", "offset": 2}],
            model={"file": "net.pt", "type": "int32"},
            outputs=[{"name": "total", "dimensions": 0, "type": "double"}],
        )
    )
    assert {"Mul", "Add"} <= operators(model)


def test_nothing_is_computed_that_the_contract_does_not_ask_for(write_model: WriteModel) -> None:
    model = check_onnx(write_model(scripted(nn.Conv2d(2, 3, 1)), outputs=VECTOR))
    computing = operators(model) - {"Constant", "Shape", "Gather", "Unsqueeze", "Cast"}
    assert computing == {"Conv", "Transpose", "Slice"}


def test_a_table(write_model: WriteModel) -> None:
    directory = write_model(
        scripted(nn.Sequential(nn.Linear(2, 3), nn.Softmax(1))),
        bands=None,
        tile=None,
        scale=None,
        properties=[{"name": "a", "factor": 2}, {"name": "b"}],
        outputs=VECTOR,
    )
    check_onnx(directory, ((1, 1, 1), (7, 1, 1)))


def test_an_output_named_as_the_input(write_model: WriteModel) -> None:
    check_onnx(write_model(scripted(Sum()), outputs=[{"name": "tiles", "dimensions": 0}]))


@pytest.mark.parametrize("save", [scripted, pickled])
def test_branches_are_kept(write_model: WriteModel, save: Any) -> None:
    directory = write_model(save(Branch()))
    run, source = onnx_framework.load_exported(exported(directory)), SourceModel(directory, allow_pickle=True)
    for sign in (1, -1):
        tiles = sign * np.abs(random_tiles(source.contract, 2, 5, 13))
        assert_close(run(tiles)["total"], source.predict(tiles)["total"])


@pytest.mark.parametrize("save", [scripted, pickled])
def test_what_cannot_be_converted_is_exported_as_torchscript(
    write_model: WriteModel,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    save: Any,
) -> None:
    folder = exported(write_model(save(Unsupported())))
    assert not (folder / ONNX_NAME).exists()
    assert "as TorchScript, not with ONNX Runtime: it cannot be converted to ONNX (Exporting the oper" in caplog.text
    assert "erfinv" in caplog.text
    assert not capfd.readouterr().out
    archive_model(folder, tmp_path / "archived")
    with zipfile.ZipFile(tmp_path / "archived" / "model.mar") as mar:
        assert "model.pt" in mar.namelist()
        assert ONNX_NAME not in mar.namelist()


def test_archive_carries_what_agrees(write_model: WriteModel, tmp_path: Path) -> None:
    folder = exported(write_model(scripted(Sum())))
    archive_model(folder, tmp_path / "archived")
    with zipfile.ZipFile(tmp_path / "archived" / "model.mar") as mar:
        assert mar.read(ONNX_NAME) == (folder / ONNX_NAME).read_bytes()
        assert mar.testzip() is None


def test_what_differs_is_dropped(write_model: WriteModel, caplog: pytest.LogCaptureFixture) -> None:
    # Both frameworks are right to the last bit but one, which this contract does not allow.
    directory = write_model(
        scripted(nn.Softmax(1)), outputs=VECTOR, tolerance={"absolute": 0, "relative": 0}, tile=[64, 64]
    )
    assert not (exported(directory) / ONNX_NAME).exists()
    assert "converted to ONNX it does not answer as the source model does: output v differs" in caplog.text


def test_what_onnx_runtime_cannot_run_is_dropped(write_model: WriteModel, caplog: pytest.LogCaptureFixture) -> None:
    directory = write_model(scripted(nn.Conv2d(2, 1, 1).double()), model={"file": "net.pt", "type": "float64"})
    assert not (exported(directory) / ONNX_NAME).exists()
    assert "converted to ONNX it cannot be loaded" in caplog.text


@pytest.mark.parametrize(
    ("module", "limit", "most", "said"),
    [
        (onnx_framework, "MAX_BYTES", 100, "its weights take 0.0 GB, of which ONNX holds"),
        (pytorch_onnx, "_LONGEST_VECTOR", 7, "one dimension and more than 7 numbers"),
    ],
)
def test_limits(
    write_model: WriteModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    module: ModuleType,
    limit: str,
    most: int,
    said: str,
) -> None:
    directory = write_model(scripted(Classifier()), outputs=VECTOR)
    monkeypatch.setattr(module, limit, most)
    assert not (exported(directory) / ONNX_NAME).exists()
    assert said in caplog.text


def test_nothing_is_said_where_all_agrees(write_model: WriteModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        exported(write_model(scripted(Classifier()), outputs=VECTOR))
    assert not caplog.text


@pytest.mark.parametrize(
    ("shape", "axis", "splits"), [((2, 3, 4, 5), 1, True), ((2, 3), 1, False), ((2, 3, 4), -1, False)]
)
def test_softmax_is_split_where_its_axis_is_not_the_last(shape: tuple[int, ...], axis: int, *, splits: bool) -> None:
    given = helper.make_tensor_value_info("given", TensorProto.FLOAT, shape)
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Identity", ["given"], ["middle"]),
        helper.make_node("Softmax", ["middle"], ["answer"], axis=axis),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", [given], [answer]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    array = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)

    def run() -> Any:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"given": array})[0]

    before = run()
    onnx_framework.split_softmax(model)
    assert ("Softmax" not in operators(model)) is splits
    assert_close(run(), before)
    np.testing.assert_allclose(before.sum(axis), 1, 1e-5)
