"""Callables whose answers are checked before callers get them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gradwire.backends import errors
from gradwire.backends.blackbox import Config, load
from gradwire.backends.capabilities import Operation, capabilities
from gradwire.backends.load import load as load_estimator

X = np.random.default_rng(0).random((4, 3)).astype(np.float32)


def config(function: Any, **keys: Any) -> Config:
    given: dict[str, Any] = {"input_shape": (3,), "nb_classes": 2, **keys}
    return Config(backend="blackbox", factory=lambda: function, **given)


def predict(function: Any, x: np.ndarray = X, **keys: Any) -> np.ndarray:
    return load(config(function, **keys)).predict(x, training_mode=False)


def test_callables_and_objects_with_predict_answer_alike() -> None:
    named = load(Config(backend="blackbox", factory="models:LinearAscent", input_shape=(3,), nb_classes=2))
    expected = np.stack([X.sum(1), -X.sum(1)], axis=1)
    np.testing.assert_array_equal(named.predict(X, training_mode=False), expected)
    np.testing.assert_array_equal(predict(lambda x: np.stack([x.sum(1), -x.sum(1)], axis=1)), expected)


def test_black_box_predicts_and_does_nothing_else() -> None:
    model = load(config(lambda x: x))
    assert capabilities(model) == {Operation.PREDICT}
    assert model.output_kind == "probabilities"
    assert load(config(lambda x: x, output="logits")).output_kind == "logits"
    assert load(config(lambda x: x, task="regression")).output_kind == "values"


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_integer_labels_become_one_hot_rows(dtype: Any) -> None:
    outputs = predict(lambda x: np.array([0, 2, 1, 2], dtype), nb_classes=3)
    assert outputs.dtype == np.float32
    np.testing.assert_array_equal(outputs, [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]])


def test_integers_of_a_regression_are_values() -> None:
    np.testing.assert_array_equal(predict(lambda x: np.arange(4), task="regression", nb_classes=1), [[0], [1], [2], [3]])


def test_floats_without_a_second_axis_are_one_output() -> None:
    np.testing.assert_array_equal(predict(lambda x: x[:, 0].astype(np.float64)), X[:, :1].astype(np.float64))


@pytest.mark.parametrize(
    ("answer", "dtype"),
    [
        (np.ones((4, 2), np.float64), np.float64),
        (np.ones((4, 2), np.float16), np.float32),
        (np.ones((4, 2), bool), np.float32),
        ([[0.5, 0.5]] * 4, np.float64),
        (torch.ones(4, 2), np.float32),
    ],
)
def test_answers_are_floating_arrays(answer: Any, dtype: Any) -> None:
    outputs = predict(lambda x: answer)
    assert outputs.shape == (4, 2)
    assert outputs.dtype == dtype


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (np.ones((3, 2)), r"\(3, 2\) for 4 rows"),
        (np.float64(1), "expected numbers"),
        (None, "NoneType"),
        (["cat"] * 4, "dtype <U3"),
        ([[1.0], [1.0, 2.0]], "no array"),
        (torch.ones(4, 2, requires_grad=True), "no array"),
        (np.ones((4, 2), complex), "complex"),
        (np.array([0, 1, 2, 0]), "label 2; expected 0 to 1"),
        (np.array([0, -1, 1, 0]), "label -1"),
    ],
)
def test_answers_that_are_not_outputs_are_named(answer: Any, text: str) -> None:
    with pytest.raises(errors.ModelFailed, match=text):
        predict(lambda x: answer)


def test_callable_cannot_change_the_callers_rows_nor_answers_given() -> None:
    kept = np.zeros((4, 2), np.float32)

    def function(x: np.ndarray) -> np.ndarray:
        x[:] = 0
        return kept

    x = X.copy()
    x.flags.writeable = False
    outputs = predict(function, x)
    kept[:] = 1
    np.testing.assert_array_equal(outputs, np.zeros((4, 2)))


def test_factory_that_returns_no_callable_is_a_configuration_error() -> None:
    with pytest.raises(errors.ModelConfigError, match="returned int; expected a callable"):
        load(config(3))


def test_exception_of_the_callable_is_named_at_loading() -> None:
    def function(x: np.ndarray) -> np.ndarray:
        raise OSError("no route to the model")

    with pytest.raises(errors.ModelConfigError, match="no route to the model"):
        load_estimator(config(function))


def test_labels_only_callers_get_the_top_class() -> None:
    estimator = load_estimator(config(lambda x: np.stack([x.sum(1), 1 - x.sum(1)], axis=1)))
    rows = np.array([[0.9, 0, 0], [0.1, 0, 0]], np.float32)
    np.testing.assert_array_equal(estimator.predict(rows, labels_only=True), [[1, 0], [0, 1]])
