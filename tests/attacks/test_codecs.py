"""Attacks with signs of gradients find the same examples, bit for bit, as with gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import BasicIterativeMethod, FastGradientMethod, ProjectedGradientDescent
from torch import nn

from gradwire.client import RemoteEstimator, Server, connect
from gradwire.client.art import art_estimator
from gradwire.client.torch import remote_module
from gradwire.server import serving

from .conftest import Digits

LINF: dict[str, Any] = {"eps": 0.2, "eps_step": 0.05, "max_iter": 10, "verbose": False}

ATTACKS: dict[str, Callable[[Any], Any]] = {
    "FGSM": lambda e: FastGradientMethod(e, eps=0.2),
    "FGSM targeted": lambda e: FastGradientMethod(e, eps=0.2, targeted=True),
    "FGSM minimal": lambda e: FastGradientMethod(e, eps=0.3, eps_step=0.02, minimal=True),
    "PGD": lambda e: ProjectedGradientDescent(e, num_random_init=2, **LINF),
    "PGD in small batches": lambda e: ProjectedGradientDescent(e, batch_size=5, **LINF),
    "BIM": lambda e: BasicIterativeMethod(e, **LINF),
}


@pytest.fixture(scope="module")
def connection(server: Server, transport: str) -> Iterator[Server]:
    with connect(server.address) as connection:
        yield connection


@pytest.fixture
def remote(connection: Server) -> RemoteEstimator:
    return connection.estimator("cnn")


def generate(attack: str, remote: RemoteEstimator, digits: Digits) -> Any:
    np.random.seed(0)
    x, y = digits.test(32)
    targets = np.eye(10)[(y + 1) % 10] if attack == "FGSM targeted" else None
    return ATTACKS[attack](art_estimator(remote)).generate(x.copy(), targets)


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_that_use_signs_alone_find_the_same_to_the_last_bit(remote: RemoteEstimator, digits: Digits, attack: str) -> None:
    expected = generate(attack, remote, digits)
    actual = generate(attack, remote.with_codecs(gradients="sign"), digits)
    assert np.abs(expected - digits.test(32).x).max() > 0.05, "the attack did nothing; it proves nothing"
    assert actual.dtype == expected.dtype
    assert actual.tobytes() == expected.tobytes()


class Middle(nn.Module):
    """Does not look at the border, so that its gradients there are zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        return self.head(x[..., 2:6, 2:6].flatten(1))


@pytest.mark.parametrize("attack", ATTACKS)
def test_pixels_whose_gradient_is_zero_take_no_step(transport: str, digits: Digits, attack: str) -> None:
    model = {"backend": "torch", "factory": Middle, "loss": "torch.nn.CrossEntropyLoss", "input_shape": [1, 8, 8], "nb_classes": 10}
    with serving({"middle": {**model, "access": "gradients"}}) as address, connect(address) as server:
        remote = server.estimator("middle")
        x, y = digits.test(32)
        gradient = remote.loss_gradient(x, y)
        assert np.count_nonzero(gradient == 0) == 32 * (64 - 16)
        np.testing.assert_array_equal(remote.with_codecs(gradients="sign").loss_gradient(x, y), np.sign(gradient))
        expected, actual = (generate(attack, each, digits) for each in (remote, remote.with_codecs(gradients="sign")))
    assert np.abs(expected - x).max() > 0.05
    assert actual.tobytes() == expected.tobytes()


def test_a_loop_over_a_torch_module_finds_the_same_too(remote: RemoteEstimator, digits: Digits) -> None:
    x, y = (torch.from_numpy(array) for array in digits.test(16))

    def attacked(module: torch.nn.Module) -> torch.Tensor:
        moved = x.clone()
        for _ in range(5):
            moved = moved.detach().requires_grad_()
            torch.nn.functional.cross_entropy(module(moved), y).backward()
            assert moved.grad is not None
            moved = (moved + 0.05 * moved.grad.sign()).clamp(0, 1)
        return moved.detach()

    assert torch.equal(attacked(remote_module(remote)), attacked(remote_module(remote.with_codecs(gradients="sign"))))


@pytest.mark.parametrize("codec", ["float16", "bfloat16"])
def test_rounded_inputs_and_gradients_fool_the_model_as_well(remote: RemoteEstimator, digits: Digits, codec: Any) -> None:
    x, y = digits.test(200)

    def accuracy(remote: RemoteEstimator) -> float:
        attack = ProjectedGradientDescent(art_estimator(remote), **{**LINF, "eps": 0.1, "eps_step": 0.02})
        adversarial = attack.generate(x.copy(), y)
        return float((plain.predict(adversarial).argmax(1) == y).mean())

    plain = remote
    # Two examples of 200: rounding moves a row over a boundary now and then, in either direction.
    assert abs(accuracy(remote.with_codecs(inputs=codec, gradients=codec)) - accuracy(remote)) <= 0.01
