from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ContractError, ModelError
from components.export import export_model
from components.frameworks import TORCHSCRIPT_NAME, of, pytorch
from components.golden import Golden
from components.source import SourceModel
from tests.conftest import WriteModel, assert_close, assert_same_answers

SIZES = ((1, 1), (5, 13), (16, 16))


class Sum(nn.Module):
    """The sum of the channels: what comes out tells what went in."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


class Last(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1)


class TakesTuple(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sum(1), torch.stack([x[:, 0], x[:, 1] * 2, x[:, 0] + 3], 1)


class TakesList(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x.sum(1), torch.stack([x[:, 0], x[:, 1] * 2, x[:, 0] + 3], 1)]


class TakesDict(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"b": torch.stack([x[:, 0], x[:, 1] * 2, x[:, 0] + 3], 1), "other": x, "a": x.sum(1)}


class Matrix(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.stack([x[:, 0], x[:, 1]], 1), torch.stack([x[:, 1], -x[:, 0]], 1)], 1)


class Unscriptable(nn.Module):
    """What TorchScript's compiler does not know: keyword arguments without names."""

    def forward(self, x: Tensor, **_: Any) -> dict[str, Tensor]:
        return {"a": x.sum(1), "b": torch.stack([x[:, 0], x[:, 1] * 2, x[:, 0] + 3], 1)}


class Impossible(nn.Module):
    """Neither scriptable nor traceable."""

    def forward(self, x: Tensor, **_: Any) -> Any:
        return [x.sum(1), object()] if torch._C._get_tracing_state() else x.sum(1)


class Strided(nn.Module):
    """Fails unless height and width can be divided by 32; what it answers depends on the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.AvgPool2d(32)
        self.up = nn.Upsample(scale_factor=32)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2] % 32 == 0
        assert x.shape[3] % 32 == 0
        up: Tensor = self.up(self.down(x))
        return up


class Opens:
    """A pickle that makes a file when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def scripted(model: nn.Module) -> Callable[[Path], object]:
    return lambda path: torch.jit.script(model.eval()).save(str(path))


def pickled(model: nn.Module) -> Callable[[Path], object]:
    return lambda path: torch.save(model, path)


def random_tiles(contract: ModelContract, height: int, width: int) -> Any:
    return np.random.default_rng(1).normal(0, 9, (2, contract.channels, height, width)).astype(np.float32)


def check_export(directory: Path, tmp_path: Path, sizes: tuple[tuple[int, int], ...] = SIZES) -> list[dict[str, Any]]:
    """Export; the exported model must answer tiles of these sizes as the source model does. The answers."""
    contract = export_model(directory, tmp_path / "exported", allow_pickle=True)
    source = SourceModel(directory, allow_pickle=True)
    batches = [random_tiles(contract, *size) for size in sizes]
    answers = list(map(of(contract).load_exported(tmp_path / "exported"), batches))
    for batch, answer in zip(batches, answers, strict=True):
        assert_same_answers(answer, source.predict(batch))
    return list(answers)


TWO = [{"name": "a", "dimensions": 0}, {"name": "b", "dimensions": 1}]


@pytest.mark.parametrize("model", [TakesTuple(), TakesList(), TakesDict()])
def test_outputs_as_tuple_list_and_dict(write_model: WriteModel, tmp_path: Path, model: nn.Module) -> None:
    directory = write_model(scripted(model), outputs=TWO)
    answer = check_export(directory, tmp_path)[1]
    assert answer["a"].shape == (2, 5, 13)
    assert answer["b"].shape == (2, 5, 13, 3)
    tiles = random_tiles(ModelContract.read(directory), 5, 13)
    np.testing.assert_allclose(answer["a"], tiles.sum(1), 1e-5, 1e-5)
    np.testing.assert_allclose(answer["b"][..., 1], tiles[:, 1] * 2)


