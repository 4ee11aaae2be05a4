"""What the server loads from an archive, and what it runs it with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from components.archive import archive_model
from components.earthengine.errors import ContractError, ModelError
from components.export import export_model
from containers.serving import model, onnx_model
from containers.serving.cores import cores
from containers.serving.onnx_model import OnnxModel
from containers.serving.torch_model import TorchModel
from tests.conftest import WriteModel, assert_close

OUTPUTS = [{"name": "a", "dimensions": 0, "type": "double"}, {"name": "b", "dimensions": 1, "type": "uint8"}]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        answer = torch.softmax(self.convolution(x), 1)
        return answer[:, 0], answer * 250


class OneSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1).reshape(-1, 16, 16)


def write_archive(write_model: WriteModel, net: nn.Module, **changes: Any) -> Path:
    """Export and archive a scripted module; its `.mar`."""
    directory = write_model(lambda path: torch.jit.script(net.eval()).save(str(path)), **changes)
    export_model(directory, directory.parent / "exported")
    archive_model(directory.parent / "exported", directory.parent / "archived")
    return directory.parent / "archived" / "model.mar"


def without(archive: Path, *left_out: str) -> Path:
    """A copy of an archive without some of its files."""
    copy = archive.with_name(f"part-of-{archive.name}")
    with zipfile.ZipFile(archive) as given, zipfile.ZipFile(copy, "w") as made:
        for name in given.namelist():
            if name not in left_out:
                made.writestr(name, given.read(name))
    return copy


@pytest.fixture
def archive(write_model: WriteModel) -> Path:
    torch.manual_seed(0)
    return write_archive(write_model, Net(), outputs=OUTPUTS)


def test_onnx_runtime_answers_as_torchscript_does(archive: Path) -> None:
    by_onnx, by_torch = model.load(archive), model.load(without(archive, "model.onnx"))
    assert isinstance(by_onnx, OnnxModel)
    assert isinstance(by_torch, TorchModel)
    assert by_onnx.contract == by_torch.contract
    assert by_onnx.runtime == f"ONNX Runtime {onnxruntime.__version__}, {cores()} threads"
    assert by_torch.runtime == f"PyTorch {torch.__version__}, {cores()} threads"
    assert torch.get_num_threads() == cores()
    for count, height, width in ((1, 16, 16), (3, 5, 13), (8, 64, 64)):
        tiles = np.random.default_rng(0).normal(0, 1, (count, 2, height, width)).astype(np.float32)
        got, expected = by_onnx.predict(tiles), by_torch.predict(tiles)
        assert list(got) == list(expected) == ["a", "b"]
        assert got["a"].dtype == np.float64
        assert got["b"].dtype == np.uint8
        assert_close(got["a"], expected["a"])
        assert np.abs(got["b"].astype(int) - expected["b"]).max() <= 1  # cut to whole numbers


def test_answers_are_not_copied(archive: Path) -> None:
    answer = model.load(archive).predict(np.ones((1, 2, 4, 4), np.float32))["b"]
    assert not answer.flags.owndata


@pytest.fixture
def saved_model(write_model: WriteModel) -> Path:
    """An archived SavedModel."""
    import keras

    net = keras.Sequential([keras.Input((None, None, 2)), keras.layers.Conv2D(3, 3, padding="same")])
    changes = {"framework": "tensorflow", "model": {"file": "net.keras"}, "outputs": [{"name": "v", "dimensions": 1}]}
    directory = write_model(net.save, **changes)
    export_model(directory, directory.parent / "exported")
    archive_model(directory.parent / "exported", directory.parent / "archived")
    return directory.parent / "archived"


def test_onnx_runtime_answers_as_a_saved_model_does(saved_model: Path) -> None:
    by_onnx = model.load(saved_model)
    assert isinstance(by_onnx, OnnxModel)
    (saved_model / "model.onnx").unlink()
    tiles = np.random.default_rng(0).normal(0, 1, (3, 2, 5, 13)).astype(np.float32)
    np.save(saved_model / "tiles.npy", tiles)
    # Alone, since TensorFlow takes a number of threads only before it is used.
    program = (
        "import sys\nfrom pathlib import Path\nfrom containers.serving import model\nimport numpy as np\n"
        "folder = Path(sys.argv[1])\nloaded = model.load(folder)\nprint(loaded.runtime)\n"
        "np.save(folder / 'answer.npy', loaded.predict(np.load(folder / 'tiles.npy'))['v'])\n"
    )
    assert run(program, saved_model).startswith("TensorFlow ")
    assert_close(by_onnx.predict(tiles)["v"], np.load(saved_model / "answer.npy"))


def test_a_gpu_comes_before_onnx(saved_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_tensorflow_has_gpu", lambda: True)
    monkeypatch.setattr("containers.serving.tensorflow_model.TensorFlowModel", lambda path: path)
    loaded: object = model.load(saved_model)
    assert loaded == saved_model


def test_broken_onnx_beside_a_saved_model(saved_model: Path) -> None:
    (saved_model / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"archived: ONNX Runtime .* cannot load model\.onnx .*; export"):
        model.load(saved_model)


def run(program: str, path: Path) -> str:
    """What a program in Python prints, given a path."""
    command = [sys.executable, "-W", "ignore", "-c", program, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def imported(path: Path) -> list[str]:
    """The frameworks that are imported where an artifact is loaded and asked."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom containers.serving import model\nimport numpy as np\n"
        "model.load(Path(sys.argv[1])).predict(np.ones((1, 2, 4, 4), np.float32))\n"
        "print(*sorted({'torch', 'onnxruntime', 'onnx', 'tensorflow'} & set(sys.modules)))\n"
    )
    return run(program, path).split()


