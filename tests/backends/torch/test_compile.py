"""Compiled torch models: the module's own answers for every number of rows, before and after a fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor.config
from torch import nn
from torch._dynamo.utils import counters

from gradwire.backends import errors
from gradwire.backends.torch import Config, TorchModel, load

# A compiler takes seconds a program where nothing is cached, and longer beside other tests: few programs, of one net if possible.
pytestmark = [
    pytest.mark.program("g++"),
    pytest.mark.timeout(600),
]

X = np.random.default_rng(0).random((9, 64), np.float32)
Y = np.arange(9) % 5
# The same sums in another order, in float32.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5))


def model(factory: Any = dense, input_shape: tuple[int, ...] = (64,), **keys: Any) -> TorchModel:
    given = {"loss": "torch.nn.CrossEntropyLoss", "max_batch_rows": 32, **keys}
    return load(Config(backend="torch", factory=factory, input_shape=input_shape, nb_classes=5, **given))


@pytest.fixture(scope="module")
def compiled() -> TorchModel:
    return model(compile=True, optimizer={"path": "torch.optim.SGD", "args": {"lr": 0.1}})


@pytest.fixture(scope="module")
def plain() -> TorchModel:
    return model(optimizer={"path": "torch.optim.SGD", "args": {"lr": 0.1}})


@pytest.fixture(autouse=True)
def as_before(compiled: TorchModel, plain: TorchModel) -> Iterator[None]:
    before = compiled.snapshot(), plain.snapshot()
    yield
    compiled.rollback(before[0])
    plain.rollback(before[1])


def agree(compiled: TorchModel, plain: TorchModel, rows: int) -> None:
    x, y = np.tile(X, (4, 1))[:rows], np.tile(Y, 4)[:rows]
    cotangent = np.random.default_rng(1).normal(size=(rows, 5)).astype(np.float32)
    operations = (
        lambda m: m.predict(x, training_mode=False),
        lambda m: m.loss(x, y, training_mode=False),
        lambda m: m.loss_gradient(x, y, training_mode=False),
        lambda m: m.class_gradient(x, None, training_mode=False),
        lambda m: m.class_gradient(x, y, training_mode=False),
        lambda m: m.vjp(x, cotangent, None, training_mode=False),
        lambda m: m.vjp(x, np.ones((rows, 16), np.float32), "0", training_mode=False),
        lambda m: m.activations(x, "2", training_mode=False),
    )
    for operation in operations:
        np.testing.assert_allclose(operation(compiled), operation(plain), **CLOSE)


def test_every_operation_answers_as_uncompiled_for_any_number_of_rows(compiled: TorchModel, plain: TorchModel) -> None:
    assert any("compiled" in note for note in compiled.notes)
    for rows in (1, 2, 3, 9, 16, 17, 32):
        agree(compiled, plain, rows)


def test_nothing_is_compiled_once_the_model_is_loaded(compiled: TorchModel, plain: TorchModel) -> None:
    before = counters["stats"]["unique_graphs"]
    assert before
    for rows in range(1, 33):
        compiled.predict(np.tile(X, (4, 1))[:rows], training_mode=False)
        compiled.loss_gradient(np.tile(X, (4, 1))[:rows], np.tile(Y, 4)[:rows], training_mode=False)
    compiled.train_step(X, Y, training_mode=True)
    compiled.loss_gradient(X, Y, training_mode=False)
    assert counters["stats"]["unique_graphs"] == before


def test_fitted_weights_and_statistics_are_those_that_answer(compiled: TorchModel, plain: TorchModel, tmp_path: Path) -> None:
    first = compiled.predict(X, training_mode=False)
    torch.manual_seed(0)
    compiled.train_step(X, Y, training_mode=True)
    torch.manual_seed(0)
    plain.train_step(X, Y, training_mode=True)
    assert np.abs(compiled.predict(X, training_mode=False) - first).max() > 1e-3
    agree(compiled, plain, 9)
    compiled.save(tmp_path / "version")
    compiled.train_step(X, Y, training_mode=False)
    compiled.restore(tmp_path / "version")
    agree(compiled, plain, 9)


def test_training_mode_is_the_modules_own(compiled: TorchModel, plain: TorchModel) -> None:
    for operation in (
        lambda m: m.predict(X, training_mode=True),
        lambda m: m.loss_gradient(X, Y, training_mode=True),
    ):
        answers = []
        for m in (compiled, plain):
            torch.manual_seed(3)
            answers.append(operation(m))
        np.testing.assert_array_equal(*answers)
    agree(compiled, plain, 3)


def test_many_models_of_one_process_are_all_compiled(plain: TorchModel) -> None:
    # torch's own limit is eight programs for all modules together; each of these has four.
    for number in range(3):
        before = counters["stats"]["unique_graphs"]
        m = model(compile=True)
        assert counters["stats"]["unique_graphs"] - before == 4, f"model {number}"
        agree(m, plain, 9)


def test_a_clone_is_compiled_too(compiled: TorchModel, plain: TorchModel) -> None:
    clone = compiled.untrained_clone()
    agree(clone, plain, 5)


def test_compiled_models_compute_in_mixed_precision() -> None:
    mixed, full = model(compile=True, autocast="bfloat16", max_batch_rows=1), model()
    expected = full.predict(X[:1], training_mode=False)
    # bfloat16 has 8 bits.
    np.testing.assert_allclose(mixed.predict(X[:1], training_mode=False), expected, rtol=0, atol=8 * 2**-8 * np.abs(expected).max())


class Noisy(nn.Module):
    """Answers differently every time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x + torch.randn_like(x))


def test_a_model_that_answers_otherwise_when_compiled_is_refused() -> None:
    with pytest.raises(errors.ModelConfigError, match=r"compile.*answers 1 rows differently.*leave compile out"):
        model(Noisy, compile=True, max_batch_rows=1)


def test_without_a_compiler_the_error_says_what_to_install() -> None:
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/g++")}),
        pytest.raises(errors.ModelConfigError, match=r"compile.*needs a C\+\+ compiler.*install g\+\+.*CXX"),
    ):
        model(compile=True)


class Averaging(nn.Module):
    """Takes rows of any length."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(1, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean(1, keepdim=True))


def test_rows_of_any_length_are_compiled_as_they_come() -> None:
    keys: dict[str, Any] = {"factory": Averaging, "input_shape": (-1,), "max_batch_rows": 1}
    compiled, plain = model(**keys, compile=True), model(**keys)
    for length in (8, 9, 64):
        x = X[:1, :length]
        np.testing.assert_allclose(compiled.predict(x, training_mode=False), plain.predict(x, training_mode=False), **CLOSE)
