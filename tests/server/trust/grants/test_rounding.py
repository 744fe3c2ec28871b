"""Outputs made less telling."""

from __future__ import annotations

import numpy as np

from gradwire.server.trust.grants.rounding import rounded


def test_a_zero_hides_its_sign() -> None:
    outputs = np.array([[-0.001, 0.001], [0.004, -0.004]], np.float32)
    assert not np.signbit(rounded(outputs, "values", 2, None)).any()
    assert not np.signbit(rounded(outputs, "probabilities", 2, 1)).any()


def test_many_decimals_do_not_overflow() -> None:
    outputs = np.array([[0.5, 60000.0]], np.float16)
    np.testing.assert_array_equal(rounded(outputs, "logits", 15, None), outputs)


def test_the_order_of_what_is_equal_when_rounded_is_not_told() -> None:
    outputs = np.array([[0.301, 0.304, 0.395]], np.float64)
    np.testing.assert_array_equal(rounded(outputs[:, :2], "probabilities", 1, 1), [[0.3, 0.0]])
    np.testing.assert_array_equal(rounded(outputs, "probabilities", 1, 2), [[0.3, 0.0, 0.4]])


def test_hidden_logits_are_below_those_that_are_shown() -> None:
    np.testing.assert_array_equal(rounded(np.array([[-5.0, -7.0, -9.0]]), "logits", None, 2), [[-5.0, -7.0, -8.0]])
