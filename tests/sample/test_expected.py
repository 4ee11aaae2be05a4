from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.answers import answer
from components.earthengine.errors import ContractError, ModelError
from components.golden import tiles_for
from components.sample import expected
from components.source import SourceModel
from tests.conftest import WriteModel

RANDOM = np.random.default_rng(0)
SCENE = {name: RANDOM.random((40, 30), np.float32) for name in ("B2", "B3", "B4", "B8")}
BANDS = [{"name": name} for name in SCENE]


class Weighted(nn.Module):
    """Its channels' sum, the later the heavier."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * torch.arange(1, x.size(1) + 1)[:, None, None]).sum(1)


class WeightedTable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * torch.arange(1, x.size(1) + 1)).sum(1)


class RefusesNegative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool((x[:, 0] < 0).any()):
            raise ValueError("a negative number in the first channel")
        return (x * torch.arange(1, x.size(1) + 1)[:, None, None]).sum(1)


def saved(model: nn.Module) -> Any:
    return lambda path: torch.jit.script(model).save(str(path))


def weighted(*planes: Any) -> Any:
    """What Weighted answers, by the training code."""
    return sum(weight * plane for weight, plane in enumerate(planes, 1))


def check(directory: Path, **arrays: Any) -> None:
    """Try the model in a directory with a sample of these arrays."""
    np.savez(directory / "sample.npz", **{name.replace("output_", "output."): array for name, array in arrays.items()})
    source = SourceModel(directory)
    answer(source, tiles_for(source.contract, directory))


def test_what_agrees_passes(write_model: WriteModel) -> None:
    directory = write_model(saved(Weighted()), bands=BANDS)
    check(directory, **SCENE, output_total=weighted(*SCENE.values()))
    check(directory, **SCENE)


@pytest.mark.parametrize(("one", "two"), [("B2", "B4"), ("B3", "B8"), ("B4", "B8")])
def test_bands_in_another_order_are_named(write_model: WriteModel, one: str, two: str) -> None:
    order = [{one: two, two: one}.get(name, name) for name in SCENE]
    directory = write_model(saved(Weighted()), bands=[{"name": name} for name in order])
    with pytest.raises(
        ContractError,
        match=r"output total agrees with output.total of the sample \(sample.npz, 30 x 40 pixels, 6 tiles\) at 0.\d% "
        r"of 1200 values, at least 50% must; at row \d+, column \d+ the model answers .* is expected; "
        rf"they agree where ({one} and {two}|{two} and {one}) change places: correct the order of bands$",
    ):
        check(directory, **SCENE, output_total=weighted(*SCENE.values()))


def test_the_place_is_the_one_furthest_off(write_model: WriteModel) -> None:
    directory = write_model(saved(Weighted()), bands=BANDS)
    total = weighted(*SCENE.values()) + 1
    total[33, 21] = 250
    got = weighted(*SCENE.values())[33, 21]
    with pytest.raises(
        ContractError, match=rf"at row 33, column 21 the model answers {got:.6g} where 250 is expected; correct bands, "
    ):
        check(directory, **SCENE, output_total=total)


@pytest.mark.parametrize(("right", "near"), [(("B2", "B3"), "B4"), (("B2", "B4"), "B3")])
def test_of_several_pairs_the_one_that_agrees_best_is_named(
    write_model: WriteModel, right: tuple[str, str], near: str
) -> None:
    scene = {name: SCENE[name].copy() for name in ("B2", "B3", "B4")}
    # Where a band is made of the two others, a second pair makes the answers agree.
    one, two = (scene[name][:25] for name in (right if near == "B4" else ("B3", "B4")))
    scene[near if near == "B4" else "B2"][:25] = (one + two) / 2
    order = [{right[0]: right[1], right[1]: right[0]}.get(name, name) for name in scene]
    directory = write_model(saved(Weighted()), bands=[{"name": name} for name in order], tile=[30, 40])
    with pytest.raises(ContractError, match=rf"they agree where {right[1]} and {right[0]} change places"):
        check(directory, **scene, output_total=weighted(*scene.values()))


def test_bands_are_exchanged_in_the_tiles_with_the_most_pixels(write_model: WriteModel) -> None:
    directory = write_model(saved(Weighted()), bands=[BANDS[2], BANDS[1], BANDS[0], BANDS[3]])
    scene = {name: np.where(np.arange(40)[:, None] < 32, 0, plane) for name, plane in SCENE.items()}
    with pytest.raises(ContractError, match=r"of 240 values, .* they agree where B4 and B2 change places"):
        check(directory, **scene, output_total=weighted(*scene.values()))


def test_a_band_keeps_its_factor_where_it_changes_places(write_model: WriteModel) -> None:
    bands = [{"name": "dem", "factor": 0.01, "offset": 1}, {"name": "red"}]
    dem = 100 * SCENE["B2"]
    directory = write_model(saved(Weighted()), bands=bands)
    with pytest.raises(ContractError, match="they agree where dem and red change places"):
        check(directory, dem=dem, red=SCENE["B3"], output_total=weighted(SCENE["B3"], dem / 100 + 1))


def test_bands_beside_array_valued_ones_change_places_too(write_model: WriteModel) -> None:
    bands = [{"name": "red"}, {"name": "series", "shape": [2]}, {"name": "green"}]
    directory = write_model(saved(Weighted()), bands=bands, properties=[{"name": "year"}])
    series = RANDOM.random((40, 30, 2))
    total = weighted(SCENE["B3"], series[..., 0], series[..., 1], SCENE["B2"], 7)
    with pytest.raises(ContractError, match="they agree where red and green change places"):
        check(directory, red=SCENE["B2"], green=SCENE["B3"], series=series, year=7, output_total=total)


def test_only_the_first_bands_are_exchanged(write_model: WriteModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected, "_BANDS", 3)
    directory = write_model(saved(Weighted()), bands=BANDS)
    with pytest.raises(
        ContractError, match=r"is expected; correct bands, their factor and offset, or model.layout, or"
    ):
        check(directory, **SCENE, output_total=weighted(*(SCENE[name] for name in ("B2", "B3", "B8", "B4"))))


def test_an_order_that_the_model_refuses_is_no_hint(write_model: WriteModel) -> None:
    bands = [{"name": name} for name in ("a", "b", "c")]
    scene = {"a": SCENE["B2"], "b": -SCENE["B3"] - 1, "c": SCENE["B4"]}
    directory = write_model(saved(RefusesNegative()), bands=bands, tile=[10, 10])
    with pytest.raises(ContractError, match="they agree where a and c change places"):
        check(directory, **scene, output_total=weighted(scene["c"], scene["b"], scene["a"]))


def test_edges_of_tiles_may_differ(write_model: WriteModel) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(4, 1, 3, padding=1)
    scene = torch.from_numpy(np.stack(list(SCENE.values())))[None]
    with torch.inference_mode():
        total = model(scene)[0, 0].numpy()
    check(write_model(saved(model), bands=BANDS), **SCENE, output_total=total)
    # With the overlap that the convolution asks for all agree, were the tolerance ever so small.
    check(write_model(saved(model), bands=BANDS, overlap=[1, 1]), **SCENE, output_total=total)


def test_half_of_the_values_must_agree(write_model: WriteModel) -> None:
    directory = write_model(saved(Weighted()), bands=BANDS)
    total = weighted(*SCENE.values())
    total.flat[: total.size // 2] += 1
    check(directory, **SCENE, output_total=total)
    total.flat[total.size // 2] += 1
    with pytest.raises(ContractError, match=r"at 49.9% of 1200 values"):
        check(directory, **SCENE, output_total=total)


def test_the_contracts_tolerance_counts(write_model: WriteModel) -> None:
    total = weighted(*SCENE.values()) + 0.1
    check(write_model(saved(Weighted()), bands=BANDS, tolerance={"absolute": 0.11}), **SCENE, output_total=total)
    with pytest.raises(ContractError, match=r"at 0.0% of 1200 values"):
        check(write_model(saved(Weighted()), bands=BANDS, tolerance={"absolute": 0.09}), **SCENE, output_total=total)


def test_masked_pixels_do_not_count(write_model: WriteModel) -> None:
    directory = write_model(saved(Weighted()), bands=[BANDS[2], BANDS[1], BANDS[0], BANDS[3]])
    scene = {name: plane.copy() for name, plane in SCENE.items()}
    for plane in scene.values():
        plane[:, 5:] = np.nan
    total = np.nan_to_num(weighted(*scene.values()))
    with pytest.raises(ContractError, match=r"at 0.0% of 200 values.*they agree where B4 and B2 change places"):
        check(directory, **scene, output_total=total)


def test_nan_expects_nothing(write_model: WriteModel) -> None:
    directory = write_model(saved(Weighted()), bands=BANDS)
    total = weighted(*SCENE.values())
    total[:30] = np.nan
    check(directory, **SCENE, output_total=total)
    with pytest.raises(ContractError, match="of 300 values"):
        check(directory, **SCENE, output_total=total + 1)
    with pytest.raises(
        ModelError, match=r"output.total of the sample .* expects no number at a pixel that is not mask"
    ):
        check(directory, **SCENE, output_total=np.full((40, 30), np.nan))


def test_expected_answers_of_another_depth(write_model: WriteModel) -> None:
    directory = write_model(saved(nn.Conv2d(4, 3, 1)), bands=BANDS, outputs=[{"name": "v", "dimensions": 1}])
    with pytest.raises(
        ModelError, match=r"output.v of the sample has shape \[40, 30, 2\], the model answers \[40, 30, 3\]: write"
    ):
        check(directory, **SCENE, output_v=np.zeros((40, 30, 2)))


def test_vectors_and_whole_numbers(write_model: WriteModel) -> None:
    model = nn.Conv2d(4, 3, 1)
    scene = torch.from_numpy(np.stack(list(SCENE.values())))[None]
    with torch.inference_mode():
        vectors = model(scene)[0].permute(1, 2, 0).numpy()
    outputs = [{"name": "v", "dimensions": 1}]
    check(write_model(saved(model), bands=BANDS, outputs=outputs), **SCENE, output_v=vectors)
    wrong = [BANDS[0], BANDS[3], BANDS[2], BANDS[1]]
    with pytest.raises(ContractError, match=r"of 3600 values, .* they agree where B8 and B3 change places"):
        check(write_model(saved(model), bands=wrong, outputs=outputs), **SCENE, output_v=vectors)
    number = [{"name": "total", "dimensions": 0, "type": "uint8"}]
    whole = {name: np.arange(1200).reshape(40, 30) % 20 for name in SCENE}
    directory = write_model(saved(Weighted()), bands=BANDS, outputs=number)
    check(directory, **whole, output_total=weighted(*whole.values()))
    with pytest.raises(ContractError, match=r"at 0.0% of 1140 values"):
        check(directory, **whole, output_total=weighted(*whole.values()) - 300)


def test_a_table(write_model: WriteModel) -> None:
    properties = [{"name": "area"}, {"name": "height"}, {"name": "depth"}]
    of_a_table = {"bands": None, "tile": None, "scale": None}
    area, height, depth = RANDOM.random((3, 50))
    given = {"area": area, "height": height, "depth": depth}
    check(
        write_model(saved(WeightedTable()), **of_a_table, properties=properties),
        **given,
        output_total=weighted(area, height, depth),
    )
    with pytest.raises(
        ContractError,
        match=r"\(sample.npz, 50 features\) at 0.0% of 50 values, .*; at feature \d+ the model answers .*; they agree "
        r"where height and depth change places: correct the order of properties",
    ):
        check(
            write_model(saved(WeightedTable()), **of_a_table, properties=properties),
            **given,
            output_total=weighted(area, depth, height),
        )
