from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from components.earthengine.contract import ModelContract
from components.earthengine.errors import ContractError
from components.source import finish, prepare
from tests.conftest import contract_of


def with_source(**source: Any) -> ModelContract:
    return contract_of(
        bands=[{"name": "red", "factor": 2, "offset": 1}, {"name": "green"}], model={"file": "net.pt"} | source
    )


def tiles(height: int, width: int) -> Any:
    return np.arange(2 * height * width, dtype=np.float32).reshape(1, 2, height, width)


def test_prepare_normalises_each_channel() -> None:
    given = prepare(with_source(), tiles(2, 3))
    assert given.dtype == np.float32
    assert given.shape == (1, 2, 2, 3)
    np.testing.assert_array_equal(given[0, 0], [[1, 3, 5], [7, 9, 11]])
    np.testing.assert_array_equal(given[0, 1], [[6, 7, 8], [9, 10, 11]])


def test_prepare_lays_out_and_casts() -> None:
    given = prepare(with_source(layout="channels_last", type="int32"), tiles(2, 3) + np.float32(0.3))
    assert given.shape == (1, 2, 3, 2)
    assert given.dtype == np.int32
    assert given.flags.c_contiguous
    assert given[0, 1, 2].tolist() == [11, 11]


def test_prepare_gives_a_table_without_pixels() -> None:
    contract = contract_of(bands=None, tile=None, scale=None, properties=[{"name": "a", "factor": 2}, {"name": "b"}])
    tiles = np.array([[1, 2], [3, 4]], np.float32).reshape(2, 2, 1, 1)
    assert prepare(contract, tiles).tolist() == [[2, 2], [6, 4]]


def test_prepare_reflects_right_and_below_up_to_the_multiple() -> None:
    given = prepare(with_source(multiple=4), tiles(3, 5))
    assert given.shape == (1, 2, 4, 8)
    np.testing.assert_array_equal(given[0, 1, 0], [15, 16, 17, 18, 19, 18, 17, 16])
    np.testing.assert_array_equal(given[0, 1, 3], given[0, 1, 1])


def test_prepare_reflects_small_tiles_more_than_once() -> None:
    given = prepare(with_source(multiple=8), tiles(1, 3))
    np.testing.assert_array_equal(given[0, 1, 0], [3, 4, 5, 4, 3, 4, 5, 4])
    np.testing.assert_array_equal(given[0, 1], np.tile(given[0, 1, 0], (8, 1)))
    assert (prepare(with_source(multiple=32), tiles(1, 1))[0, 1] == 1).all()


@pytest.mark.parametrize(
    ("layout", "dimensions", "given", "finished"),
    [
        ("channels_first", 0, (2, 4, 3), (2, 4, 3)),
        ("channels_first", 0, (2, 1, 4, 3), (2, 4, 3)),
        ("channels_last", 0, (2, 4, 3, 1), (2, 4, 3)),
        ("channels_first", 1, (2, 5, 4, 3), (2, 4, 3, 5)),
        ("channels_last", 1, (2, 4, 3, 5), (2, 4, 3, 5)),
        ("channels_first", 2, (2, 5, 6, 4, 3), (2, 4, 3, 5, 6)),
        ("channels_last", 2, (2, 4, 3, 5, 6), (2, 4, 3, 5, 6)),
        ("channels_first", 1, (2, 5, 8, 8), (2, 4, 3, 5)),  # cropped
    ],
)
def test_finish_puts_channels_last(
    layout: str, dimensions: int, given: tuple[int, ...], finished: tuple[int, ...]
) -> None:
    contract = contract_of(model={"file": "net", "layout": layout}, outputs=[{"name": "out", "dimensions": dimensions}])
    answer = np.arange(np.prod(given), dtype=np.float32).reshape(given)
    out = finish(contract, answer, (2, 2, 4, 3))["out"]
    assert out.shape == finished
    # The value of one pixel is what the model gave for it.
    at = (1, ..., 2, 1) if layout == "channels_first" else (1, 2, 1)
    np.testing.assert_array_equal(out[1, 2, 1].ravel(), answer[at].ravel())


@pytest.mark.parametrize(
    ("dimensions", "given"), [(0, (2,)), (0, (2, 1)), (1, (2, 5)), (2, (2, 5, 6)), (0, (2, 1, 1)), (1, (2, 5, 1, 1))]
)
def test_finish_of_one_answer_a_patch(dimensions: int, given: tuple[int, ...]) -> None:
    contract = contract_of(outputs=[{"name": "out", "dimensions": dimensions}], output_tile=[1, 1])
    answer = np.arange(np.prod(given), dtype=np.float32).reshape(given)
    out = finish(contract, answer, (2, 2, 4, 3))["out"]
    assert out.shape == (2, 1, 1, *given[1 : 1 + dimensions])
    np.testing.assert_array_equal(out.ravel(), answer.ravel())


