"""Callables whose answers are checked before callers get them, and tables in which answers are looked up."""

from __future__ import annotations

import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.estimators.classification import BlackBoxClassifier

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
        ([[1.0], [1.0, 2.0]], "cannot convert the callable's list to an array"),
        (torch.ones(4, 2, requires_grad=True), "cannot convert the callable's Tensor to an array"),
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


# Tables.

TABLE = np.random.default_rng(1).random((2000, 3))
ANSWERS = np.random.default_rng(2).random((2000, 4))


def table(x: Any = TABLE, y: Any = ANSWERS, **keys: Any) -> Any:
    given = {"nb_classes": 4, **keys} if "input_shape" in keys else {"nb_classes": 4, "input_shape": np.shape(x)[1:], **keys}
    return load(Config(backend="blackbox", factory=lambda: (x, y), **given))


def ask(model: Any, x: np.ndarray) -> np.ndarray:
    return model.predict(x.astype(model.input_dtype), training_mode=False)


def test_a_row_of_a_table_has_the_answer_beside_it() -> None:
    model = table()
    chosen = np.random.default_rng(3).integers(0, 2000, 500)
    outputs = ask(model, TABLE[chosen])
    assert outputs.dtype == np.float64
    np.testing.assert_array_equal(outputs, ANSWERS[chosen])
    assert capabilities(model) == {Operation.PREDICT}
    assert "a table of 2000 rows; others have no answer" in model.notes


@pytest.mark.parametrize("tolerance", [None, 1e-6])
def test_rows_that_are_not_there_are_counted_and_the_first_is_named(tolerance: float | None) -> None:
    model = table(tolerance=tolerance)
    x = TABLE[:9].copy()
    x[[4, 7]] = [[0.25, 2.0, -1.0], [9.0, 9.0, 9.0]]
    with pytest.raises(errors.InvalidValue, match=r"2 of 9 rows .* is number 4, counted from 0: \(0.25, 2, -1\)"):
        ask(model, x)
    x[:] = [np.nan, np.inf, -np.inf]
    with pytest.raises(errors.InvalidValue, match="9 of 9 rows .* number 0"):
        ask(model, x)


def test_without_a_tolerance_every_bit_counts_but_the_sign_of_zero() -> None:
    model = table(np.array([[0.0, 1.0], [2.0, 3.0]]), np.eye(2), nb_classes=2)
    np.testing.assert_array_equal(ask(model, np.array([[-0.0, 1.0]])), [[1.0, 0.0]])
    with pytest.raises(errors.InvalidValue):
        ask(model, np.array([[0.0, np.nextafter(1.0, 2.0)]]))


