"""Gluon models of the kinds that owners have. numpy and MXNet only: servers of the other environment import this."""

from __future__ import annotations

import functools
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import gluon
from mxnet.gluon import nn, rnn


def numbered(block: Any, scale: float = 0.5, seed: int = 0) -> Any:
    """Gives a block's weights values that do not depend on MXNet's own generator; running variances are positive."""
    generator = np.random.default_rng(seed)
    for name, parameter in block.collect_params().items():
        values = generator.normal(0, scale, parameter.shape)
        if "var" in name or "gamma" in name:
            values = np.abs(values) + 0.5
        parameter.set_data(mx.nd.array(values, dtype=parameter.dtype))
    return block


def _chain(*layers: Any, example: tuple[int, ...], dtype: str = "float64", seed: int = 0, scale: float = 0.5) -> Any:
    block = nn.HybridSequential()
    block.add(*layers)
    block.cast(dtype)
    block.initialize()
    block(mx.nd.zeros((1, *example), dtype=dtype))
    return numbered(block, scale, seed)


def smooth_cnn() -> Any:
    """1x8x8 to 10 logits, float64; has gradients everywhere."""
    return _chain(
        nn.Conv2D(4, 3), nn.Activation("softrelu"), nn.AvgPool2D(2), nn.Flatten(),
        nn.Dense(16), nn.Activation("tanh"), nn.Dense(10), example=(1, 8, 8),
    )  # fmt: skip


def float32_cnn() -> Any:
    """3x6x6 to 5 logits, float32, with batch normalisation and dropout."""
    return _chain(
        nn.Conv2D(6, 3), nn.BatchNorm(), nn.Activation("softrelu"), nn.Flatten(), nn.Dropout(0.5),
        nn.Dense(12), nn.Activation("tanh"), nn.Dense(5), example=(3, 6, 6), dtype="float32", seed=1, scale=0.15,
    )  # fmt: skip


def pooled_cnn(dtype: str = "float32") -> Any:
    """1x8x8 to 5 logits with all that MXNet's settings change the gradient of: max pooling, batch normalisation, dropout."""
    return _chain(
        nn.Conv2D(4, 3), nn.BatchNorm(), nn.Activation("relu"), nn.MaxPool2D(2), nn.Flatten(), nn.Dropout(0.5), nn.Dense(5),
        example=(1, 8, 8), dtype=dtype, seed=2,
    )  # fmt: skip


def dense(nb_inputs: int = 6, nb_outputs: int = 4, dtype: str = "float64", end: str = "") -> Any:
    """Smooth; ``end`` names an operator that comes last, e.g. ``log_softmax``."""
    layers = [nn.Dense(8), nn.Activation("tanh"), nn.Dense(nb_outputs)] + ([nn.HybridLambda(end)] if end else [])
    return _chain(*layers, example=(nb_inputs,), dtype=dtype)


def binary(end: str = "") -> Any:
    """Five features to one logit."""
    return dense(5, 1, end=end)


def selu() -> Any:
    return _chain(nn.Dense(8), nn.SELU(), nn.Dense(4), example=(6,))


class Deep(gluon.Block):
    """Not hybrid, with hybrid blocks inside."""

    def __init__(self) -> None:
        super().__init__()
        inner = nn.HybridSequential()
        inner.add(nn.Activation("tanh"), nn.Dense(8))
        self.body = nn.HybridSequential()
        self.body.add(nn.Dense(8), inner)
        self.head = nn.Dense(4)
        self.cast("float64")
        self.initialize()
        self(mx.nd.zeros((1, 6), dtype="float64"))
        numbered(self, seed=3)

    def forward(self, x: Any) -> Any:
        return self.head(self.body(x))


class Recurrent(gluon.HybridBlock):
    """Rows (time, 3) to 4 logits."""

    def __init__(self, kind: str = "GRU", dropout: float = 0.0, dtype: str = "float64", **more: Any) -> None:
        super().__init__()
        with self.name_scope():
            # The third argument is the activation of an RNN, and the layout of the others.
            kinds = {"RNN": ("tanh", "NTC"), "GRU": ("NTC",), "LSTM": ("NTC",)}
            self.rnn = getattr(rnn, kind)(5, 2, *kinds[kind], input_size=3, dropout=dropout, dtype=dtype, **more)
            self.head = nn.Dense(4)
        self.head.cast(dtype)
        self.initialize()
        self(mx.nd.zeros((1, 7, 3), dtype=dtype))
        numbered(self, seed=4)

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803, Gluon's name
        return self.head(self.rnn(x))


