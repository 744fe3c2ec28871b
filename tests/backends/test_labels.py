"""Every form that callers send labels in, and the one that backends get."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwire.backends import labels
from gradwire.backends.errors import InvalidDtype, InvalidLabel

INDICES = np.array([2, 0, 1, 2])


@pytest.mark.parametrize(
    "y",
    [
        INDICES,
        INDICES[:, None],
        INDICES.tolist(),
        INDICES.astype(np.uint8),
        INDICES.astype(np.float32),
        np.eye(3)[INDICES],
        np.eye(3, dtype=np.int32)[INDICES],
        np.eye(3, dtype=bool)[INDICES],
    ],
)
def test_all_forms_of_hard_labels_are_the_same_indices(y: Any) -> None:
    got = labels.canonical(np.asarray(y), 4, 3)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, INDICES)


@given(
    y=hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(3)), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, -1.0]))
)
def test_rows_are_kept_unless_each_is_one_hot(y: np.ndarray) -> None:
    got = labels.canonical(y, len(y), 3)
    one_hot = all(sorted(row) == [0, 0, 1] for row in y.tolist())
    assert (got.ndim == 1) == one_hot
    np.testing.assert_array_equal(labels.one_hot(got, 3, np.dtype(np.float64)) if one_hot else got, y)


def test_soft_rows_keep_their_floating_dtype_and_integer_rows_become_floating() -> None:
    assert labels.canonical(np.full((2, 4), 0.25, np.float32), 2, 4).dtype == np.float32
    assert labels.canonical(np.ones((2, 4), np.int64), 2, 4).dtype == np.float64


def test_two_columns_of_a_binary_model_are_rows_and_one_is_indices() -> None:
    np.testing.assert_array_equal(labels.canonical(np.array([[0.0, 1.0], [1.0, 0.0]]), 2, 2), [1, 0])
    np.testing.assert_array_equal(labels.canonical(np.array([[0.0], [1.0]]), 2, 2), [0, 1])


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (np.array([0, 3]), "label 3 is out of range; expected 0 to 2"),
        (np.array([-1, 0]), "label -1"),
        (np.array([0.5, 1.0]), "0.5 is not a whole number"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.array([[0.0, np.inf, 0.0]] * 2), "infinity"),
        (np.array([1e300, 0.0]), "1e\\+300 is out of range"),
        (np.array([2**64 - 1, 0], np.uint64), "18446744073709551615 is out of range"),
        (np.zeros((2, 4)), r"\(2, 4\); expected \(2,\)"),
        (np.zeros(3), r"\(3,\) for 2 rows"),
        (np.array(1), r"\(\) for 2 rows"),
        (np.zeros((2, 3, 1)), r"\(2, 3, 1\)"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_wrong_labels_say_what_was_given(y: np.ndarray, text: str) -> None:
    with pytest.raises(InvalidLabel, match=text):
        labels.canonical(y, 2, 3)


@pytest.mark.parametrize("convert", [lambda y: labels.canonical(y, 2, 3), lambda y: labels.targets(y, 2)])
@pytest.mark.parametrize("y", [np.array(["a", "b"]), np.array([0j, 1j]), np.array([None, 1])])
def test_labels_that_are_no_numbers_are_a_wrong_dtype(convert: Any, y: np.ndarray) -> None:
    with pytest.raises(InvalidDtype, match=str(y.dtype)):
        convert(y)


def test_regression_targets_keep_their_shape_and_become_floating() -> None:
    assert labels.targets(np.array([1, 2]), 2).dtype == np.float64
    assert labels.targets(np.zeros((2, 3), np.float32), 2).shape == (2, 3)
    assert labels.targets(np.zeros((2, 3), np.float32), 2).dtype == np.float32
    with pytest.raises(InvalidLabel, match="for 3 rows"):
        labels.targets(np.zeros(2), 3)
    with pytest.raises(InvalidLabel, match="NaN"):
        labels.targets(np.array([np.nan]), 1)


def test_one_label_a_row_is_needed_for_a_class_gradient() -> None:
    got = labels.one_per_row(np.array([1, 2], np.uint8), 2, 3)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, [1, 2])
    for label, error in [
        (np.array([1]), InvalidLabel),
        (np.array([[1], [2]]), InvalidLabel),
        (np.array([1, 3]), InvalidLabel),
        (np.array([1.0, 2.0]), InvalidDtype),
    ]:
        with pytest.raises(error):
            labels.one_per_row(label, 2, 3)


def test_top_class_of_scores_and_of_a_single_output() -> None:
    np.testing.assert_array_equal(labels.top_class(np.array([[0.1, 0.7, 0.2], [3.0, 1.0, 2.0]]), 3, 0.5), [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(labels.top_class(np.array([[0.2], [0.6]]), 2, 0.5), [[1, 0], [0, 1]])
    np.testing.assert_array_equal(labels.top_class(np.array([[-0.1], [0.1]]), 2, 0.0), [[1, 0], [0, 1]])
