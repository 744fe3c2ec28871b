"""Memory layouts of torch modules: answers, weights and callers' arrays are the same in each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradwire.backends import torch as backend
from gradwire.backends.errors import Unsupported
from gradwire.backends.torch import layouts

SIZES: dict[str, Any] = {"backend": "torch", "nb_classes": 5, "input_shape": (3, 12, 12)}


def images() -> nn.Module:
    """Rows 3x12x12, with everything whose layout can be seen from outside."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 2), nn.Flatten(), nn.Linear(64, 5)
    )


class Viewing(nn.Module):
    """Flattens with ``view``, which torch refuses for images that lie channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(400, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.convolution(x).view(len(x), -1))


class ByPosition(nn.Module):
    """Reads memory in its own order, and so answers differently in another layout."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.convolution(x)
        flat = maps.as_strided((len(x), maps[0].numel()), (maps.stride(0), 1))
        return flat[:, :5] * 1.0


class Detached(nn.Module):
    """Convolutions without gradients of the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = images()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.round().detach())


class Particular(nn.Module):
    """Takes only rows of one kind."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = images()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (x < 2).any():
            raise ValueError("too small")
        return self.inner(x)


def model(factory: Any = images, **keys: Any) -> backend.TorchModel:
    return backend.load(
        backend.Config(**SIZES, factory=factory, loss="torch.nn.CrossEntropyLoss", **{"optimizer": "torch.optim.Adam", **keys})
    )


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).random((6, 3, 12, 12), np.float32)


def test_every_operation_answers_the_same_in_both_layouts(x: np.ndarray) -> None:
    y = np.arange(6) % 5
    contiguous, channels_last = model(memory_format="contiguous"), model(memory_format="channels_last")
    assert any("channels last" in note for note in channels_last.notes)
    assert not any("channels last" in note for note in contiguous.notes)
    operations = (
        lambda m: m.predict(x, training_mode=False),
        lambda m: m.loss(x, y, training_mode=False),
        lambda m: m.loss_gradient(x, y, training_mode=False),
        lambda m: m.class_gradient(x, None, training_mode=False),
        lambda m: m.class_gradient(x[:1], None, training_mode=False),
        lambda m: m.class_gradient(x, y, training_mode=False),
        lambda m: m.activations(x, "0", training_mode=False),
        lambda m: m.vjp(x, np.ones((6, 5), np.float32), None, training_mode=False),
    )
    for operation in operations:
        expected, found = operation(contiguous), operation(channels_last)
        assert found.flags.c_contiguous
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_fit_and_its_versions_do_not_know_the_layout(x: np.ndarray, tmp_path: Path) -> None:
    contiguous, channels_last = model(memory_format="contiguous"), model(memory_format="channels_last")
    before = channels_last.snapshot()
    first = channels_last.predict(x, training_mode=False)
    for m in (contiguous, channels_last):
        m.train_step(x, np.arange(6) % 5, training_mode=False)
    fitted = channels_last.predict(x, training_mode=False)
    np.testing.assert_allclose(fitted, contiguous.predict(x, training_mode=False), rtol=1e-3, atol=1e-4)
    channels_last.save(tmp_path / "version")
    contiguous.restore(tmp_path / "version")
    np.testing.assert_allclose(contiguous.predict(x, training_mode=False), fitted, rtol=1e-4, atol=1e-5)
    channels_last.rollback(before)
    np.testing.assert_array_equal(channels_last.predict(x, training_mode=False), first)


@pytest.fixture
def took_s(monkeypatch: pytest.MonkeyPatch) -> dict[torch.memory_format, float]:
    """Sets the measured time of each layout."""
    seconds = {torch.contiguous_format: 1.0, torch.channels_last: 0.5}
    lying = [torch.contiguous_format]
    lay_out = backend.TorchModel.lay_out

    def noted(self: Any, memory_format: torch.memory_format) -> None:
        lying.append(memory_format)
        lay_out(self, memory_format)

    monkeypatch.setattr(backend.TorchModel, "lay_out", noted)

    def measured(work: Any) -> float:
        work()
        return seconds[lying[-1]]

    monkeypatch.setattr(layouts, "_seconds", measured)
    return seconds


def test_the_faster_layout_is_taken_and_a_clone_has_the_same(took_s: dict[torch.memory_format, float]) -> None:
    fast = model()
    assert any("channels last" in note for note in fast.notes)
    took_s[torch.contiguous_format] = 0.1
    assert any("channels last" in note for note in fast.untrained_clone().notes)
    assert not any("channels last" in note for note in model().notes)


@pytest.mark.parametrize("factory", [Viewing, ByPosition])
def test_a_module_that_needs_torchs_own_layout_gets_it(
    factory: Any, x: np.ndarray, took_s: dict[torch.memory_format, float]
) -> None:
    torch.manual_seed(0)
    chosen = model(factory)
    assert not any("channels last" in note for note in chosen.notes)
    torch.manual_seed(0)
    expected = model(factory, memory_format="contiguous").predict(x, training_mode=False)
    np.testing.assert_array_equal(chosen.predict(x, training_mode=False), expected)


def test_a_module_without_gradients_is_loaded_all_the_same(x: np.ndarray) -> None:
    detached = model(Detached)
    assert detached.predict(x, training_mode=False).shape == (6, 5)
    with pytest.raises(Unsupported, match="detached"):
        detached.loss_gradient(x, np.arange(6) % 5, training_mode=False)


def test_a_module_that_refuses_random_rows_is_loaded_all_the_same(x: np.ndarray) -> None:
    assert model(Particular).predict(x + 2, training_mode=False).shape == (6, 5)


def test_only_images_of_a_known_size_have_a_choice() -> None:
    assert layouts.applies(images(), (3, 12, 12))
    assert not layouts.applies(images(), (3, -1, 12))
    assert not layouts.applies(nn.Sequential(nn.Flatten(), nn.Linear(432, 5)), (3, 12, 12))
