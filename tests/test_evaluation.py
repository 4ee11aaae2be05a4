from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from components.data import Labelled
from components.evaluation import Evaluation, answered_class, evaluate
from tests.conftest import contract_of

LABELS = ["water", "forest", "town", "rare"]
KIND = {"name": "kind", "dimensions": 1, "labels": LABELS, "metrics": ["accuracy", "f1", "iou"]}
CLASSES = contract_of(outputs=[KIND])
HEIGHT = contract_of(outputs=[{"name": "height", "dimensions": 0}])


def held_out(truth: NDArray[Any]) -> Labelled:
    return Labelled(np.zeros((len(truth), 2, *truth.shape[1:]), np.float32), truth, "made")


def one_hot(classes: NDArray[np.int64]) -> NDArray[Any]:
    """As sure as can be of each class."""
    return np.asarray(np.eye(len(LABELS), dtype=np.float32)[classes])


pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(pairs)
def test_metrics_of_classes_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    truth, answered = np.array(pairs, np.int64).T
    found = evaluate(CLASSES, held_out(truth[:, None, None]), {"kind": one_hot(answered)[:, None, None]}, "m")
    assert found.metrics == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(truth, answered),
            # Over the classes that are there, the same ones for every model.
            "f1": metrics.f1_score(truth, answered, labels=np.unique(truth), average="macro", zero_division=0),
            "iou": metrics.jaccard_score(truth, answered, labels=np.unique(truth), average="macro", zero_division=0),
        }
    )
    matrix = metrics.confusion_matrix(truth, answered, labels=range(4))
    np.testing.assert_array_equal([row[:-1] for row in found.confusion], matrix)
    assert (found.model, found.pixels, found.labels) == ("m", len(pairs), tuple(LABELS))


finite = st.floats(-1e6, 1e6, width=32)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=60))
def test_rmse_is_that_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    truth, answered = np.array(pairs, np.float32).T
    found = evaluate(HEIGHT, held_out(truth[None, :, None]), {"height": answered[None, :, None]}, "m")
    expected = metrics.root_mean_squared_error(truth.astype(float), answered.astype(float))
    assert found.metrics == {"rmse": pytest.approx(expected)}
    assert (found.labels, found.confusion) == ((), ())


def test_what_is_not_known_is_not_judged() -> None:
    truth = np.array([[[0, 1, -1]]], np.int64)
    found = evaluate(CLASSES, held_out(truth), {"kind": one_hot(np.array([[[0, 2, 3]]]))}, "m")
    assert (found.metrics["accuracy"], found.pixels) == (0.5, 2)
    known = np.array([[[1, 2, np.nan]]], np.float32)
    answered = np.array([[[1, 4, 900]]], np.float32)
    assert evaluate(HEIGHT, held_out(known), {"height": answered}, "m").metrics == {"rmse": math.sqrt(2)}


def test_an_answer_of_no_class_is_wrong_and_counted_apart() -> None:
    nan = np.full((1, 1, 1, 4), np.nan, np.float32)
    found = evaluate(CLASSES, held_out(np.array([[[2]]])), {"kind": nan}, "m")
    assert found.metrics == {"accuracy": 0, "f1": 0, "iou": 0}
    assert found.confusion[2] == (0, 0, 0, 0, 1)


def test_classes_that_are_said_by_number() -> None:
    output = contract_of(outputs=[{"name": "kind", "dimensions": 0, "labels": LABELS}]).outputs[0]
    answer = np.array([0, 2.9, 3.6, -1, 4, np.nan, np.inf])
    np.testing.assert_array_equal(answered_class(output, answer), [0, 3, -1, -1, -1, -1, -1])


def test_evaluation_is_read_back() -> None:
    found = evaluate(CLASSES, held_out(np.array([[[2]]])), {"kind": one_hot(np.array([[[2]]]))}, "m")
    assert Evaluation.parse(json.loads(json.dumps(asdict(found)))) == found


def test_only_what_is_finite_is_shown() -> None:
    found = evaluate(HEIGHT, held_out(np.ones((1, 1, 1), np.float32)), {"height": np.full((1, 1, 1), np.nan)}, "m")
    assert math.isnan(found.metrics["rmse"])
    assert found.finite() == {}