@pytest.mark.parametrize("tolerance", [0.0, 1e-9, 1e-3, 0.05, 0.3])
def test_with_a_tolerance_the_nearest_row_is_found(tolerance: float) -> None:
    model = table(tolerance=tolerance)
    rng = np.random.default_rng(4)
    x = TABLE[rng.integers(0, 2000, 60)] + rng.uniform(-1, 1, (60, 3)) * tolerance * 0.9
    distances = np.abs(x[:, None] - TABLE).max(axis=2)
    np.testing.assert_array_equal(ask(model, x), ANSWERS[distances.argmin(axis=1)])
    assert (distances.min(axis=1) <= tolerance).all()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("tolerance", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("columns", [1, 3, 40])
def test_of_equally_near_rows_the_first_answers(dtype: str, tolerance: float, columns: int) -> None:
    """On a coarse lattice most rows have several nearest rows; comparing all pairs decides."""
    rng = np.random.default_rng(6)
    x = rng.integers(0, 4, (400, columns)).astype(dtype)
    x[200:300] = x[:100]
    y = (x[:, None] == x).all(axis=2).argmax(axis=1).astype(np.float64)  # the index of the first equal row
    model = table(x, y, tolerance=tolerance, task="regression", nb_classes=1)
    rows = rng.integers(0, 5, (200, columns)) + rng.choice([-0.5, 0.0, 0.25], (200, 1))
    distances = np.abs(rows[:, None] - x.astype(np.float64)).max(axis=2)
    near = distances.min(axis=1) <= tolerance
    if near.any():
        nearest = distances[near].argmin(axis=1)
        np.testing.assert_array_equal(ask(model, rows[near])[:, 0], y[nearest])
    if not near.all():
        with pytest.raises(errors.InvalidValue, match=f"{(~near).sum()} of 200 rows .* number {near.argmin()}"):
            ask(model, rows)


def test_a_row_that_is_not_finite_is_near_nothing() -> None:
    model = table(tolerance=10.0)
    with pytest.raises(errors.InvalidValue, match="2 of 3 rows .* number 0"):
        ask(model, np.array([[np.nan, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, np.inf, 0.5]]))


def test_a_tolerance_needs_scipy_and_other_black_boxes_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.spatial", None)
    np.testing.assert_array_equal(ask(table(), TABLE[:5]), ANSWERS[:5])
    assert predict(lambda x: x).shape == (4, 3)
    with pytest.raises(errors.ModelConfigError, match=r"tolerance: 0\.1 needs scipy, .*: pip install 'gradwire\[blackbox\]'"):
        table(tolerance=0.1)


def test_a_tolerance_is_the_greatest_difference_of_a_number() -> None:
    model = table(np.array([[0.0, 0.0], [10.0, 10.0]]), np.array([0, 1]), nb_classes=2, tolerance=0.5)
    np.testing.assert_array_equal(ask(model, np.array([[0.5, -0.5], [9.6, 10.4]])), [[1, 0], [0, 1]])
    with pytest.raises(errors.InvalidValue, match="1 of 2 rows .* within 0.5"):
        ask(model, np.array([[0.0, 0.0], [0.0, 0.51]]))


@pytest.mark.parametrize(
    ("dtype", "computed_in"), [("uint8", "float32"), ("float16", "float32"), ("bool", "float32"), ("int64", "float64")]
)
def test_rows_are_looked_up_in_a_precision_that_tells_them_apart(dtype: str, computed_in: str) -> None:
    x = np.array([[0, 0], [0, 1], [1, 0]]).astype(dtype)
    if dtype == "int64":
        x[2, 0] = 1 << 40 | 1
    model = table(x, np.array([0, 1, 2]), nb_classes=3)
    assert model.input_dtype == computed_in
    np.testing.assert_array_equal(ask(model, x), np.eye(3))


@pytest.mark.parametrize(
    ("y", "keys", "expected"),
    [
        ([0, 2, 1], {"nb_classes": 3}, np.eye(3)[[0, 2, 1]]),
        ([[0], [2], [1]], {"nb_classes": 3}, np.eye(3)[[0, 2, 1]]),
        ([0.0, 2.0, 1.0], {"nb_classes": 3}, np.eye(3)[[0, 2, 1]]),
        (np.eye(3, dtype=np.uint8)[[0, 2, 1]], {"nb_classes": 3}, np.eye(3)[[0, 2, 1]]),
        ([0.25, 0.5, 1.0], {"nb_classes": 2}, [[0.25], [0.5], [1.0]]),
        ([0.25, 0.5, 7.0], {"nb_classes": 1, "task": "regression"}, [[0.25], [0.5], [7.0]]),
        ([3, 4, 5], {"nb_classes": 1, "task": "regression"}, [[3], [4], [5]]),
    ],
)
def test_labels_of_a_table_may_have_any_form(y: Any, keys: dict[str, Any], expected: Any) -> None:
    np.testing.assert_array_equal(ask(table(TABLE[:3], np.asarray(y), **keys), TABLE[:3]), expected)


def test_a_row_may_be_there_twice_with_one_answer_but_not_with_two() -> None:
    x = TABLE[[0, 1, 2, 1]]
    np.testing.assert_array_equal(ask(table(x, np.array([0, 1, 2, 1])), x), np.eye(4)[[0, 1, 2, 1]])
    with pytest.raises(errors.ModelConfigError, match=r"factory: x\[1\] and x\[3\] are the same row, but their y differ"):
        table(x, np.array([0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("x", "y", "keys", "problem"),
    [
        (TABLE, ANSWERS[:9], {}, r"y has shape \(9, 4\) for 2000 rows"),
        (TABLE, ANSWERS, {"input_shape": (4,)}, r"x has shape \(2000, 3\); expected \(m, 4\)"),
        (TABLE, ANSWERS, {"nb_classes": 5}, r"y has shape \(2000, 4\); expected \(2000, 5\)"),
        (TABLE[:0], ANSWERS[:0], {}, "with at least one row"),
        (TABLE[:3], np.array([0, 1, 4]), {}, "label 4; expected 0 to 3"),
        (TABLE[:3], np.array([0.5, 1.0, 4.0]), {}, "y holds 0.5; expected class indices"),
        (TABLE[:3], np.array([0.5, np.nan, 0.0]), {}, "expected finite numbers"),
        (TABLE[:3], np.array(["a", "b", "c"]), {}, "y has dtype <U1"),
        (TABLE[:3].astype(complex), np.array([0, 1, 2]), {}, "x has dtype complex128"),
        (np.full((1, 3), np.nan), np.array([0]), {"tolerance": 0.1}, "x holds NaN or infinity"),
        ([[1.0], [1.0, 2.0]], [0, 1], {"input_shape": (1,)}, "cannot convert the two values returned to arrays"),
    ],
)
def test_what_is_no_table_is_a_configuration_error(x: Any, y: Any, keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(errors.ModelConfigError, match=problem):
        table(x, y, **{"input_shape": (3,), **keys})


def test_a_table_comes_from_a_file_that_is_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "known.npz"

    def of_file() -> Any:
        return load(Config(backend="blackbox", table=path, input_shape=(3,), nb_classes=4))

    np.savez(path, x=TABLE, y=ANSWERS)
    np.testing.assert_array_equal(ask(of_file(), TABLE[:5]), ANSWERS[:5])
    np.savez(path, x=TABLE)
    with pytest.raises(errors.ModelConfigError, match="table: .* holds no arrays x and y"):
        of_file()
    np.savez(path, x=TABLE, y=np.array([object()] * 2000))
    for content in (None, b"", b"PK", b"no zip"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(errors.ModelConfigError, match="table: .* is not a .npz file of plain arrays"):
            of_file()
    path.unlink()
    with pytest.raises(errors.ModelConfigError, match="table: .* does not exist"):
        of_file()


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({}, "neither factory nor table"),
        ({"factory": lambda: 3, "table": "known.npz"}, "factory and table are both set"),
        ({"table": "known.npz", "tolerance": -1.0}, "greater than or equal to 0"),
        ({"table": "known.npz", "tolerance": float("nan")}, "finite"),
    ],
)
def test_a_black_box_is_a_factory_or_a_table(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Config(backend="blackbox", input_shape=(3,), nb_classes=2, **keys)


def test_a_tolerance_without_a_table_is_a_configuration_error() -> None:
    with pytest.raises(errors.ModelConfigError, match=r"tolerance: given 0\.1, but .* returned no table"):
        load(config(lambda x: x, tolerance=0.1))


def test_rows_are_looked_up_after_preprocessing() -> None:
    mean_std = {"mean": 0.5, "std": 0.25}
    keys: dict[str, Any] = {"input_shape": (3,), "nb_classes": 4, "preprocessing": mean_std}
    estimator = load_estimator(Config(backend="blackbox", factory=lambda: ((TABLE - 0.5) / 0.25, ANSWERS), **keys))
    np.testing.assert_array_equal(estimator.predict(TABLE[:9]), ANSWERS[:9])
    np.testing.assert_array_equal(estimator.predict(TABLE[:9], labels_only=True), np.eye(4)[ANSWERS[:9].argmax(1)])
    assert (estimator.output_shape, estimator.output_dtype) == ((4,), np.float64)


def test_a_large_table_is_searched_in_little_time_and_memory() -> None:
    rng = np.random.default_rng(5)
    x = rng.random((20_000, 64), np.float32)
    model = table(x, rng.integers(0, 4, 20_000), tolerance=1e-4)
    rows = x[:128] + np.float32(5e-5)
    began_s = time.perf_counter()
    tracemalloc.start()
    try:
        outputs = ask(model, rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(outputs, ask(model, x[:128]))
    # All pairs at once would be 1.3 GB. A hundredth of a second on an idle core.
    assert peak < 100e6
    assert time.perf_counter() - began_s < 5.0


def test_art_finds_no_float64_row_in_a_table_and_we_do() -> None:
    labels = np.eye(4)[ANSWERS.argmax(1)]
    art = BlackBoxClassifier((TABLE, labels), (3,), 4)
    with pytest.raises(ValueError, match="No existing prediction"):
        art.predict(TABLE[:3])
    np.testing.assert_array_equal(ask(table(TABLE, labels), TABLE[:3]), labels[:3])
    fuzzy = BlackBoxClassifier((TABLE, labels), (3,), 4, fuzzy_float_compare=True)
    near = TABLE[:50] * (1 + 1e-7)
    np.testing.assert_array_equal(ask(table(TABLE, labels, tolerance=1e-6), near), fuzzy.predict(near))
