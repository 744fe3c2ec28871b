"""A remote model as a torch module: what autograd gives through it is what it gives through the module itself."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import differences
import numpy as np
import pytest
import torch
from torch import nn

import models
from gradwire.client import Server, connect
from gradwire.client.errors import NotGranted, ShapeError
from gradwire.client.torch import remote_module
from gradwire.server import serving

X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    vectors: dict[str, Any] = {"backend": "torch", "input_shape": [6], "nb_classes": 4}
    served = {
        "cnn": {
            "backend": "torch",
            "factory": models.cnn,
            "memory_format": "contiguous",  # as the local module, to the last bit
            "input_shape": [1, 8, 8],
            "nb_classes": 5,
        },
        "scores": {"same_as": "cnn", "access": "scores"},
        "mlp": {**vectors, "factory": models.mlp, "preprocessing": {"mean": 0.5, "std": 0.25}},
        "normalised": {**vectors, "factory": models.normalised},
    }
    with serving(served) as address, connect(address) as connected:
        yield connected


@pytest.fixture
def module(server: Server) -> nn.Module:
    return remote_module(server.estimator("cnn"))


@pytest.fixture
def plain() -> nn.Module:
    """The same weights in this process."""
    return models.cnn().eval()


def _gradient(module: nn.Module, x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    leaf = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(module(leaf)), leaf)
    return gradient


LOSSES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cross-entropy": lambda z: nn.functional.cross_entropy(z, torch.arange(6) % 5),
    "margin": lambda z: (z[:, 0] - z[:, 1:].max(1).values).clamp(min=-1).sum(),
    "one class": lambda z: z[:, 2].sum(),
    "an only row": lambda z: z[3].logsumexp(0),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_any_loss_has_the_gradient_that_it_has_locally(module: nn.Module, plain: nn.Module, loss: str) -> None:
    # The cotangent is made here by the same operations, and goes back through the same ones there.
    assert torch.equal(module(X), plain(X))
    assert torch.equal(_gradient(module, X, LOSSES[loss]), _gradient(plain, X, LOSSES[loss]))


def test_gradients_agree_with_finite_differences_through_preprocessing(server: Server) -> None:
    module = remote_module(server.estimator("mlp"))
    weights = torch.arange(4, dtype=torch.float64)
    gradient = _gradient(module, ROWS, lambda z: (torch.tanh(z) * weights).sum())
    expected = differences.gradient(lambda x: (torch.tanh(module(torch.from_numpy(x))) * weights).sum(1).numpy(), ROWS.numpy())
    # Central differences in float64 with a step of 1e-5: 1e-10 of truncation, 1e-11 of rounding.
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_outputs_and_gradients_have_the_dtype_of_inputs(module: nn.Module, plain: nn.Module, dtype: torch.dtype) -> None:
    leaf = X.to(dtype, copy=True).requires_grad_()
    outputs = module(leaf)
    outputs.sum().backward()
    assert leaf.grad is not None
    assert (outputs.dtype, leaf.grad.dtype) == (dtype, dtype)
    assert torch.equal(outputs, plain(X.to(dtype).float()).to(dtype))


def test_integers_give_outputs_in_the_models_dtype(module: nn.Module, plain: nn.Module) -> None:
    images = (X * 255).to(torch.uint8)
    assert torch.equal(module(images), plain(images.float()))


def test_rows_of_any_layout_are_taken(module: nn.Module, plain: nn.Module) -> None:
    strided = X.transpose(2, 3)[::2]
    assert torch.equal(module(strided), plain(strided.contiguous()))


def test_a_forward_without_gradients_is_one_predict(server: Server, module: nn.Module) -> None:
    remote = server.estimator("cnn")
    before = remote.usage()
    with torch.no_grad():
        assert not module(X.clone().requires_grad_()).requires_grad
    assert not module(X).requires_grad
    after = remote.usage()
    assert (after.forward - before.forward, after.backward - before.backward) == (12, 0)


def test_it_looks_like_a_module(server: Server, module: nn.Module) -> None:
    anchor = next(module.parameters())
    assert (anchor.numel(), anchor.dtype, anchor.device.type) == (0, torch.float32, "cpu")
    assert next(remote_module(server.estimator("mlp")).parameters()).dtype == torch.float64
    assert not module.training
    assert "'cnn'" in repr(module)
    wrapped = nn.Sequential(nn.Identity(), module)
    assert torch.equal(wrapped(X), module(X))
    wrapped.load_state_dict(wrapped.state_dict())
    wrapped.zero_grad()
    wrapped.requires_grad_(False)


def _saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), _saved], ids=["copy", "deepcopy", "pickle", "save"]
)
def test_it_can_be_copied_and_pickled(module: nn.Module, again: Callable[[nn.Module], nn.Module]) -> None:
    other = again(module)
    assert torch.equal(other(X), module(X))
    assert torch.equal(_gradient(other, X, torch.sum), _gradient(module, X, torch.sum))


def test_training_mode_is_asked_for_call_by_call(server: Server) -> None:
    module, plain = remote_module(server.estimator("normalised")), models.normalised()
    for training in (True, False):
        # A new module each time: a local forward in training mode moves its statistics.
        plain = models.normalised().train(training)
        module.train(training)
        # Batch normalisation in float64; the order of its sums may differ.
        torch.testing.assert_close(module(ROWS), plain(ROWS), rtol=1e-12, atol=1e-12)
        gradient = _gradient(module, ROWS, lambda z: z[:, 1].sum())
        torch.testing.assert_close(gradient, _gradient(models.normalised().train(training), ROWS, lambda z: z[:, 1].sum()))
    assert not torch.allclose(module.train()(ROWS), module.eval()(ROWS))


def test_a_graph_can_be_gone_through_twice(module: nn.Module) -> None:
    leaf = X.clone().requires_grad_()
    outputs = module(leaf)
    (first,) = torch.autograd.grad(outputs[:, 0].sum(), leaf, retain_graph=True)
    (second,) = torch.autograd.grad(outputs[:, 1].sum(), leaf)
    assert not torch.equal(first, second)
    assert torch.equal(first, _gradient(module, X, lambda z: z[:, 0].sum()))


def test_gradients_of_gradients_are_refused(module: nn.Module) -> None:
    leaf = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(leaf).square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_rows_that_changed_before_the_backward_are_noticed(module: nn.Module) -> None:
    x = X.clone().requires_grad_()
    moved = x * 1
    loss = module(moved).sum()
    moved.add_(1)
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


def test_errors_of_the_client_come_through_autograd(server: Server, module: nn.Module) -> None:
    with pytest.raises(ShapeError, match=r"takes \(n, 1, 8, 8\)"):
        module(X[:, :, :4])
    loss = remote_module(server.estimator("scores"))(X.clone().requires_grad_()).sum()
    with pytest.raises(NotGranted):
        loss.backward()


def _linf_pgd(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """As torchattacks writes it."""
    adversarial = x.clone().detach()
    for _ in range(5):
        adversarial.requires_grad = True
        loss = nn.CrossEntropyLoss()(module(adversarial), y)
        gradient = torch.autograd.grad(loss, adversarial, retain_graph=False, create_graph=False)[0]
        adversarial = adversarial.detach() + 0.02 * gradient.sign()
        adversarial = torch.clamp(x + torch.clamp(adversarial - x, min=-0.1, max=0.1), min=0, max=1).detach()
    return adversarial


def _carlini_l2(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The step of Carlini and Wagner: an optimizer moves the inputs, and the graph goes on behind them."""
    w = torch.atanh((2 * x - 1).clamp(-0.99, 0.99)).detach().requires_grad_()
    optimizer = torch.optim.Adam([w], lr=0.05)
    for _ in range(5):
        image = (torch.tanh(w) + 1) / 2
        logits = module(image)
        real = logits.gather(1, y[:, None]).squeeze(1)
        other = logits.masked_fill(nn.functional.one_hot(y, 5).bool(), -1e4).max(1).values
        loss = ((image - x) ** 2).flatten(1).sum(1).sum() + (real - other).clamp(min=0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return ((torch.tanh(w) + 1) / 2).detach()


def _universal(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """One perturbation of all rows, whose gradient adds up through a broadcast."""
    delta = torch.zeros(1, 1, 8, 8, requires_grad=True)
    for _ in range(5):
        nn.functional.cross_entropy(module((x + delta).clamp(0, 1)), y).backward()
        assert delta.grad is not None
        delta.data.add_(0.02 * delta.grad.sign())
        delta.grad.zero_()
    return delta.detach()


@pytest.mark.parametrize("attack", [_linf_pgd, _carlini_l2, _universal])
def test_plain_attack_loops_go_where_they_go_locally(
    module: nn.Module, plain: nn.Module, attack: Callable[..., torch.Tensor]
) -> None:
    y = torch.arange(6) % 5
    assert torch.equal(attack(module, X, y), attack(plain, X, y))