def test_torch_is_not_imported_for_onnx(archive: Path) -> None:
    assert imported(archive) == ["onnxruntime"]
    assert imported(without(archive, "model.onnx")) == ["torch"]


def test_tensorflow_is_not_imported_for_onnx(saved_model: Path) -> None:
    assert imported(saved_model) == ["onnxruntime"]
    (saved_model / "model.onnx").unlink()
    assert imported(saved_model) == ["tensorflow"]


def test_cuda_comes_before_onnx(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_torch_has_cuda", lambda: True)
    assert isinstance(model.load(archive), TorchModel)


def test_a_driver_alone_is_no_cuda(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: None)
    assert isinstance(model.load(archive), TorchModel if torch.cuda.is_available() else OnnxModel)


@pytest.mark.parametrize(("left_out", "module"), [((), "onnxruntime"), (("model.onnx",), "torch")])
def test_what_runs_it_is_not_installed(
    archive: Path, monkeypatch: pytest.MonkeyPatch, left_out: Iterable[str], module: str
) -> None:
    monkeypatch.setattr(model, "find_spec", lambda name: None if name == module else object())
    with pytest.raises(ModelError, match=f"{module} is not installed here; use the serving image for PyTorch"):
        model.load(without(archive, *left_out))


@pytest.mark.parametrize("missing", ["MAR-INF/MANIFEST.json", "model.yaml", "model.pt"])
def test_torchscript_archive_that_lacks_a_file(archive: Path, missing: str) -> None:
    with pytest.raises(ModelError, match=f"is no archive of ours: .*{missing}"):
        model.load(without(archive, "model.onnx", missing))


def test_onnx_archive_that_lacks_the_contract(archive: Path) -> None:
    with pytest.raises(ModelError, match=r"is no archive of ours: .*model\.yaml"):
        model.load(without(archive, "model.yaml"))


def test_torchscript_is_not_read_for_onnx(archive: Path) -> None:
    assert isinstance(model.load(without(archive, "model.pt")), OnnxModel)


def with_file(archive: Path, name: str, content: bytes) -> Path:
    copy = without(archive, name)
    with zipfile.ZipFile(copy, "a") as made:
        made.writestr(name, content)
    return copy


def test_a_hostile_saved_model_must_not_be_served(saved_model: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    (saved_model / "model.onnx").unlink()
    path = saved_model / "saved_model.pb"
    graph = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    graph.meta_graphs[0].graph_def.library.function[0].node_def.add(name="writes", op="WriteFile")
    path.write_bytes(graph.SerializeToString())
    program = (
        "import sys\nfrom pathlib import Path\nfrom containers.serving import model\n"
        "try:\n    model.load(Path(sys.argv[1]))\nexcept model.ModelError as error:\n    print(error)\n"
    )
    assert re.search(r"writes \(WriteFile\) reaches files.* must not be served", run(program, saved_model))


def test_broken_files(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ONNX Runtime .* cannot load model\.onnx .*; export the model with this"):
        model.load(with_file(archive, "model.onnx", b"garbage"))
    with pytest.raises(ModelError, match=r"PyTorch .* cannot load its TorchScript"):
        model.load(with_file(without(archive, "model.onnx"), "model.pt", b"garbage"))
    with pytest.raises(ContractError, match=r"model\.mar: model\.yaml"):
        model.load(with_file(archive, "model.yaml", b"name: x"))
    (tmp_path / "broken.mar").write_bytes(b"PK garbage")
    with pytest.raises(ModelError, match=r"cannot be read as a \.mar .*; archive the model again"):
        model.load(tmp_path / "broken.mar")


def test_a_size_that_the_model_refuses_raises_and_it_goes_on(write_model: WriteModel) -> None:
    loaded = model.load(write_archive(write_model, OneSize()))
    assert isinstance(loaded, OnnxModel)
    with pytest.raises(Exception, match="Reshape"):
        loaded.predict(np.ones((1, 2, 5, 5), np.float32))
    assert loaded.predict(np.ones((2, 2, 16, 16), np.float32))["total"].shape == (2, 16, 16)


class Session:
    """Stands for ONNX Runtime's, as slow as told."""

    def __init__(self, work: int) -> None:
        self.work = work

    def get_inputs(self) -> list[Any]:
        return [type("Input", (), {"name": "tiles"})]

    def run(self, _names: None, _given: dict[str, Any]) -> None:
        sum(range(self.work))


@pytest.mark.parametrize(("blocks", "plain"), [(100, 100_000), (100_000, 100)])
@pytest.mark.parametrize("size", [10, 2 << 20])
def test_small_networks_get_the_faster_layout(
    monkeypatch: pytest.MonkeyPatch, blocks: int, plain: int, size: int
) -> None:
    levels = onnxruntime.GraphOptimizationLevel
    works = {levels.ORT_ENABLE_ALL: blocks, levels.ORT_ENABLE_EXTENDED: plain}
    monkeypatch.setattr(onnx_model, "_opened", lambda *given: Session(works[given[2]]))
    chosen: Any = onnx_model._fastest(bytes(size), 1, np.zeros((1, 1, 1, 1), np.float32))
    assert chosen.work == (min(blocks, plain) if size == 10 else blocks)


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5})


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("quota", "expected"), [(None, 4), (400_000, 4), (800_000, 4), (200_000, 2), (150_000, 2), (100_001, 2), (5_000, 1)]
)
def test_cores_of_a_quota(tmp_path: Path, quota: int | None, expected: int) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    (first / "cpu").mkdir(parents=True)
    (first / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota or -1}\n")
    (first / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    second.mkdir()
    (second / "cpu.max").write_text(f"{quota or 'max'} 100000\n")
    assert cores(first) == cores(second) == expected


@pytest.mark.usefixtures("four_cores")
def test_cores_without_a_control_group(tmp_path: Path) -> None:
    assert cores(tmp_path / "none") == 4


def test_cores_of_this_process() -> None:
    assert 1 <= cores() <= len(os.sched_getaffinity(0))