def test_a_matrix_a_pixel(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(scripted(Matrix()), outputs=[{"name": "m", "dimensions": 2}])
    answer = check_export(directory, tmp_path)[1]["m"]
    assert answer.shape == (2, 5, 13, 2, 2)
    np.testing.assert_array_equal(answer[..., 1, 1], -random_tiles(ModelContract.read(directory), 5, 13)[:, 0])


def test_what_cannot_be_scripted_is_traced(write_model: WriteModel, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"\*\*_"):
        torch.jit.script(Unscriptable())
    check_export(write_model(pickled(Unscriptable()), outputs=TWO), tmp_path)


def test_neither_scripted_nor_traced(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(pickled(Impossible()))
    with pytest.raises(ModelError, match=r"neither scripted \(.*\) nor traced \(.*\); make torch.jit.script") as caught:
        export_model(directory, tmp_path / "exported", allow_pickle=True)
    assert caught.value.__cause__ is not None
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("form", ["script", "trace", "frozen"])
def test_every_form_of_torchscript(write_model: WriteModel, tmp_path: Path, form: str) -> None:
    model: Any = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.9)).eval()
    if form == "trace":
        model = torch.jit.trace(model, torch.zeros(1, 2, 4, 4))
    else:
        model = torch.jit.script(model)
        model = torch.jit.freeze(model) if form == "frozen" else model
    directory = write_model(lambda path: model.save(str(path)), outputs=[{"name": "v", "dimensions": 1}])
    check_export(directory, tmp_path)


def test_dropout_and_batch_norm_are_in_evaluation_mode(write_model: WriteModel, tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.5))
    directory = write_model(
        lambda path: torch.jit.script(model.train()).save(str(path)), outputs=[{"name": "v", "dimensions": 1}]
    )
    answer = check_export(directory, tmp_path)[1]["v"]
    tiles = random_tiles(ModelContract.read(directory), 5, 13)
    np.testing.assert_allclose(answer, tiles.transpose(0, 2, 3, 1), 1e-4, 1e-4)
    assert not torch.jit.load(tmp_path / "exported" / TORCHSCRIPT_NAME).training


