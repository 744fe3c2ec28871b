"""Optimizers by name, and the trainer of a model, whose state is copied and put back."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeAlias

from gradwire.backends.config import Object
from gradwire.backends.errors import ModelConfigError
from gradwire.backends.mxnet.device import mx

State: TypeAlias = tuple[Any, Any, float]


def optimizer_named(name: str, **args: Any) -> Any:
    """Makes the optimizer that MXNet registers under a name, ``adam`` for example.

    Raises:
        ValueError: MXNet has no such optimizer.
    """
    known = mx.optimizer.Optimizer.opt_registry
    if name.lower() not in known:
        raise ValueError(f"MXNet has no optimizer {name!r}; it has {', '.join(sorted(known))}, or name a class by its path")
    return mx.optimizer.create(name, **args)


def build(spec: Object, parameters: Sequence[Any]) -> Any:
    """Makes a ``gluon.Trainer`` of the parameters with the optimizer that a configuration names. Raises ModelConfigError."""
    optimizer = spec.build("optimizer")
    if not isinstance(optimizer, mx.optimizer.Optimizer):
        raise ModelConfigError(
            "optimizer", f"{spec.path!r} returned {type(optimizer).__name__}; expected a mxnet.optimizer.Optimizer, or its name"
        )
    return _trainer(optimizer, parameters)


def state(of: Any) -> State:
    """Copies the trainer's state that steps change: momenta, counts, the schedule of the learning rate."""
    return copy.deepcopy((of._optimizer, of._updaters[0].states, of._scale))


def restored(kept: State, parameters: Sequence[Any]) -> Any:
    """Makes a trainer that continues from a copied state."""
    optimizer, states, scale = copy.deepcopy(kept)
    # A step divides it by its rows, and a trainer takes the value that it finds for the owner's.
    optimizer.rescale_grad = scale
    made = _trainer(optimizer, parameters)
    made._updaters[0].states = states
    made._updaters[0].states_synced = dict.fromkeys(states, True)
    return made


def _trainer(optimizer: Any, parameters: Sequence[Any]) -> Any:
    # With one device no gradients are exchanged.
    return mx.gluon.Trainer(list(parameters), optimizer, kvstore=None)
