"""Bad models beside a good one on the same endpoint: each is stopped where it first shows, with its cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components import local
from components.earthengine.contract import Framework
from components.vertex import Vertex
from tests.road.conftest import changed, pipeline, upload_folder

pytestmark = pytest.mark.slow

NAME = "land-cover-pytorch"


class WithConvolution(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(4, 3, 1)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.convolution(given)
        return answer


class NotANumber(WithConvolution):
    """What training leaves that diverged."""

    def __init__(self) -> None:
        super().__init__()
        torch.nn.init.constant_(self.convolution.weight, float("nan"))


class NoData(WithConvolution):
    """Refuses tiles of nothing but masked pixels, which a server's warm-up sends."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        assert bool(given.abs().sum() > 0), "there is no data"
        answer: torch.Tensor = self.convolution(given)
        return answer


class Slow(WithConvolution):
    """Takes a hundred products of large matrices for any request."""

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.convolution(given)
        wasted = torch.zeros(800, 800) + answer.mean()
        for _ in range(100):
            wasted = torch.tanh(wasted @ wasted)
        return answer + 0 * wasted[0, 0]


def saved(module: torch.nn.Module) -> Callable[[Path], None]:
    return lambda model: torch.jit.script(module).save(str(model / "model.pt"))


def crop_sample(model: Path, **further: Any) -> None:
    """Leave one tile of the sample, without the answers of the model that it was made with."""
    with np.load(model / "sample.npz") as file:
        bands = {name: file[name][:64, :64] for name in file if not name.startswith("output.")}
    np.savez(model / "sample.npz", allow_pickle=False, **bands, **further)


@dataclass(frozen=True)
class Bad:
    keys: dict[str, Any]
    change: Callable[[Path], None]
    step: str
    cause: str
    parameters: tuple[str, ...] = ()


def another(module: torch.nn.Module) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        saved(module)(model)
        crop_sample(model)

    return change


BANDS = [{"name": name, "factor": 1e-4} for name in ("B4", "B3", "B2", "B8")]
BAD = {
    "swapped channels": Bad(
        {"bands": BANDS},
        lambda _: None,
        "export",
        "they agree where B4 and B2 change places",
    ),
    "missing output": Bad(
        {"outputs": [{"name": "landcover", "dimensions": 1}, {"name": "certainty", "dimensions": 0}]},
        another(WithConvolution()),
        "export",
        "declares 2 outputs (landcover, certainty), the model gives 1",
    ),
    "NaN": Bad({}, another(NotANumber()), "export", "training diverged, or the model divides by 0"),
    "server that cannot start": Bad({}, another(NoData()), "preflight", "there is no data"),
    "too slow": Bad({}, another(Slow()), "verify", "the model is too slow", ("-p", "max_latency_seconds=0.25")),
}


@pytest.fixture(scope="module")
def good(vertex: Vertex, trained: dict[Framework, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state of the endpoint when the good model has been released."""
    out = tmp_path_factory.mktemp("good")
    done = submit(upload_folder(trained["pytorch"], "good"), out)
    assert done.returncode == 0, done.stderr
    assert "is verified and has all the traffic" in done.stdout
    found = state(vertex)
    assert [list(found["traffic"].values()), found["endpoints"]] == [[100], [NAME]]
    return found


def submit(uri: str, out: Path, *more: str) -> Any:
    return pipeline("submit", uri, "--project", local.PROJECT, "--repository", "images", "--output", out, *more)


def state(vertex: Vertex) -> dict[str, Any]:
    endpoint = vertex.endpoints.get_endpoint(name=f"{vertex.parent}/endpoints/{NAME}")
    return {
        "traffic": dict(endpoint.traffic_split),
        "deployed": [model.id for model in endpoint.deployed_models],
        "endpoints": sorted(
            each.name.rsplit("/")[-1] for each in vertex.endpoints.list_endpoints(parent=vertex.parent)
        ),
    }


@pytest.mark.parametrize("what", BAD)
def test_a_bad_model_is_stopped_where_it_first_shows_and_the_endpoint_stays_as_it_was(
    vertex: Vertex, trained: dict[Framework, Path], good: dict[str, Any], tmp_path: Path, what: str
) -> None:
    bad = BAD[what]
    model = changed(trained["pytorch"], tmp_path / "model", **bad.keys)
    bad.change(model)
    versions = len(list(vertex.models.list_model_versions(name=f"{vertex.parent}/models/{NAME}")))
    done = submit(upload_folder(model, what.replace(" ", "-")), tmp_path / "out", *bad.parameters)
    assert done.returncode == 1
    assert f"✗ failed {bad.step}" in done.stdout
    assert bad.cause in done.stderr
    assert state(vertex) == good
    registered = len(list(vertex.models.list_model_versions(name=f"{vertex.parent}/models/{NAME}"))) - versions
    assert registered == (bad.step == "verify")
    if bad.step == "verify":
        assert bad.cause in (tmp_path / "out" / "report.html").read_text()