@pytest.mark.parametrize(("declared", "dtype"), [("float", "float32"), ("double", "float64"), ("uint8", "uint8")])
def test_finish_casts(declared: str, dtype: str) -> None:
    contract = contract_of(outputs=[{"name": "out", "dimensions": 0, "type": declared}])
    out = finish(contract, np.full((1, 2, 2), 3.7, np.float32), (1, 2, 2, 2))["out"]
    assert out.dtype == dtype
    assert out[0, 0, 0] == (3 if declared == "uint8" else np.float32(3.7))


TWO = [{"name": "a", "dimensions": 0}, {"name": "b", "dimensions": 0}]
A, B = np.zeros((1, 2, 2), np.float32), np.ones((1, 2, 2), np.float32)


@pytest.mark.parametrize("answer", [(A, B), [A, B], {"b": B, "a": A}, {"a": A, "c": A, "b": B}])
def test_finish_takes_outputs_by_order_or_name(answer: Any) -> None:
    outputs = finish(contract_of(outputs=TWO), answer, (1, 2, 2, 2))
    assert list(outputs) == ["a", "b"]
    assert outputs["a"].max() == 0
    assert outputs["b"].min() == 1


@pytest.mark.parametrize("answer", [A, [A], {"whatever": A}])
def test_finish_of_a_single_output_ignores_its_name(answer: Any) -> None:
    assert list(finish(contract_of(), answer, (1, 2, 2, 2))) == ["total"]


@pytest.mark.parametrize(
    ("changes", "answer", "said"),
    [
        ({"outputs": TWO}, [A], r"declares 2 outputs \(a, b\), the model gives 1; declare each output in the model's"),
        ({}, [A, B], r"declares 1 outputs \(total\), the model gives 2"),
        (
            {"outputs": TWO},
            {"a": A, "x": B},
            "the outputs a, b, the model gives a, x; b is not among them: correct out",
        ),
        ({}, {"x": A, "y": B}, "the outputs total, the model gives x, y; total is not among them"),
        ({}, np.zeros((1, 5, 2, 2)), r"shape \[1, 5, 2, 2\] \(channels_first\).* dimensions 0 .*declare dimensions: 1"),
        ({}, np.zeros((1, 5)), r"shape \[1, 5\].* declare dimensions: 1"),
        ({}, np.zeros((1, 2, 2, 2, 2)), "declare dimensions: 2"),
        ({}, np.zeros(()), "give it batch, height and width"),
        ({"outputs": [{"name": "o", "dimensions": 1}]}, A, "output o .* not of dimensions 1 .*declare dimensions: 0"),
        (
            {},
            np.zeros((1, 1, 1, 2)),
            r"expects answers of 2 x 2 pixels: correct tile, overlap, model.layout or declare",
        ),
        ({"output_tile": [1, 1]}, A, r"for 1 patches of 2 x 2 pixels; model.yaml expects answers of 1 x 1 pixels"),
        ({}, np.zeros((2, 2, 2)), r"has shape \[2, 2, 2\] for 1 patches"),
        (
            {"outputs": [{"name": "o", "dimensions": 1, "labels": ["x", "y"]}]},
            np.zeros((1, 3, 2, 2)),
            r"output o of the model has 3 values a pixel, model.yaml gives 2 labels \(x, y\); give one label a value",
        ),
    ],
)
def test_finish_refuses_what_is_not_declared(changes: Any, answer: Any, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        finish(contract_of(**changes), answer, (1, 2, 2, 2))


@pytest.mark.parametrize("value", [-1, 256, np.nan, np.inf])
def test_finish_refuses_values_that_the_type_cannot_hold(value: float) -> None:
    contract = contract_of(outputs=[{"name": "o", "dimensions": 0, "type": "uint8"}])
    answer = np.zeros((1, 2, 2), np.float32)
    answer[0, 1, 1] = value
    with pytest.raises(
        ContractError, match=r"output o of the model has values from .* uint8 .* holds 0 to 255: declare"
    ):
        finish(contract, answer, (1, 2, 2, 2))


@pytest.mark.parametrize("value", [-0.5, 255.5])
def test_finish_truncates(value: float) -> None:
    contract = contract_of(outputs=[{"name": "o", "dimensions": 0, "type": "uint8"}])
    out = finish(contract, np.full((1, 2, 2), value, np.float32), (1, 2, 2, 2))["o"]
    assert out[0, 0, 0] == int(value)
