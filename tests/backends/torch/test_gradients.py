"""The ways to gradients of every output: they answer the same, and the fastest is taken."""

from __future__ import annotations

from typing import Any

import differences
import numpy as np
import pytest
import torch
from torch import nn

import models
from gradwire.backends import torch as backend
from gradwire.backends.torch import gradients

X = np.random.default_rng(1).normal(size=(5, 6))
WAYS: tuple[Any, ...] = ("repeat", "loop", "batch")


def model(factory: Any = "models:mlp", nb_classes: int = 4, **keys: Any) -> backend.TorchModel:
    given = {"input_shape": (6,), "loss": "torch.nn.CrossEntropyLoss", **keys}
    return backend.load(backend.Config(backend="torch", factory=factory, nb_classes=nb_classes, **given))


class Halved(torch.autograd.Function):
    """An operation of the owner's own without support for ``torch.vmap``."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 0.5

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(gradient.numpy() * 0.5)


class OwnFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = models.mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Halved.apply(self.inner(x))


class Noisy(nn.Module):
    """Answers differently every time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = models.mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x + torch.randn_like(x))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [1, 5])
def test_every_way_agrees_with_differences(way: Any, rows: int) -> None:
    m = model(class_gradients=way)
    x = X[:rows]
    expected = differences.gradient(lambda x: m.predict(x, training_mode=False), x)
    for _ in range(2):  # The number of outputs is known from the first time on.
        found = m.class_gradient(x, None, training_mode=False)
        # Central differences in float64 with steps of 1e-5 are good to about 1e-9 on this model.
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
        assert found.flags.c_contiguous
        assert found.shape == (rows, 4, 6)


@pytest.mark.parametrize("way", WAYS)
def test_many_classes_come_in_parts_that_bound_the_memory(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "_BATCHED_ROWS", 64)
    m = model({"path": "models:mlp", "args": {"nb_outputs": 150}}, 150, class_gradients=way)
    expected = model({"path": "models:mlp", "args": {"nb_outputs": 150}}, 150, class_gradients="loop")
    for rows in (1, 5):
        found = m.class_gradient(X[:rows], None, training_mode=False)
        # The same sums in another order.
        np.testing.assert_allclose(found, expected.class_gradient(X[:rows], None, training_mode=False), rtol=1e-12, atol=1e-14)


@pytest.fixture
def took_s(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Sets the measured time of each way."""
    seconds = {"repeat": 1.0, "loop": 1.0, "batch": 1.0}
    monkeypatch.setattr(gradients, "_seconds", lambda _every, _x, way: seconds[way])
    monkeypatch.setattr(gradients, "_BUDGET_S", 60.0)
    return seconds


def test_the_faster_way_is_taken_and_a_clone_takes_the_same(took_s: dict[str, float]) -> None:
    took_s["batch"] = 0.5
    m = model(optimizer="torch.optim.Adam")
    assert m._ways.measured == ((1, "batch"), (3, "batch"), (8, "batch"), (32, "batch"))
    took_s["batch"] = 1.0
    assert m.untrained_clone()._ways is m._ways


def test_a_way_that_gains_little_is_not_taken(took_s: dict[str, float]) -> None:
    took_s["batch"] = 0.95
    assert model()._ways.measured == ((1, "repeat"), (3, "loop"), (8, "loop"), (32, "loop"))


def test_no_more_rows_are_measured_than_are_computed_at_once(took_s: dict[str, float]) -> None:
    took_s["batch"] = 0.5
    ways = model(max_batch_rows=8)._ways
    assert ways.measured == ((1, "batch"), (3, "batch"), (8, "batch"), (32, "loop"))
    assert [ways(rows) for rows in (1, 2, 9, 500)] == ["batch", "batch", "batch", "loop"]


def test_what_takes_too_long_to_measure_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "_BUDGET_S", 0.0)
    ways = model()._ways
    assert not ways.measured
    assert [ways(rows) for rows in (1, 2, 3, 128)] == ["repeat", "repeat", "loop", "loop"]


@pytest.mark.parametrize("factory", [OwnFunction, Noisy], ids=["own function", "noisy"])
def test_a_way_that_does_not_work_is_not_taken(factory: Any, took_s: dict[str, float]) -> None:
    took_s["batch"] = 0.1
    m = model(factory)
    assert "batch" not in dict(m._ways.measured).values()
    assert m.class_gradient(X, None, training_mode=False).shape == (5, 4, 6)


def test_inputs_of_any_size_and_whole_numbers_are_not_measured() -> None:
    assert not model(input_shape=(-1,))._ways.measured
    assert not model(input_dtype="int64", factory=lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten()))._ways.measured
