"""TensorFlow models of the kinds that owners have; float64 and smooth, unless a name says otherwise."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def variable(seed: int, *shape: int, dtype: str = "float64", **more: Any) -> Any:
    scale = np.prod(shape[:-1]) ** -0.5
    return tf.Variable(np.random.default_rng(seed).normal(0, scale, shape).astype(dtype), **more)


class Dense(tf.Module):
    def __init__(self, inputs: int, outputs: int, dtype: str = "float64", seed: int = 0, trainable: bool = True) -> None:
        super().__init__()
        self.kernel = variable(seed + outputs, inputs, outputs, dtype=dtype, trainable=trainable)
        self.bias = variable(seed + outputs + 1, 1, outputs, dtype=dtype, trainable=trainable)

    def __call__(self, x: Any) -> Any:
        return x @ self.kernel + self.bias


class Mlp(tf.Module):
    """Six features to outputs; ``end`` names a function of ``tf.nn``."""

    def __init__(
        self, outputs: int = 4, dtype: str = "float64", seed: int = 0, end: str = "identity", frozen: bool = False
    ) -> None:
        super().__init__()
        self.first = Dense(6, 8, dtype, seed, trainable=not frozen)
        self.last = Dense(8, outputs, dtype, seed)
        self.end = getattr(tf.nn, end, tf.identity)

    def __call__(self, x: Any) -> Any:
        return self.end(self.last(tf.tanh(self.first(x))))


class Compiled(Mlp):
    """Compiled by its owner."""

    @tf.function
    def __call__(self, x: Any) -> Any:
        return super().__call__(x)


class Blocks(tf.Module):
    """Modules nested in lists and modules: one called twice, one never, one in a loop, one that knows its parent."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Dense(6, 8)
        self.blocks = [Mlp(6), {"inner": Compiled(6)}]
        self.unused = Dense(6, 8)
        self.twice = Dense(6, 6)
        self.looped = Dense(6, 6)
        self.part = tf.Module()
        self.part.whole = self
        self.head = Dense(6, 4)

    def __call__(self, x: Any) -> Any:
        h = self.blocks[1]["inner"](self.blocks[0](x)) + self.stem(x)[:, :6]
        h = self.twice(tf.tanh(self.twice(h)))
        h = tf.while_loop(lambda i, h: i < 2, lambda i, h: (i + 1, tf.tanh(self.looped(h))), (0, h))[1]
        return self.head(h)


class Normalised(tf.Module):
    """Batch normalisation as Keras has it, and dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = Dense(6, 8)
        self.norm = keras.layers.BatchNormalization(dtype="float64")
        self.dropout = keras.layers.Dropout(dropout, dtype="float64", seed=1)
        self.last = Dense(8, 4)

    def __call__(self, x: Any, training: bool = False) -> Any:
        h = tf.tanh(self.norm(self.first(x), training=training))
        return self.last(self.dropout(h, training=training))


class Lazy(tf.Module):
    """Makes its variables when it is called first, in the dtype of the rows."""

    def __call__(self, x: Any) -> Any:
        if not hasattr(self, "kernel"):
            self.kernel = variable(3, x.shape[1], 4, dtype=x.dtype.name)
        return x @ self.kernel


class Untraceable(Mlp):
    """Looks at its values, which a graph does not have."""

    def __call__(self, x: Any) -> Any:
        return super().__call__(x) * (1.0 if np.isfinite(x.numpy()).all() else 0.0)


class Detached(Mlp):
    def __call__(self, x: Any) -> Any:
        return super().__call__(tf.stop_gradient(x))


class HalfDetached(Mlp):
    """Only its first output depends on the inputs."""

    def __call__(self, x: Any) -> Any:
        outputs = super().__call__(x)
        return tf.concat([outputs[:, :1], tf.stop_gradient(outputs[:, 1:])], 1)


class Sequence(tf.Module):
    """Rows of any number of steps of three features to four logits a row."""

    def __init__(self) -> None:
        super().__init__()
        self.step = Dense(3, 4)

    def __call__(self, x: Any) -> Any:
        return tf.reduce_sum(tf.tanh(self.step(x)), 1)


class Embedded(tf.Module):
    """Seven tokens to four logits, float32."""

    def __init__(self) -> None:
        super().__init__()
        self.table = variable(1, 11, 4, dtype="float32")

    def __call__(self, tokens: Any) -> Any:
        return tf.reduce_sum(tf.gather(self.table, tokens), 1)


class Several(Mlp):
    """Outputs by name."""

    def __call__(self, x: Any) -> Any:
        logits = super().__call__(x)
        return {"twice": 2 * logits, "logits": logits}


class Full(Mlp):
    """Of a device that has room for two rows."""

    def __call__(self, x: Any) -> Any:
        if not tf.is_symbolic_tensor(x) and x.shape[0] > 2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
        return super().__call__(x) if x.shape[0] is not None else super().__call__(x.numpy())


class OwnVariable(tf.Module):
    """Answers one of its variables, whatever the rows are."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = tf.Variable(np.ones((2, 4)))

    def __call__(self, x: Any) -> Any:
        return self.answer if x.shape[0] is None else self.answer[: x.shape[0]]


class Failing(Mlp):
    """Raises in training once it has learnt something."""

    def __call__(self, x: Any, training: bool = False) -> Any:
        if training:
            tf.debugging.assert_less(tf.abs(self.last.bias), tf.constant(1.5, tf.float64), message="out of ideas")
        return super().__call__(x)


def brier(targets: Any, outputs: Any) -> Any:
    """A loss of the owner's own."""
    return tf.reduce_sum((tf.nn.softmax(outputs) - targets) ** 2, 1)


def make_brier() -> Any:
    return brier


def mean_loss(targets: Any, outputs: Any) -> Any:
    """One that cannot be taken row by row."""
    return tf.reduce_mean(brier(targets, outputs))


def momentum_step() -> Any:
    """A step of gradient descent whose velocity only it knows; it tells no loss."""
    optimizer = keras.optimizers.SGD(0.2, momentum=0.9)

    @tf.function
    def step(model: Any, x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, model(x)))
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    return step


_ALWAYS = Mlp()


def always_the_same() -> Any:
    return _ALWAYS


def not_a_model() -> int:
    return 3
