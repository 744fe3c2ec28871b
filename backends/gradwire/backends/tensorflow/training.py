"""How a TensorFlow or Keras model takes one step of training: by an optimizer on its loss, or by the owner's own step.

What holds: `state` is everything that steps change besides the model's variables, and it is there before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gradwire.backends.backend import Array
from gradwire.backends.config import Object
from gradwire.backends.errors import ModelConfigError, Unsupported
from gradwire.backends.tensorflow.device import tf
from gradwire.backends.tensorflow.losses import keras_on_tensorflow
from gradwire.backends.tensorflow.weights import put_back, values


def build(spec: Object) -> Any:
    """The optimizer that a configuration names."""
    keras_on_tensorflow("optimizer")
    return checked(spec.build("optimizer"), spec.path)


def checked(optimizer: Any, path: str) -> Any:
    """An optimizer of Keras's interface. Raises ModelConfigError."""
    missing = [name for name in ("apply_gradients", "build", "variables") if not hasattr(optimizer, name)]
    if missing:
        raise ModelConfigError("optimizer", f"{path!r} returned {type(optimizer).__name__}; expected a keras.optimizers.Optimizer")
    return optimizer


class OptimizerStep:
    """Steps of a Keras optimizer.

    Args:
        optimizer: It belongs to the step from here on.
        trainable: The variables that it changes.
        penalties: The regularisation of the forward pass that ran last, scalars.
    """

    def __init__(self, optimizer: Any, trainable: Sequence[Any], penalties: Callable[[], Sequence[Any]]) -> None:
        self._optimizer = optimizer
        self._trainable = list(trainable)
        self._penalties = penalties
        # Now, because a compiled step must not make variables.
        if not optimizer.built:
            optimizer.build(self._trainable)
        self.state = [variable.value for variable in optimizer.variables]
        self._initial = values(self.state)

    def __call__(self, loss: Callable[[], Any]) -> Any:
        """One step on the loss that the function computes; returns it, regularisation included."""
        with tf.GradientTape() as tape:
            value = loss()
            for penalty in self._penalties():
                value += tf.cast(tf.reduce_sum(penalty), value.dtype)
            # Half precision: what would vanish in gradients is multiplied, and divided by again in the step.
            scaled = self._optimizer.scale_loss(value) if hasattr(self._optimizer, "scale_loss") else value
        gradients = tape.gradient(scaled, self._trainable)
        found = [(g, v) for g, v in zip(gradients, self._trainable, strict=True) if g is not None]
        if not found:
            raise Unsupported("the loss depends on none of the model's trainable variables, so that no step changes anything")
        self._optimizer.apply_gradients(found)
        return value

    def reset(self) -> None:
        """Begins anew, as for other weights."""
        put_back(self.state, self._initial)


class OwnersStep:
    """Steps of the owner's own function ``(model, x, y)``, which changes the model and may return its loss.

    Args:
        step: The function, compiled or not.
        model: What it gets first.
    """

    def __init__(self, step: Callable[..., Any], model: Any) -> None:
        self._step = step
        self._model = model
        self.tells = True
        """Whether it returned the loss, the last time that its Python ran."""
        self.state: list[Any] = []
        self._initial: list[Array] = []

    def __call__(self, x: Any, y: Any) -> Any:
        """One step; the loss, or NaN where the owner's function does not tell it."""
        told = self._step(self._model, x, y)
        self.tells = told is not None
        return tf.constant(float("nan")) if told is None else tf.reduce_mean(tf.cast(told, tf.float64))

    def learn(self, variables: Sequence[Any]) -> None:
        """Takes these variables, which the compiled function uses and which are not the model's, for its state."""
        self.state = list(variables)
        self._initial = values(self.state)

    def reset(self) -> None:
        """Begins anew, as for other weights."""
        put_back(self.state, self._initial)
