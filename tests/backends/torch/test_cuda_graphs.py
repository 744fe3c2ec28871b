"""The code around CUDA graphs: sizes, bounds, and falling back to the module.

These tests run without a GPU: they bring a recorder that keeps to the rules of a recording, which answers arguments of one shape
alone, in memory that the next call overwrites.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from torch import nn

from gradwire.backends.torch import Config, cuda_graphs


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).requires_grad_(False)


class Recorder:
    """Records nothing, but is as strict as a recording."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, bool]] = []

    def __call__(self, forward: cuda_graphs.Forward, example: torch.Tensor) -> cuda_graphs.Forward:
        self.sizes.append((len(example), example.requires_grad))
        memory = forward(example).detach().clone()

        def replay(inputs: torch.Tensor) -> Any:
            assert (inputs.shape, inputs.requires_grad) == (example.shape, example.requires_grad)
            outputs = forward(inputs)
            memory.copy_(outputs.detach())
            return outputs if inputs.requires_grad else memory

        return replay


def test_rows_are_padded_to_few_sizes_and_answers_are_the_modules(module: nn.Module) -> None:
    recorder = Recorder()
    graphed = cuda_graphs.Graphed(module, recorder)
    for rows in (1, 2, 3, 4, 5, 8, 31, 32, 7):
        x = torch.randn(rows, 6)
        with torch.no_grad():
            np.testing.assert_allclose(graphed(x).numpy(), module(x).numpy(), atol=1e-6)
        leaf = torch.randn(rows, 6).requires_grad_()
        (found,) = torch.autograd.grad(graphed(leaf * 1)[:, 0].sum(), leaf)
        (expected,) = torch.autograd.grad(module(leaf)[:, 0].sum(), leaf)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)
    assert not graphed.refused
    assert sorted(recorder.sizes) == [(rows, grad) for rows in (1, 2, 4, 8, 32) for grad in (False, True)]


def test_more_rows_go_to_the_module(module: nn.Module) -> None:
    recorder = Recorder()
    assert cuda_graphs.Graphed(module, recorder)(torch.randn(33, 6)).shape == (33, 3)
    assert not recorder.sizes


def test_weights_that_change_in_place_are_seen(module: nn.Module) -> None:
    graphed = cuda_graphs.Graphed(module, Recorder())
    x = torch.randn(4, 6)
    graphed(x)
    with torch.no_grad():
        module[2].bias += 1  # type: ignore[index]
        np.testing.assert_allclose(graphed(x).numpy(), module(x).numpy(), atol=1e-6)


def test_sizes_beyond_the_bound_go_to_the_module() -> None:
    module = nn.Flatten()
    recorder = Recorder()
    graphed = cuda_graphs.Graphed(module, recorder)
    for size in range(1, 30):
        assert graphed(torch.ones(2, size, 2)).shape == (2, 2 * size)
    assert len(recorder.sizes) == 12


def test_what_cannot_be_recorded_is_answered_by_the_module(module: nn.Module) -> None:
    tried = []

    def refusing(_forward: cuda_graphs.Forward, _example: torch.Tensor) -> cuda_graphs.Forward:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphed = cuda_graphs.Graphed(module, refusing)
    x = torch.randn(3, 6)
    for _ in range(2):
        torch.testing.assert_close(graphed(x), module(x))
    assert graphed.refused == "RuntimeError: operation not permitted when stream is capturing"
    assert len(tried) == 1


def test_a_recording_that_answers_something_else_is_not_used(module: nn.Module) -> None:
    def constant(forward: cuda_graphs.Forward, example: torch.Tensor) -> cuda_graphs.Forward:
        recorded = forward(example)
        return lambda _inputs: recorded

    graphed = cuda_graphs.Graphed(module, constant)
    x = torch.randn(4, 6)
    torch.testing.assert_close(graphed(x), module(x))
    assert "something else" in graphed.refused


def test_a_recording_with_wrong_gradients_is_not_used(module: nn.Module) -> None:
    graphed = cuda_graphs.Graphed(module, lambda forward, _example: lambda x: forward(x * 2 - x.detach()))
    leaf = torch.randn(4, 6).requires_grad_()
    (found,) = torch.autograd.grad(graphed(leaf).sum(), leaf)
    (expected,) = torch.autograd.grad(module(leaf).sum(), leaf)
    torch.testing.assert_close(found, expected)
    assert "something else" in graphed.refused


def test_without_a_gpu_the_framework_itself_refuses_and_the_module_answers(module: nn.Module) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    graphed = cuda_graphs.Graphed(module)
    x = torch.randn(4, 6)
    torch.testing.assert_close(graphed(x), module(x))
    assert graphed.refused


@pytest.mark.parametrize(
    ("keys", "problem"), [({"device": "cpu"}, "device is cpu"), ({"device": "cuda", "compile": True}, "both set")]
)
def test_what_does_not_go_with_cuda_graphs_is_refused(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=problem):
        Config(backend="torch", factory="models:mlp", input_shape=(6,), nb_classes=4, cuda_graphs=True, **keys)
