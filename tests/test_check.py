from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import Affine
from torch import Tensor, nn

from components.check import Finding, check_model, check_platform
from components.earthengine.errors import ContractError, ImageError
from tests.conftest import WriteModel, contract_of

TODAY = date(2026, 11, 21)
PREBUILT = "registry/vertex-ai/prediction"


class Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


class Diverged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) * torch.nan


class Widens(nn.Module):
    """Answers far more than it is sent."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1, keepdim=True).repeat(1, 2000, 1, 1)


def script(path: Path) -> None:
    torch.jit.script(Net()).save(str(path))


def check(directory: Path, image: str | None = None, **given: Any) -> dict[tuple[str, str], str]:
    findings: list[Finding] = list(check_model(directory, image, given.pop("today", TODAY), **given))
    return {(finding.what, finding.verdict): finding.text for finding in findings}


def test_good_model(write_model: WriteModel) -> None:
    found = check(write_model(script))
    assert found.keys() == {(what, "passed") for what in ("contract", "payload", "image", "golden", "model")}
    assert found["contract", "passed"] == "small: 2 channels, 1 outputs"
    assert "bytes in SERIALIZED_TF_TENSORS" in found["payload", "passed"]
    assert found["image", "passed"] == "REPOSITORY/serving-pytorch serves pytorch and SERIALIZED_TF_TENSORS"
    assert found["golden", "passed"] == "made from the contract"
    assert found["model", "passed"] == "answers a patch of 16 x 16 pixels as declared: total [16, 16]"


def test_bad_contract_ends_the_check(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert found.keys() == {("contract", "failed")}
    assert "does not exist" in found["contract", "failed"]


def test_every_other_fault_is_found_in_one_go(write_model: WriteModel) -> None:
    directory = write_model(tile=[4096, 4096])
    (directory / "sample.npz").touch()
    found = check(directory, "nginx")
    wrong = ("payload", "image", "golden", "model")
    assert found.keys() == {("contract", "passed"), *((what, "failed") for what in wrong)}
    assert "largest square tile that fits" in found["payload", "failed"]
    assert "is not known" in found["image", "failed"]
    assert "sample.npz cannot be used as sample" in found["golden", "failed"]
    assert "does not exist; put the trained model there" in found["model", "failed"]


def test_where_the_golden_tiles_come_from(write_model: WriteModel) -> None:
    directory = write_model(script)
    plane = np.ones((40, 30), np.float32)
    with rasterio.open(
        directory / "scene.tif",
        "w",
        driver="GTiff",
        count=2,
        height=40,
        width=30,
        dtype="float32",
        transform=Affine(1e-4, 0, 11, 0, -1e-4, 48),
    ) as file:
        file.write(np.stack([plane, plane]))
        file.descriptions = ("red", "green")
    assert check(directory)["golden", "passed"] == "scene.tif, 30 x 40 pixels, 6 tiles"
    arrays: dict[str, Any] = {"red": plane, "green": plane, "output.total": 2 * plane}
    np.savez(directory / "sample.npz", **arrays)
    found = check(directory)
    assert found["golden", "passed"] == "sample.npz, 30 x 40 pixels, 6 tiles"
    assert found["model", "passed"].endswith("as declared: total [16, 16]; total as expected")


def test_without_a_good_sample_the_model_is_tried_with_made_tiles(write_model: WriteModel) -> None:
    directory = write_model(script)
    np.savez(directory / "sample.npz", red=np.ones((40, 30)))
    found = check(directory)
    assert "sample.npz lacks green" in found["golden", "failed"]
    assert found["model", "passed"] == "answers a patch of 16 x 16 pixels as declared: total [16, 16]"


def test_answers_that_cannot_be_right(write_model: WriteModel) -> None:
    directory = write_model(script)
    plane = np.ones((40, 30), np.float32)
    arrays: dict[str, Any] = {"red": plane, "green": plane, "output.total": plane}
    np.savez(directory / "sample.npz", **arrays)
    assert "output total agrees with output.total of the sample" in check(directory)["model", "failed"]
    (directory / "sample.npz").unlink()
    changed = write_model(lambda path: torch.jit.script(Diverged()).save(str(path)))
    assert "output total of the model is NaN or infinite" in check(changed)["model", "failed"]


def test_model_that_disagrees(write_model: WriteModel) -> None:
    found = check(write_model(script, outputs=[{"name": "a", "dimensions": 1}]))
    assert "declare dimensions: 0" in found["model", "failed"]


def test_pickle(write_model: WriteModel) -> None:
    directory = write_model(lambda path: torch.save(Net(), path))
    assert "--allow-pickle" in check(directory)["model", "failed"]
    assert ("model", "passed") in check(directory, allow_pickle=True)


def test_answer_larger_than_the_endpoint_allows(write_model: WriteModel) -> None:
    directory = write_model(
        lambda path: torch.jit.script(Widens()).save(str(path)), outputs=[{"name": "a", "dimensions": 1}]
    )
    text = check(directory)["model", "failed"]
    assert text.startswith("the answer to one tile takes 2,7")
    assert text.endswith("a shared endpoint allows 1,500,000; declare a smaller tile in model.yaml")


def test_image_of_the_other_framework(write_model: WriteModel) -> None:
    found = check(write_model(script), f"{PREBUILT}/tf2-cpu.2-15")
    assert "serves tensorflow, the model is pytorch; use REPOSITORY/serving-pytorch" in found["image", "failed"]
    assert ("model", "passed") in found


def test_image_near_and_past_its_end(write_model: WriteModel) -> None:
    directory = write_model(framework="tensorflow", payload_format="GRPC_TF_TENSORS")
    image = f"{PREBUILT}/tf2-cpu.2-15:latest"
    near = check(directory, image)
    assert "ends on 14 Jan 2027, in 54 days" in near["image", "warning"]
    assert ("image", "passed") in near
    past = check(directory, image, today=date(2027, 1, 14))
    assert "ended on 14 Jan 2027" in past["image", "failed"]
    assert ("image", "passed") not in past


def test_format_that_the_image_cannot_answer(write_model: WriteModel) -> None:
    found = check(write_model(script, payload_format="GRPC_TF_TENSORS"), f"{PREBUILT}/pytorch-cpu.2-4")
    assert "cannot answer GRPC_TF_TENSORS" in found["image", "failed"]


def test_table(write_model: WriteModel) -> None:
    changes = {"bands": None, "tile": None, "scale": None, "properties": [{"name": "area"}, {"name": "height"}]}
    found = check(write_model(script, **changes))
    assert found["payload", "passed"].startswith("a feature takes ")
    assert "answers a feature as declared: total [1, 1]" in found["model", "passed"]


def test_platform() -> None:
    ours = "r/serving-pytorch"
    assert check_platform(contract_of(), ours, TODAY) == []
    warm = contract_of(framework="tensorflow", payload_format="GRPC_TF_TENSORS")
    assert len(check_platform(warm, f"{PREBUILT}/tf2-cpu.2-15", TODAY)) == 2
    with pytest.raises(ContractError, match="largest square tile that fits"):
        check_platform(contract_of(tile=[4096, 4096]), ours, TODAY)
    with pytest.raises(ImageError, match="serves tensorflow"):
        check_platform(contract_of(), "r/serving-tensorflow", TODAY)


class Roots(nn.Module):
    """Answers 600 numbers a pixel, of many digits where the pixel is not masked."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :1] / 3).sqrt().repeat(1, 600, 1, 1)


def test_an_answer_in_text_is_as_large_as_its_numbers_are_long(write_model: WriteModel) -> None:
    directory = write_model(
        lambda path: torch.jit.script(Roots()).save(str(path)),
        outputs=[{"name": "a", "dimensions": 1}],
        payload_format="RAW_JSON",
    )
    plane = np.random.default_rng(0).random((16, 32)).astype(np.float32)
    plane[:, :16] = 0
    np.savez(directory / "sample.npz", red=plane, green=plane)
    text = check(directory)["model", "failed"]
    assert text.startswith("the answer to one tile takes 1,")
    assert text.endswith("bytes in RAW_JSON, a shared endpoint allows 1,500,000; declare a smaller tile in model.yaml")
