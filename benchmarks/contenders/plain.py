"""Plain torch as written by hand: numpy in and numpy out, parameters frozen except in a fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import numpy as np
import torch
from torch import nn

from benchmarks.contenders.contender import Contender, InThisProcess
from benchmarks.model import LEARNING_RATE, MOMENTUM, Array, Inputs
from benchmarks.subject import CNN, Subject

NAME = "plain torch"


@contextmanager
def plain(subject: Subject = CNN) -> Iterator[Contender]:
    """Yields plain torch in this process as a contender."""
    torch_ = _Plain(subject)
    yield InThisProcess(
        NAME,
        {
            "predict": torch_.predict,
            "loss": torch_.loss,
            "loss_gradient": torch_.loss_gradient,
            "class_gradient_rows": torch_.class_gradient_rows,
            "class_gradient_one": torch_.class_gradient_one,
            "class_gradient_all": torch_.class_gradient_all,
            "activations_dense": lambda inputs: torch_.activations(inputs, subject.dense_layer),
            "activations_conv": lambda inputs: torch_.activations(inputs, subject.conv_layer),
            "vjp": torch_.vjp,
            "fit": torch_.fit,
            "reset": torch_.reset,
        },
        {"torch": version("torch"), "numpy": version("numpy")},
    )


class _Plain:
    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._module = subject.module().eval().requires_grad_(False)
        self._mean_loss = nn.CrossEntropyLoss()
        self._row_loss = nn.CrossEntropyLoss(reduction="none")
        self._new_optimizer()

    def predict(self, inputs: Inputs) -> Array:
        with torch.inference_mode():
            return _array(self._module(torch.from_numpy(inputs.x)))

    def loss(self, inputs: Inputs) -> Array:
        with torch.inference_mode():
            return _array(self._row_loss(self._module(torch.from_numpy(inputs.x)), torch.from_numpy(inputs.y)))

    def loss_gradient(self, inputs: Inputs) -> Array:
        leaf = _leaf(inputs.x)
        loss = self._mean_loss(self._module(leaf), torch.from_numpy(inputs.y))
        return _array(torch.autograd.grad(loss, leaf)[0])

    def class_gradient_rows(self, inputs: Inputs) -> Array:
        leaf = _leaf(inputs.x)
        chosen = self._module(leaf).gather(1, torch.from_numpy(inputs.y)[:, None])
        return _array(torch.autograd.grad(chosen.sum(), leaf)[0].unsqueeze(1))

    def class_gradient_one(self, inputs: Inputs) -> Array:
        leaf = _leaf(inputs.x)
        return _array(torch.autograd.grad(self._module(leaf)[:, 3].sum(), leaf)[0].unsqueeze(1))

    def class_gradient_all(self, inputs: Inputs) -> Array:
        """Takes the fastest way: few rows are copied for each class, more are computed in a loop over classes."""
        n = len(inputs.x)
        if n <= 2:
            repeated = _leaf(np.repeat(inputs.x, 10, axis=0))
            outputs = self._module(repeated).reshape(n, 10, 10)
            gradient = torch.autograd.grad(outputs.diagonal(dim1=1, dim2=2).sum(), repeated)[0]
            return _array(gradient).reshape(n, 10, *inputs.x.shape[1:])
        leaf = _leaf(inputs.x)
        outputs = self._module(leaf)
        result = np.empty((n, 10, *inputs.x.shape[1:]), np.float32)
        for k in range(10):
            result[:, k] = _array(torch.autograd.grad(outputs[:, k].sum(), leaf, retain_graph=k < 9)[0])
        return result

    def activations(self, inputs: Inputs, layer: str) -> Array:
        """By a hook, as for any module; a `Sequential` might also be cut."""
        kept: list[torch.Tensor] = []
        handle = self._module.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: kept.append(output))
        try:
            with torch.inference_mode():
                self._module(torch.from_numpy(inputs.x))
        finally:
            handle.remove()
        return _array(kept[0])

    def vjp(self, inputs: Inputs) -> Array:
        leaf = _leaf(inputs.x)
        return _array(torch.autograd.grad(self._module(leaf), leaf, torch.from_numpy(inputs.cotangent))[0])

    def fit(self, inputs: Inputs) -> None:
        self._module.train().requires_grad_(True)
        order = np.random.permutation(len(inputs.x))
        for begin in range(0, len(order), inputs.batch_size):
            rows = order[begin : begin + inputs.batch_size]
            self._optimizer.zero_grad()
            loss = self._mean_loss(self._module(torch.from_numpy(inputs.x[rows])), torch.from_numpy(inputs.y[rows]))
            loss.backward()
            self._optimizer.step()
        self._module.eval().requires_grad_(False)

    def reset(self, _: Inputs) -> None:
        self._module.load_state_dict(self._subject.module().state_dict())
        self._new_optimizer()

    def _new_optimizer(self) -> None:
        self._optimizer = torch.optim.SGD(self._module.parameters(), LEARNING_RATE, MOMENTUM)


def _leaf(x: Array) -> torch.Tensor:
    return torch.from_numpy(x).requires_grad_()


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.numpy()
    return array
