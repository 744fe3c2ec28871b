"""Warm-up at loading: callers wait for no compilation, and nothing else changes."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pydantic
import pytest

from gradwire.backends.load import load
from gradwire.backends.registry import backend


def jax_model(**keys: Any) -> Any:
    given = {"loss": "optax.softmax_cross_entropy_with_integer_labels", "input_shape": (6,), "nb_classes": 4, **keys}
    return load(backend("jax").Config(backend="jax", factory=function, **given))


def function() -> Any:
    import jax.numpy as jnp

    weights = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    return (lambda params, x: jnp.tanh(x @ params)), weights


def every_operation(estimator: Any, rows: int) -> None:
    x, y = np.zeros((rows, 6), np.float32), np.zeros(rows, np.int64)
    estimator.predict(x)
    estimator.loss_gradient(x, estimator.prepare_labels(y, rows))
    estimator.class_gradient(x, None)
    estimator.class_gradient(x, estimator.prepare_label(1, rows))


def test_a_jax_model_compiles_nothing_for_those_who_call() -> None:
    estimator = jax_model(warm_up=[1, 4])
    traces = estimator.model.programs.traces
    for rows in (1, 3, 4):
        every_operation(estimator, rows)
    assert estimator.model.programs.traces == traces
    every_operation(estimator, 5)
    assert estimator.model.programs.traces == traces + 4


def test_without_it_a_jax_model_compiles_what_it_is_tried_with() -> None:
    assert jax_model().model.programs.traces == 1


def test_a_tensorflow_model_traces_nothing_for_those_who_call() -> None:
    import keras

    estimator = load(
        backend("keras").Config(
            backend="keras",
            factory=lambda: keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)]),
            loss={"path": "keras.losses.SparseCategoricalCrossentropy", "args": {"from_logits": True}},
            input_shape=(6,),
            nb_classes=4,
            warm_up=[1, 4],
        )
    )
    traces = estimator.model._graphs.traces()
    for rows in (1, 2, 7):
        every_operation(estimator, rows)
    assert estimator.model._graphs.traces() == traces


def test_more_rows_than_are_computed_at_once_are_left_out_and_the_time_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gradwire.backends")
    assert jax_model(warm_up=[1, 64], max_batch_rows=8).model.programs.traces == 4
    assert "warmed up the jax model in" in caplog.text


def test_a_model_that_fails_is_served_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    import torch

    estimator = load(
        backend("torch").Config(
            backend="torch", factory="models:mlp", loss=torch.nn.MSELoss, input_shape=(6,), nb_classes=4, warm_up=[2]
        )
    )
    assert estimator.predict(np.zeros((2, 6))).shape == (2, 4)
    assert "failed" not in caplog.text

    estimator = jax_model(loss=None, loss_func=refusing, warm_up=[2])
    assert "loss_gradient of 2 rows failed" in caplog.text
    assert estimator.predict(np.zeros((2, 6))).shape == (2, 4)


def refusing(params: Any, x: Any, y: Any) -> Any:
    raise ValueError("not today")


def test_a_regression_is_warmed_up_with_targets_of_its_own_shape(caplog: pytest.LogCaptureFixture) -> None:
    load(
        backend("torch").Config(
            backend="torch",
            factory={"path": "models:mlp", "args": {"nb_outputs": 2}},
            loss="torch.nn.MSELoss",
            task="regression",
            input_shape=(6,),
            nb_classes=2,
            warm_up=[3],
        )
    )
    assert "failed" not in caplog.text


def test_a_number_of_rows_is_at_least_one() -> None:
    with pytest.raises(pydantic.ValidationError, match="warm_up"):
        jax_model(warm_up=[0])
