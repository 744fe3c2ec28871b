"""JAX backend: functions with parameters, Flax and Equinox modules."""

from gradwire.backends.jax.model import Config, JaxModel, load
from gradwire.backends.jax.network import JaxFunction

__all__ = ["Config", "JaxFunction", "JaxModel", "load"]
