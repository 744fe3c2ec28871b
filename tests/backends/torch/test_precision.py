"""Torch models under autocast: answers in the model's own dtype, and small gradients that survive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from torch import nn

from gradwire.backends import errors
from gradwire.backends.torch import Config, TorchModel, load
from gradwire.backends.torch.precision import Precision

X = np.random.default_rng(0).random((6, 1, 12, 12), np.float32)
Y = np.arange(6) % 5

# Half of the last place, in shares of the number, of what goes into each of a handful of layers; answers are sums of numbers of
# both signs, so that their error is measured against the largest. bfloat16 has 8 bits, float16 has 11.
WITHIN = {"bfloat16": 8 * 2**-8, "float16": 8 * 2**-11}
DTYPES = sorted(WITHIN)


def images() -> nn.Module:
    """A smooth model: rounding would choose another side of a ReLU, or another pixel of a pool, for some numbers."""
    torch.manual_seed(0)
    convolution = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten())
    return nn.Sequential(*convolution, nn.Linear(200, 32), nn.Tanh(), nn.Linear(32, 5))


def config(factory: Any = images, **keys: Any) -> Config:
    given = {"loss": "torch.nn.CrossEntropyLoss", "optimizer": "torch.optim.Adam", "memory_format": "contiguous", **keys}
    return Config(backend="torch", factory=factory, input_shape=(1, 12, 12), nb_classes=5, **given)


def model(factory: Any = images, **keys: Any) -> TorchModel:
    return load(config(factory, **keys))


def near(found: np.ndarray, expected: np.ndarray, within: float) -> None:
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=within * np.abs(expected).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_operation_is_near_full_precision_and_in_float32(dtype: str) -> None:
    mixed, full = model(autocast=dtype), model()
    assert any(dtype in note for note in mixed.notes)
    cotangent = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    operations = (
        lambda m: m.predict(X, training_mode=False),
        lambda m: m.loss(X, Y, training_mode=False),
        lambda m: m.loss_gradient(X, Y, training_mode=False),
        lambda m: m.class_gradient(X, None, training_mode=False),
        lambda m: m.class_gradient(X[:1], None, training_mode=False),
        lambda m: m.class_gradient(X, Y, training_mode=False),
        lambda m: m.activations(X, "0", training_mode=False),
        lambda m: m.vjp(X, cotangent, None, training_mode=False),
        lambda m: m.vjp(X, np.ones((6, 32), np.float32), "4", training_mode=False),
    )
    for operation in operations:
        near(operation(mixed), operation(full), WITHIN[dtype])
    assert not np.array_equal(mixed.predict(X, training_mode=False), full.predict(X, training_mode=False))


def test_a_fit_is_in_full_precision_unless_amp_says_otherwise() -> None:
    mixed, full, fitted_mixed = model(autocast="bfloat16"), model(), model(autocast="bfloat16", amp=True)
    for m in (mixed, full, fitted_mixed):
        m.train_step(X, Y, training_mode=True)
    weights = [dict(m.snapshot().weights) for m in (mixed, full, fitted_mixed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[1][name], weights[2][name]) for name in weights[1])


def test_saved_weights_do_not_know_of_autocast(tmp_path: Path) -> None:
    model(autocast="bfloat16").save(tmp_path / "version")
    full = model()
    before = full.predict(X, training_mode=False)
    full.restore(tmp_path / "version")
    np.testing.assert_array_equal(full.predict(X, training_mode=False), before)


class TinyLoss(nn.Module):
    """A loss as of rows that the model is sure of, with gradients below 6e-8, the least float16."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return 1e-8 * nn.functional.cross_entropy(outputs, targets, reduction="none")


def test_small_gradients_survive_float16() -> None:
    mixed, full = model(autocast="float16", loss=TinyLoss), model(loss=TinyLoss)
    expected = full.loss_gradient(X, Y, training_mode=False)
    assert 0 < np.abs(expected).max() < 6e-8
    found = mixed.loss_gradient(X, Y, training_mode=False)
    near(found, expected, WITHIN["float16"])
    cotangent = np.full((6, 5), 1e-12, np.float32)
    near(mixed.vjp(X, cotangent, None, training_mode=False), full.vjp(X, cotangent, None, training_mode=False), WITHIN["float16"])


def test_a_rows_small_gradient_survives_beside_large_ones() -> None:
    mixed = model(autocast="float16")
    cotangent = np.ones((6, 5), np.float32)
    alone = mixed.vjp(X, cotangent, None, training_mode=False)
    cotangent[1:] *= 2.0**-40
    together = mixed.vjp(X, cotangent, None, training_mode=False)
    np.testing.assert_array_equal(together[0], alone[0])
    np.testing.assert_array_equal(together[1:] * 2.0**40, alone[1:])


def test_rows_without_a_gradient_have_one_of_zeros() -> None:
    zeros = np.zeros((6, 5), np.float32)
    np.testing.assert_array_equal(model(autocast="float16").vjp(X, zeros, None, training_mode=False), np.zeros_like(X))


def test_parameters_that_autocast_leaves_alone_are_refused() -> None:
    with pytest.raises(errors.ModelConfigError, match=r"autocast.*torch\.float64.*expected torch\.float32"):
        model(lambda: images().double(), autocast="bfloat16")


def test_only_half_precisions_are_known() -> None:
    with pytest.raises(pydantic.ValidationError, match="bfloat16"):
        config(autocast="float64")


class OfFullPrecision(nn.Module):
    """An operation of the owner's that takes float32 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = images()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self.inner(x)
        if outputs.dtype != torch.float32:
            raise TypeError(f"not written for {outputs.dtype}")
        return outputs


def test_a_model_that_fails_in_a_dtype_is_refused_with_what_to_do() -> None:
    with pytest.raises(errors.ModelConfigError, match=r"autocast.*fails with bfloat16.*not written for.*try the other dtype"):
        model(OfFullPrecision, autocast="bfloat16")
    assert model(OfFullPrecision).predict(X, training_mode=False).shape == (6, 5)


def test_the_dtype_of_amp_is_the_devices_unless_autocast_says_which() -> None:
    def dtype(device: str, autocast: str | None) -> torch.dtype | None:
        return Precision(torch.device(device), autocast, True, torch.float32).dtype

    assert dtype("cpu", None) is torch.bfloat16
    assert dtype("cpu", "float16") is torch.float16
    assert dtype("cuda", "bfloat16") is torch.bfloat16