def test_channels_last(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(scripted(Last()), model={"file": "net.pt", "layout": "channels_last"})
    answer = check_export(directory, tmp_path)[1]["total"]
    np.testing.assert_allclose(answer, random_tiles(ModelContract.read(directory), 5, 13).sum(1), 1e-5, 1e-5)


def test_multiple_of_32_on_small_tiles(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(
        scripted(Strided()),
        model={"file": "net.pt", "multiple": 32},
        outputs=[{"name": "v", "dimensions": 1}],
        tile=[1, 1],
    )
    for answer, (height, width) in zip(check_export(directory, tmp_path), SIZES, strict=True):
        assert answer["v"].shape == (2, height, width, 2)


def test_normalisation_properties_and_types(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(
        scripted(TakesTuple()),
        bands=[{"name": "a", "factor": 10, "offset": 100}],
        properties=[{"name": "year", "factor": 0.5, "offset": 2}],
        model={"file": "net.pt", "type": "int32"},
        outputs=[{"name": "x", "dimensions": 0, "type": "uint8"}, {"name": "y", "dimensions": 1, "type": "double"}],
    )
    export_model(directory, tmp_path / "exported")
    tiles = np.array([[[[-9.97]], [[4]]]], np.float32)
    answer = pytorch.load_exported(tmp_path / "exported")(tiles)
    # -9.97 * 10 + 100 = 0.3, cast to 0; 4 * 0.5 + 2 = 4.
    assert answer["x"].dtype == np.uint8
    assert answer["x"].tolist() == [[[4]]]
    assert answer["y"].dtype == np.float64
    assert answer["y"].tolist() == [[[[0, 8, 3]]]]
    golden = Golden.load(tmp_path / "exported")
    assert golden.outputs["x"].dtype == np.uint8


def test_one_answer_a_patch(write_model: WriteModel, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 4 * 4, 3))
    directory = write_model(
        scripted(model), tile=[2, 2], overlap=[1, 1], output_tile=[1, 1], outputs=[{"name": "v", "dimensions": 1}]
    )
    assert check_export(directory, tmp_path, ((4, 4),))[0]["v"].shape == (2, 1, 1, 3)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(
    ("model", "dimensions"),
    [
        (Sum(), 0),
        (nn.Linear(2, 1), 0),
        (nn.Linear(2, 3), 1),
        (nn.Sequential(nn.Linear(2, 6), nn.Unflatten(1, (2, 3))), 2),
    ],
)
def test_a_table(write_model: WriteModel, tmp_path: Path, model: nn.Module, dimensions: int, layout: str) -> None:
    directory = write_model(
        scripted(model),
        model={"file": "net.pt", "layout": layout},
        bands=None,
        tile=None,
        scale=None,
        properties=[{"name": "a", "factor": 2, "offset": 1}, {"name": "b"}],
        outputs=[{"name": "v", "dimensions": dimensions}],
    )
    answer = check_export(directory, tmp_path, ((1, 1),))[0]["v"]
    tiles = random_tiles(ModelContract.read(directory), 1, 1)
    with torch.inference_mode():
        expected = model(torch.from_numpy(tiles[:, :, 0, 0] * [2, 1] + [1, 0]).float()).numpy()
    assert_close(answer, expected.reshape(answer.shape))
    assert answer.shape[:3] == (2, 1, 1)
    assert answer.ndim == dimensions + 3


def test_nothing_is_computed_that_the_contract_does_not_ask_for(write_model: WriteModel, tmp_path: Path) -> None:
    export_model(write_model(scripted(nn.Conv2d(2, 1, 1))), tmp_path / "exported")
    graph = str(torch.jit.freeze(torch.jit.load(tmp_path / "exported" / TORCHSCRIPT_NAME)).graph)
    assert "aten::conv2d" in graph
    for operator in ("aten::mul", "aten::add", "aten::index_select", "aten::permute"):
        assert operator not in graph


CODE = """
from torch import nn
def build():
    return nn.Sequential(nn.Conv2d(2, 1, 1), nn.Dropout(0.5))
other = 3
"""


def with_code(write_model: WriteModel, model: nn.Module, code: str = "code/net.py:build", text: str = CODE) -> Path:
    directory = write_model(lambda path: torch.save(model.state_dict(), path), model={"file": "net.pt", "code": code})
    (directory / "code").mkdir()
    (directory / "code" / "net.py").write_text(text)
    return directory


def test_state_dict_with_code(write_model: WriteModel, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 1, 1), nn.Dropout(0.5))
    check_export(with_code(write_model, model), tmp_path)
    with torch.inference_mode():
        expected = model.eval()(torch.ones(1, 2, 1, 1)).item()
    answer = pytorch.load_exported(tmp_path / "exported")(np.ones((1, 2, 1, 1), np.float32))
    assert answer["total"].item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("none.py:build", "none.py, which model.yaml names in model.code, does not exist; put the model's code there"),
        ("code/net.py:nothing", "net.py has no function or class nothing, which model.code names; correct model.code"),
        ("code/net.py:other", "net.py has no function or class other"),
    ],
)
def test_wrong_code(write_model: WriteModel, code: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        SourceModel(with_code(write_model, nn.Conv2d(2, 1, 1), code), allow_pickle=True)


def test_state_dict_of_another_model_names_the_weights(write_model: WriteModel) -> None:
    with pytest.raises(ModelError, match=r'Missing key.*"0\.weight".*Unexpected key.*"weight".*model\.code'):
        SourceModel(with_code(write_model, nn.Conv2d(2, 1, 1)), allow_pickle=True)


def test_code_that_fails(write_model: WriteModel) -> None:
    with pytest.raises(ModelError, match=r"net\.py.*ZeroDivisionError: division by zero.*correct"):
        SourceModel(with_code(write_model, nn.Conv2d(2, 1, 1), text="1 / 0"), allow_pickle=True)


def test_state_dict_without_code(write_model: WriteModel) -> None:
    directory = write_model(lambda path: torch.save(nn.Conv2d(2, 1, 1).state_dict(), path))
    with pytest.raises(ModelError, match=r"neither TorchScript nor, with model.code given, a state dict"):
        SourceModel(directory)
    with pytest.raises(ModelError, match=r"holds a OrderedDict, not a module; .* as model.code, such as net.py:build"):
        SourceModel(directory, allow_pickle=True)


@pytest.mark.parametrize("code", [None, "code/net.py:build"])
@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_pickle_is_not_executed_unless_allowed(
    write_model: WriteModel, tmp_path: Path, code: str | None, save: Callable[..., object]
) -> None:
    made = tmp_path / "made"
    directory = write_model(
        lambda path: save(Opens(made), path), model={"file": "net.pt"} | ({"code": code} if code else {})
    )
    (directory / "code").mkdir()
    (directory / "code" / "net.py").write_text(CODE)
    with pytest.raises(ModelError) as caught:
        SourceModel(directory)
    assert not made.exists()
    if code is None:
        assert "loading it runs any code inside it" in str(caught.value)
        assert "allow it (--allow-pickle, allow_pickle=True)" in str(caught.value)


def test_pickle_that_is_allowed(write_model: WriteModel, tmp_path: Path) -> None:
    made = tmp_path / "made"
    directory = write_model(lambda path: torch.save(Opens(made), path))
    with pytest.raises(ModelError, match="not a module"):
        SourceModel(directory, allow_pickle=True)
    assert made.exists()  # the test above would see it
    check_export(write_model(pickled(Sum())), tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"garbage"])
