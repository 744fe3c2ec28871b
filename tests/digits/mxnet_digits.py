"""A Gluon block for digits, fitted by Gluon alone, in the other environment."""

from __future__ import annotations

from typing import Any

from digits import data
from mxnet_process import there


def plain(x: Any, y: Any, held_out: Any) -> Any:
    return there("fit_digits", x=x, y=y, held_out=held_out, **data.SETTINGS)["outputs"].argmax(1)


MODELS = {
    "mxnet": (
        dict(backend="mxnet", factory="mxnet_models:digits_net", input_shape=[64],
             loss="mxnet.gluon.loss.SoftmaxCrossEntropyLoss",
             optimizer={"path": "mxnet.optimizer.Adam", "args": {"learning_rate": 0.003}}),
        plain,
    )
}  # fmt: skip
