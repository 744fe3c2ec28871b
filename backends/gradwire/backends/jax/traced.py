"""The operations of a model as pure functions of flat weights, for JAX to trace.

Invariant: the functions keep no state and are not called outside of a trace; `Programs` compiles them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradwire.backends.jax import layers
from gradwire.backends.jax.losses import RowLoss, WholeLoss
from gradwire.backends.jax.network import Network, is_key

CALLS, STEPS = 0, 1
"""Streams of random numbers: training steps draw from one of their own, so that a fit can be repeated."""


class Traced:
    """A network, its loss and its optimizer as functions of flat weights.

    In all of them ``flat`` are the leaves of the network's ``(params, rest)``, and ``draw`` is the number of the call: the
    same number gives the same dropout.

    Args:
        network: The owner's model.
        loss: The loss that it is fitted to, if it has one.
        optimizer: An optax transformation that takes extra arguments, or None.
        dtype: Of answers.
    """

    def __init__(self, network: Network, loss: RowLoss | WholeLoss | None, optimizer: Any, dtype: np.dtype[np.floating]) -> None:
        self._network = network
        self._loss = loss
        self._optimizer = optimizer
        self._dtype = dtype
        self._structure = jax.tree.structure((network.params, network.rest))

    def predict(self, training: bool, flat: Any, draw: Any, x: Any) -> Any:
        """Outputs ``(n, C)``."""
        return self._outputs(*self._whole(flat), _key(CALLS, draw), x, training)[0]

    def loss(self, training: bool, flat: Any, draw: Any, x: Any, targets: Any) -> Any:
        """The loss of each row."""
        return self._loss_rows(*self._whole(flat), _key(CALLS, draw), x, targets, training)[0]

    def loss_of_outputs(self, training: bool, flat: Any, draw: Any, outputs: Any, targets: Any) -> Any:
        """The loss of each row of outputs."""
        assert isinstance(self._loss, RowLoss)
        return self._loss.rows(outputs, targets)

    def loss_gradient(self, training: bool, flat: Any, draw: Any, x: Any, targets: Any) -> Any:
        """The gradient of the summed loss."""
        return jax.grad(lambda x: self.loss(training, flat, draw, x, targets).sum())(x)

    def class_gradient(self, training: bool, flat: Any, draw: Any, x: Any, label: Any) -> Any:
        """The gradient of one output a row."""
        outputs, pull_back = jax.vjp(lambda x: self.predict(training, flat, draw, x), x)
        return pull_back(jax.nn.one_hot(label, outputs.shape[1], dtype=outputs.dtype))[0]

    def class_gradients(self, count: int, training: bool, flat: Any, draw: Any, x: Any, first: Any) -> Any:
        """Gradients of ``count`` outputs from ``first`` on, ``(n, count, *input_shape)``: one forward, and a backward for each."""
        outputs, pull_back = jax.vjp(lambda x: self.predict(training, flat, draw, x), x)
        chosen = [jax.nn.one_hot(first + k, outputs.shape[1], dtype=outputs.dtype) for k in range(count)]
        return jnp.stack([pull_back(jnp.broadcast_to(one, outputs.shape))[0] for one in chosen], axis=1)

    def seen(self, name: str | None, training: bool, flat: Any, draw: Any, x: Any) -> Any:
        """The output of a layer, floating numbers in the dtype of answers; without a name the model's outputs."""
        if name is None:
            return self.predict(training, flat, draw, x)
        found = self._network.layer(*self._whole(flat), x, _key(CALLS, draw), training, name)
        found = layers.layer_output(name, found, len(x))
        return found.astype(self._dtype) if jnp.issubdtype(found.dtype, jnp.floating) else found

    def vjp(self, name: str | None, training: bool, flat: Any, draw: Any, x: Any, cotangent: Any) -> Any:
        """The cotangent times the Jacobian of the outputs, or of a layer."""
        return jax.vjp(lambda x: self.seen(name, training, flat, draw, x), x)[1](cotangent)[0]

    def train_step(
        self, training: bool, flat: Any, draw: Any, state: Any, x: Any, targets: Any, counted: Any
    ) -> tuple[Any, Any, Any, Any]:
        """The batch's loss over the ``counted`` rows, and ``params``, ``rest`` and the optimizer's state after one step."""
        params, rest = self._whole(flat)
        loss = self._loss
        assert loss is not None, "a model without a loss is not fitted"

        def objective(params: Any) -> tuple[Any, Any]:
            rows, changed = self._loss_rows(params, rest, _key(STEPS, draw), x, targets, training)
            return loss.reduced(rows * counted, counted.sum()), changed

        (value, changed), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        # Some optimizers look at the value, or search along a line.
        more = {"value": value, "grad": gradient, "value_fn": lambda params: objective(params)[0]}
        updates, state = self._optimizer.update(gradient, state, params, **more)
        # Statistics keep their precision, because another dtype would need another program.
        changed = jax.tree.map(lambda old, new: new if is_key(old) else new.astype(old.dtype), rest, changed)
        return value, optax.apply_updates(params, updates), changed, state

    # Inside.

    def _whole(self, flat: Any) -> tuple[Any, Any]:
        params, rest = jax.tree.unflatten(self._structure, flat)
        return params, rest

    def _outputs(self, params: Any, rest: Any, key: Any, x: Any, training: bool) -> tuple[Any, Any]:
        """Outputs ``(n, C)`` in the dtype of answers, and ``rest`` after them."""
        result, changed = self._network.apply(params, rest, x, key, training)
        return layers.outputs(result, len(x)).astype(self._dtype), changed

    def _loss_rows(self, params: Any, rest: Any, key: Any, x: Any, targets: Any, training: bool) -> tuple[Any, Any]:
        if isinstance(self._loss, WholeLoss):
            return self._loss.rows(self._network.join(params, rest), x, targets), rest
        assert self._loss is not None, "operations of the loss are None on a model without one"
        outputs, changed = self._outputs(params, rest, key, x, training)
        return self._loss.rows(outputs, targets), changed


def _key(stream: int, draw: Any) -> Any:
    return jax.random.fold_in(jax.random.key(stream), draw)
