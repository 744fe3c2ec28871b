"""Gradients that are added to a TensorFlow 1 graph.

Invariant: a missing gradient is None or an error, and never zeros.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from gradwire.backends.tensorflow_v1.network import Network
from gradwire.backends.tensorflow_v1.programs import Program


def product(network: Network, of: Any) -> Program | None:
    """Makes a program from the input and a cotangent to the gradient; None if it does not exist."""
    with network.building():
        cotangent = tf.compat.v1.placeholder(of.dtype, of.shape)
    gradient = network.gradient(of, cotangent)
    return None if gradient is None else network.program([gradient], [network.input, cotangent])


def of_every_output(network: Network, nb_outputs: int) -> Program:
    """Makes a program from the input to the gradients of all outputs: one forward, and a backward for each output."""
    with network.building():
        columns = [network.output[:, k] for k in range(nb_outputs)]
    return network.program([network.gradient(column) for column in columns], [network.input])