def test_corrupt_model_file(write_model: WriteModel, content: bytes) -> None:
    directory = write_model(lambda path: path.write_bytes(content))
    with pytest.raises(ModelError, match=r"net\.pt"):
        SourceModel(directory)
    with pytest.raises(ModelError, match=r"net\.pt cannot be loaded: .*; save the model again"):
        SourceModel(directory, allow_pickle=True)


def test_cut_torchscript(write_model: WriteModel) -> None:
    def save(path: Path) -> None:
        scripted(nn.Conv2d(2, 64, 1))(path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 3] + b"\0" * 40 + content[len(content) // 3 + 40 :])

    with pytest.raises(ModelError, match=r"net\.pt cannot be loaded: .*; save the model again"):
        SourceModel(write_model(save))


def test_missing_file(write_model: WriteModel) -> None:
    with pytest.raises(ModelError, match=r"net\.pt, which model.yaml names as model.file, does not exist; put the tra"):
        SourceModel(write_model())


@pytest.mark.parametrize("names", ["r", "rgb"])
def test_too_many_or_few_bands(write_model: WriteModel, names: str) -> None:
    directory = write_model(scripted(nn.Conv2d(2, 1, 1)), bands=[{"name": name} for name in names])
    said = (
        rf"declares: {len(names)} channels \({', '.join(names)}\), channels_first, float32 of shape \[4, {len(names)}"
    )
    with pytest.raises(ContractError, match=said + r".*it says: .*expected input.* to have 2 channels.*correct bands"):
        export_model(directory, directory.parent / "exported")
    assert not (directory.parent / "exported").exists()


def test_wrong_layout(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(scripted(nn.Conv2d(2, 1, 1)), model={"file": "net.pt", "layout": "channels_last"})
    with pytest.raises(
        ContractError, match=r"channels_last, float32 of shape \[4, 16, 16, 2\].*correct bands, model.la"
    ):
        export_model(directory, tmp_path / "exported")


def test_wrong_type(write_model: WriteModel, tmp_path: Path) -> None:
    directory = write_model(scripted(nn.Conv2d(2, 1, 1)), model={"file": "net.pt", "type": "float64"})
    with pytest.raises(ContractError, match=r"float64 of shape .*[Dd]ouble.*model.type"):
        export_model(directory, tmp_path / "exported")


def test_answer_that_is_no_tensor(write_model: WriteModel) -> None:
    class Number(nn.Module):
        def forward(self, x: Tensor) -> int:
            return x.shape[0]

    with pytest.raises(ContractError, match="it says: the model returns a int, not tensors"):
        SourceModel(write_model(scripted(Number()))).predict(np.zeros((1, 2, 4, 4), np.float32))
