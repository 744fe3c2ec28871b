"""Codecs do the same to the answers of every backend, whatever its precision."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from conformance.cases import Case, with_operation

from gradwire.client import RemoteEstimator

N = 7

_HALVES: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
_ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""What rounding changes, relative to a value; twice of it, because a framework's threads may sum in another order next time."""


@with_operation("loss_gradient")
def test_signs_of_gradients_are_numpys(remote: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(N, 0), case.labels(N)
    signs = remote.with_codecs(gradients="sign")
    for plain, answer in (
        (remote.loss_gradient(x, y), signs.loss_gradient(x, y)),
        (remote.class_gradient(x), signs.class_gradient(x)),
    ):
        assert answer.dtype == plain.dtype
        assert answer.shape == plain.shape
        # Threads may sum in another order next time, and next to zero that decides the sign.
        clear = (plain == 0) | (np.abs(plain) > 1e-5 * np.abs(plain).max())
        np.testing.assert_array_equal(answer[clear], np.sign(plain)[clear])


@with_operation("loss_gradient")
def test_rounded_gradients_are_those_next_to_them(remote: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(N, 1), case.labels(N)
    plain = remote.loss_gradient(x, y)
    for codec, half in _HALVES.items():
        answer = remote.with_codecs(gradients=codec).loss_gradient(x, y)  # type: ignore[arg-type]
        assert answer.dtype == plain.dtype
        np.testing.assert_array_equal(answer, answer.astype(half).astype(answer.dtype))
        np.testing.assert_allclose(answer, plain, rtol=_ROUNDING[codec], atol=1e-6 * np.abs(plain).max() + 2.0**-24)


@with_operation("loss_gradient")  # a table finds no rounded rows
def test_rounded_inputs_are_answered_as_if_they_had_been_so(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 2)
    for codec, half in _HALVES.items():
        answer = remote.with_codecs(inputs=codec).predict(x)  # type: ignore[arg-type]
        np.testing.assert_allclose(answer, remote.predict(x.astype(half).astype(x.dtype)), rtol=1e-6, atol=1e-6)
