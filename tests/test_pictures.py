from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.earthengine.contract import Output
from components.earthengine.payloads import Outputs
from components.earthengine.tiles import Grid
from components.pictures import DIFFERENCE, compared, draw, save_pictures, span, true_colour
from tests.conftest import contract_of

LABELS = ["Urban", "Vegetation and everything else that is green", "Water"]
COLOURS = ["#d55e00", "#009e73", "#0072b2"]


def rgb(colour: str) -> list[int]:
    return list(bytes.fromhex(colour[1:]))


def output(**keys: Any) -> Output:
    return Output.model_validate({"name": "o", "dimensions": 0} | keys)


def test_classes_have_their_colours() -> None:
    classes = np.array([[0, 1], [2, 9]], np.uint8)
    picture = draw(output(labels=LABELS, colours=COLOURS), classes)
    assert picture.dtype == np.uint8
    assert picture.tolist() == [[rgb(COLOURS[0]), rgb(COLOURS[1])], [rgb(COLOURS[2])] * 2]


def test_a_labelled_vector_is_drawn_as_its_largest_element() -> None:
    chances = np.array([[[0.1, 0.7, 0.2], [0, 0, 1]]], np.float32)
    picture = draw(output(dimensions=1, labels=LABELS, colours=COLOURS), chances)
    assert picture.tolist() == [[rgb(COLOURS[1]), rgb(COLOURS[2])]]


def test_labels_without_colours_have_different_ones() -> None:
    picture = draw(output(labels=LABELS), np.array([[0, 1, 2]]))
    assert len({tuple(pixel) for pixel in picture[0].tolist()}) == 3


def test_numbers_are_drawn_on_a_ramp_over_the_range() -> None:
    drawn = draw(output(range=[0, 2], colours=["#000000", "#ff8000"]), np.array([[-5, 0, 1, 2, 99]], np.float32))
    assert drawn.tolist() == [[[0, 0, 0], [0, 0, 0], [127, 64, 0], [255, 128, 0], [255, 128, 0]]]


def test_without_range_and_colours_the_ramp_spans_the_values() -> None:
    drawn = draw(output(), np.array([[3, 7]], np.int16))
    assert drawn.tolist() == [[rgb("#440154"), rgb("#fde725")]]
    assert (draw(output(), np.full((2, 2), 5.0)) == rgb("#440154")).all()


@pytest.mark.parametrize("keys", [{}, {"labels": LABELS}, {"range": [0, 1]}])
def test_numbers_that_are_none(keys: dict[str, Any]) -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 1]])
    assert draw(output(**keys), values).shape == (1, 4, 3)
    assert draw(output(**keys), values[:, :3]).shape == (1, 3, 3)


def test_first_element_of_vectors_and_matrices() -> None:
    values = np.array([[[[0, 9], [9, 9]], [[1, 9], [9, 9]]]], np.float32)
    drawn = draw(output(dimensions=2, range=[0, 1], colours=["#000000", "#ffffff"]), values)
    assert drawn.tolist() == [[[0] * 3, [255] * 3]]


def test_true_colour_takes_the_bands_named() -> None:
    contract = contract_of(
        bands=[{"name": "a", "shape": [2]}, {"name": "b"}, {"name": "c"}, {"name": "d"}], true_colour=["d", "c", "b"]
    )
    image = np.zeros((1, 2, 5), np.float32)
    image[0, 1] = [1, 1, 0, 5, 9]
    assert true_colour(contract, image).tolist() == [[[0, 0, 0], [255, 255, 0]]]
    few = contract_of()
    assert true_colour(few, np.array([[[0, 9], [4, 9]]], np.float32)).tolist() == [[[0] * 3, [255] * 3]]


