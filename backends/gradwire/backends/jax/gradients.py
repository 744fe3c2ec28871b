"""Detection of missing gradients, by the dependence of a gradient on its cotangent.

JAX returns zeros for a missing gradient (``stop_gradient``, a rounding), which would pass for a robust model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def depends(function: Callable[[Any], Any], x: Any) -> bool:
    """True if the gradient of ``function`` at rows of the shape of ``x`` uses the cotangent.

    The function is traced and not computed. Zeros that the owner's code computes itself count as gradients.

    Args:
        function: Floating rows to an array.
        x: Rows, or their shape and dtype.
    """

    def pulled_back(x: Any, cotangent: Any) -> Any:
        return jax.vjp(function, x)[1](cotangent)[0]

    outputs = jax.eval_shape(function, x)
    if not jnp.issubdtype(outputs.dtype, jnp.inexact):
        return False
    closed = jax.make_jaxpr(pulled_back)(x, outputs)
    return _reached(closed.jaxpr, [False] * (len(closed.jaxpr.invars) - 1) + [True])[0]


def _reached(jaxpr: Any, inputs: list[bool]) -> list[bool]:
    """Marks the outputs of a program that depend on the marked inputs."""
    reached = {id(var) for var, is_reached in zip(jaxpr.invars, inputs, strict=True) if is_reached}
    for equation in jaxpr.eqns:
        given = [id(var) in reached for var in equation.invars]
        if not any(given):
            continue
        inner = equation.params.get("jaxpr") if equation.primitive.name in ("pjit", "jit") else None
        found = [True] * len(equation.outvars) if inner is None else _reached(inner.jaxpr, given)
        reached |= {id(var) for var, is_reached in zip(equation.outvars, found, strict=True) if is_reached}
    return [id(var) in reached for var in jaxpr.outvars]
