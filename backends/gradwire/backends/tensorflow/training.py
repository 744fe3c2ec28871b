"""Training steps of TensorFlow and Keras models, by an optimizer on the loss or by the owner's own step.

Invariant: `state` is everything that steps change besides the model's variables, and it is complete before the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gradwire.backends.backend import Array
from gradwire.backends.config import Object
from gradwire.backends.errors import ModelConfigError, Unsupported
from gradwire.backends.tensorflow.device import tf
from gradwire.backends.tensorflow.losses import keras_on_tensorflow
from gradwire.backends.tensorflow.weights import copies, put_back


def build(spec: Object) -> Any:
    """Makes the optimizer that a configuration names. Raises ModelConfigError."""
    keras_on_tensorflow("optimizer")
    optimizer = spec.build("optimizer")
    missing = [name for name in ("apply_gradients", "build", "variables") if not hasattr(optimizer, name)]
    if missing:
        raise ModelConfigError(
            "optimizer", f"{spec.path!r} returned {type(optimizer).__name__}; expected a keras.optimizers.Optimizer"
        )
    return optimizer


class OptimizerStep:
    """Steps of a Keras optimizer.

    Args:
        optimizer: Belongs to the step from here on.
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
        self._initial = copies(self.state)

    def __call__(self, loss: Callable[[], Any]) -> Any:
        """Takes one step on the loss that the function computes, and returns it, regularisation included."""
        with tf.GradientTape() as tape:
            value = loss()
            for penalty in self._penalties():
                value += tf.cast(tf.reduce_sum(penalty), value.dtype)
            # Half precision: the loss is scaled so that small gradients survive, and the step divides by the scale.
            scaled = self._optimizer.scale_loss(value) if hasattr(self._optimizer, "scale_loss") else value
        gradients = tape.gradient(scaled, self._trainable)
        found = [(g, v) for g, v in zip(gradients, self._trainable, strict=True) if g is not None]
        if not found:
            raise Unsupported("the loss depends on none of the model's trainable variables, so that no step would change anything")
        self._optimizer.apply_gradients(found)
        return value

    def reset(self) -> None:
        """Restores the state before the first step, for new weights."""
        put_back(self.state, self._initial)


class OwnersStep:
    """Steps of the owner's own function ``(model, x, y)``, which changes the model and may return its loss.

    Args:
        step: The function, compiled or not.
        model: Its first argument.
    """

    def __init__(self, step: Callable[..., Any], model: Any) -> None:
        self._step = step
        self._model = model
        self.returns_loss = True
        """True if the function returned the loss when its Python code ran last."""
        self.state: list[Any] = []
        self._initial: list[Array] = []

    def __call__(self, x: Any, y: Any) -> Any:
        """Takes one step, and returns the loss, or NaN if the owner's function does not return it."""
        returned = self._step(self._model, x, y)
        self.returns_loss = returned is not None
        return tf.constant(float("nan")) if returned is None else tf.reduce_mean(tf.cast(returned, tf.float64))

    def learn(self, variables: Sequence[Any]) -> None:
        """Sets the state: the variables that the compiled function uses and that are not the model's."""
        self.state = list(variables)
        self._initial = copies(self.state)

    def reset(self) -> None:
        """Restores the state before the first step, for new weights."""
        put_back(self.state, self._initial)
