"""An example that is not trained; replace it with your own model, and put its weights beside it."""

from __future__ import annotations

import mxnet as mx
from mxnet.gluon import nn


def digits() -> nn.HybridSequential:
    """Return a network from rows of 64 numbers to logits of ten classes."""
    mx.random.seed(0)
    net = nn.HybridSequential()
    net.add(nn.Dense(32, activation="relu"), nn.Dense(10))
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 64)))
    return net
