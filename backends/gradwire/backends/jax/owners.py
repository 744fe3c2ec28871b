"""Networks of the models that owners' factories return: JAX functions, Flax modules and Equinox modules."""

from __future__ import annotations

from typing import Any

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.jax.network import JaxFunction, Network, PlainNetwork


def network(made: Any, path: str) -> Network:
    """Makes the network of the model that the factory ``path`` returned. Raises ModelConfigError.

    flax and equinox are imported only if the owner's model comes from them.
    """
    first, second = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if comes_from(first, "flax"):
        from gradwire.backends.jax import flax_network

        return flax_network.network(first, second)
    if comes_from(first, "equinox"):
        from gradwire.backends.jax import equinox_network

        return equinox_network.network(first, second)
    if isinstance(made, tuple) and len(made) == 2 and callable(first):
        made = JaxFunction(first, second)
    if not isinstance(made, JaxFunction):
        given = type(made).__name__ + (f" of {len(made)}" if isinstance(made, tuple) else "")
        raise ModelConfigError(
            "factory",
            f"{path!r} returned {given}; expected (predict, params), a JaxFunction, a Flax module with its variables, "
            "an nnx.Module, or an Equinox module (with its state)",
        )
    return PlainNetwork(made)


def comes_from(made: Any, library: str) -> bool:
    """True if an object's class, or one of its base classes, comes from a library."""
    return any(cls.__module__.partition(".")[0] == library for cls in type(made).__mro__)