class Embedded(gluon.HybridBlock):
    """Rows of 7 tokens."""

    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.words = nn.Embedding(20, 6)
            self.head = nn.Dense(3)
        self.initialize()

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        return self.head(F.mean(self.words(x), axis=1))


class Through(gluon.HybridBlock):
    """Puts rows through an operator before a dense layer."""

    def __init__(self, operator: str) -> None:
        super().__init__()
        self._operator = operator
        with self.name_scope():
            self.head = nn.Dense(3)
        self.initialize()

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        if self._operator == "compare":
            x = F.broadcast_greater(x, F.zeros_like(x))
        elif self._operator == "constant":
            x = F.ones((2, 6))
        else:
            x = getattr(F, self._operator)(x)
        return self.head(x)


class Untraceable(gluon.HybridBlock):
    """Looks at the shape of its rows, which a symbol does not have."""

    def __init__(self) -> None:
        super().__init__()
        with self.name_scope():
            self.inner = dense()

    def hybrid_forward(self, F: Any, x: Any) -> Any:  # noqa: N803
        return self.inner(x.reshape((x.shape[0], -1)))


class Alone(Exception):
    """Error that `FailsLater` raises."""


class FailsLater(gluon.Block):
    """Raises in its fifth training step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dense()
        self.steps = 0

    def forward(self, x: Any) -> Any:
        if mx.autograd.is_training():
            self.steps += 1
            if self.steps == 5:
                raise Alone("out of ideas")
        return self.inner(x)


class _FailsBackward(mx.operator.CustomOp):  # type: ignore[misc, unused-ignore]
    """Passes values through; its backward raises where one is above 1000."""

    def forward(self, is_train: bool, req: Any, in_data: Any, out_data: Any, aux: Any) -> None:
        self.assign(out_data[0], req[0], in_data[0])

    def backward(self, req: Any, out_grad: Any, in_data: Any, out_data: Any, in_grad: Any, aux: Any) -> None:
        if float(in_data[0].max().asscalar()) > 1000:
            raise Alone("no way back from so much")
        self.assign(in_grad[0], req[0], out_grad[0])


@mx.operator.register("fails_backward")
class _FailsBackwardOf(mx.operator.CustomOpProp):  # type: ignore[misc, unused-ignore]
    def create_operator(self, ctx: Any, shapes: Any, dtypes: Any) -> Any:
        return _FailsBackward()


def fails_backward() -> Any:
    """MXNet tells what failed in a backward only when somebody reads the gradient."""
    through = nn.HybridLambda(lambda ops, x: ops.Custom(x, op_type="fails_backward"))
    return _chain(nn.Dense(8), through, nn.Activation("tanh"), nn.Dense(4), example=(6,))


def digits_net() -> Any:
    return _chain(nn.Dense(64), nn.Activation("relu"), nn.Dense(10), example=(64,), dtype="float32", scale=0.1)


def not_initialised() -> Any:
    """Layers whose names begin with the block's, which then come from a file."""
    block = nn.HybridSequential()
    with block.name_scope():
        block.add(nn.Dense(8, activation="tanh"), nn.Dense(4))
    block.cast("float64")
    return block


def smooth_net_to_export() -> Any:
    """Source of tests/mxnet_files/smooth-symbol.json: ``hybridize()``, one call, ``export("smooth")``."""
    return _chain(nn.Dense(8), nn.BatchNorm(), nn.Activation("tanh"), nn.Dense(4), example=(6,), seed=5)


@functools.cache
def shared() -> Any:
    """The same block whoever asks."""
    return dense()


def squares() -> Any:
    """A loss of the owner's own: half the squared distance to the rows of labels."""
    return lambda outputs, labels: mx.nd.square(outputs - labels).sum(axis=1) / 2