def scene(folder: Path) -> Path:
    contract = contract_of(
        bands=[{"name": name} for name in ("red", "green", "blue")],
        overlap=[2, 2],
        outputs=[
            {"name": "cover", "dimensions": 1, "labels": LABELS, "colours": COLOURS},
            {"name": "height", "dimensions": 0},
            {"name": "patchwise", "dimensions": 0},
        ],
    )
    rows, columns = np.mgrid[0:30, 0:40]
    image = np.stack([rows, columns, rows + columns]).astype(np.float32)
    tiles = Grid.over(contract, 40, 30).cut(image)
    cover = np.stack([tiles[:, 0] < 10, tiles[:, 0] >= 20, (tiles[:, 0] >= 10) & (tiles[:, 0] < 20)], -1)
    answers: Outputs = {"cover": cover.astype(np.float32), "height": tiles[:, 2], "patchwise": np.zeros((6, 1, 1))}
    return save_pictures(contract, tiles, answers, (40, 30), folder)


def test_scene_and_a_picture_for_each_map(tmp_path: Path) -> None:
    path = scene(tmp_path / "pictures")
    folder = tmp_path / "pictures"
    assert path == folder / "scene.png"
    assert sorted(p.name for p in folder.iterdir()) == ["cover.png", "height.png", "scene.png", "true_colour.png"]
    with Image.open(folder / "cover.png") as cover:
        assert (cover.size, cover.mode) == ((40, 30), "RGB")
        for row, colour in ((0, COLOURS[0]), (15, COLOURS[2]), (29, COLOURS[1])):
            assert list(np.asarray(cover)[row, 5]) == rgb(colour)
    with Image.open(folder / "true_colour.png") as true:
        assert true.size == (40, 30)
    with Image.open(path) as page:
        pixels = np.asarray(page)
    # Three panels of 40 x 30 pixels, enlarged twelve times; the classes' colours also stand in the legend.
    assert pixels.shape[1] > 3 * 480
    legend = pixels[pixels.shape[0] - 100 :]
    for colour in COLOURS:
        assert (legend == rgb(colour)).all(-1).any()


def test_large_scene_is_not_enlarged(tmp_path: Path) -> None:
    contract = contract_of(tile=[500, 500])
    tiles = np.zeros((1, 2, 500, 500), np.float32)
    path = save_pictures(contract, tiles, {"total": tiles[:, 0]}, (500, 500), tmp_path)
    with Image.open(path) as page:
        assert 1000 < page.size[0] < 1100


def test_a_difference_fades_to_the_tolerance_then_is_another_colour() -> None:
    contract = contract_of(tolerance={"absolute": 0.5, "relative": 0})
    expected: Outputs = {"total": np.zeros((1, 1, 4), np.float32)}
    answers: Outputs = {"total": np.array([[[0, 0.5, 0.6, np.nan]]], np.float32)}
    tiles = np.zeros((1, 2, 1, 4), np.float32)
    drawn = compared(contract, tiles, expected, answers, None)["total difference"]
    assert drawn.tolist() == [[rgb(colour) for colour in DIFFERENCE.values()]]


def test_a_span_has_a_length_whatever_the_numbers() -> None:
    assert span(np.array([3, np.nan, -1]), np.array([np.inf, 7])) == (-1, 7)
    assert span(np.array([np.nan])) == (0, 1)
    for constant in (0.0, 5.0, -1e300):
        low, high = span(np.full(3, constant))
        assert low == constant < high


def test_numbers_that_lie_farther_apart_than_any_number() -> None:
    far = np.array([[1.7e308, 0, -1.7e308]])
    assert draw(output(), far)[0, [0, 2]].tolist() == [rgb("#fde725"), rgb("#440154")]
    assert draw(output(range=[-1.7e308, 1.7e308]), far)[0, [0, 2]].tolist() == [rgb("#fde725"), rgb("#440154")]
    low, high = span(far)
    assert np.isfinite(high - low)
    assert (low, high) == (-high, -low)
    contract = contract_of(tolerance={"absolute": 0.5, "relative": 0})
    expected: Outputs = {"total": np.zeros((1, 1, 3))}
    drawn = compared(contract, np.zeros((1, 2, 1, 3), np.float32), expected, {"total": far[None]}, None)
    assert drawn["total difference"].tolist() == [[rgb(DIFFERENCE[key]) for key in ("beyond it", "equal", "beyond it")]]
