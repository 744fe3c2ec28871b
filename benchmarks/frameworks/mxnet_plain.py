"""MXNet's factory, and a process with a hybridized block, both in MXNet's own environment.

The process is ``python -m benchmarks.frameworks.mxnet_plain WEIGHTS``. Requests are pickles on stdin, and answers on stdout.
"""

from __future__ import annotations

import os
import pickle
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

# With oneDNN its gradients are wrong outside of training.
os.environ["MXNET_MKLDNN_ENABLED"] = "0"
os.environ.setdefault("MXNET_STORAGE_FALLBACK_LOG_VERBOSE", "0")

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from benchmarks.contenders.contender import Function, InThisProcess, timed
from benchmarks.frameworks import weights as numbers
from benchmarks.frameworks.setup import PLAIN, Setup
from benchmarks.model import NB_CLASSES, Array, Inputs, inputs

_FEW_ROWS = 2
"""Up to this number of rows, all class gradients are fastest as one gradient of copied rows."""


def cnn(weights: str) -> Any:
    """Makes the model for gradwire's server."""
    arrays = numbers.channels_first(weights)
    layers = [
        ("conv1", nn.Conv2D(16, 5)), ("relu1", nn.Activation("relu")), ("pool1", nn.MaxPool2D(2)),
        ("conv2", nn.Conv2D(32, 5)), ("relu2", nn.Activation("relu")), ("pool2", nn.MaxPool2D(2)),
        ("flat", nn.Flatten()), ("hidden", nn.Dense(128)), ("relu3", nn.Activation("relu")), ("logits", nn.Dense(NB_CLASSES)),
    ]  # fmt: skip
    block = nn.HybridSequential()
    for name, layer in layers:
        block.register_child(layer, name)
    block.initialize()
    block(mx.nd.zeros((1, 1, 28, 28)))
    for name, layer in layers:
        if f"{name}.weight" in arrays:
            layer.weight.set_data(mx.nd.array(arrays[f"{name}.weight"]))
            layer.bias.set_data(mx.nd.array(arrays[f"{name}.bias"]))
    return block


class _Plain:
    def __init__(self, block: Any) -> None:
        block.collect_params().setattr("grad_req", "null")
        block.hybridize(static_alloc=True)
        self._block = block
        self._conv = block[0]
        self._loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
        self._loss.hybridize()

    def predict(self, inputs: Inputs) -> Array:
        return _array(self._block(mx.nd.array(inputs.x)))

    def loss(self, inputs: Inputs) -> Array:
        return _array(self._loss(self._block(mx.nd.array(inputs.x)), mx.nd.array(inputs.y)))

    def loss_gradient(self, inputs: Inputs) -> Array:
        leaf = _leaf(inputs.x)
        with mx.autograd.record(train_mode=False):
            loss = self._loss(self._block(leaf), mx.nd.array(inputs.y)).mean()
        loss.backward(train_mode=False)
        return _array(leaf.grad)

    def class_gradient_rows(self, inputs: Inputs) -> Array:
        return self._picked(inputs.x, inputs.y)[:, None]

    def class_gradient_all(self, inputs: Inputs) -> Array:
        x = inputs.x
        if len(x) <= _FEW_ROWS:
            classes = np.tile(np.arange(NB_CLASSES), len(x))
            return self._picked(np.repeat(x, NB_CLASSES, axis=0), classes).reshape(-1, NB_CLASSES, *x.shape[1:])
        leaf = _leaf(x)
        with mx.autograd.record(train_mode=False):
            columns = [column.sum() for column in mx.nd.split(self._block(leaf), NB_CLASSES, axis=1)]
        result = np.empty((len(x), NB_CLASSES, *x.shape[1:]), np.float32)
        for k, column in enumerate(columns):
            column.backward(retain_graph=k < NB_CLASSES - 1, train_mode=False)
            result[:, k] = _array(leaf.grad)
        return result

    def activations_conv(self, inputs: Inputs) -> Array:
        return _array(self._conv(mx.nd.array(inputs.x)))

    def _picked(self, x: Array, classes: Array) -> Array:
        leaf = _leaf(x)
        with mx.autograd.record(train_mode=False):
            chosen = mx.nd.pick(self._block(leaf), mx.nd.array(classes)).sum()
        chosen.backward(train_mode=False)
        return _array(leaf.grad)


def _leaf(x: Array) -> Any:
    leaf = mx.nd.array(x)
    leaf.attach_grad()
    return leaf


def _array(values: Any) -> Array:
    array: Array = values.asnumpy()
    return array


def _functions(weights: str) -> dict[str, Function]:
    plain = _Plain(cnn(weights))
    return {
        "predict": plain.predict,
        "loss": plain.loss,
        "loss_gradient": plain.loss_gradient,
        "class_gradient_rows": plain.class_gradient_rows,
        "class_gradient_all": plain.class_gradient_all,
        "activations_conv": plain.activations_conv,
    }


def setups(weights: Path) -> list[Setup]:
    """Sets up the CNN as plain code in this process."""
    plain = InThisProcess(PLAIN, _functions(str(weights)), {})
    return [Setup("mxnet", {}, lambda: nullcontext(plain))]


def main(weights: str) -> None:
    """Answers requests until stdin ends."""
    # Prints of libraries go to stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        pickle.dump(value, answers)
        answers.flush()

    functions = _functions(weights)
    cached: dict[int, Inputs] = {}
    answer((list(functions), {"mxnet": mx.__version__}))
    while True:
        try:
            operation, rows, calls = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        given = cached.setdefault(rows, inputs(rows))
        answer(functions[operation](given) if calls == 0 else timed(functions[operation], given, calls))


if __name__ == "__main__":
    main(sys.argv[1])
