"""A fit, as its caller sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import models
from gradwire.client import RemoteEstimator, connect
from gradwire.server import serving

MODEL = {"backend": "torch", "factory": models.mlp, "loss": "torch.nn.CrossEntropyLoss", "optimizer": "torch.optim.SGD",
         "access": "trainer", "input_shape": [6], "nb_classes": 4}  # fmt: skip
X, Y = np.zeros((8, 6), np.float32), np.arange(8) % 4

FITS: dict[str, Callable[[RemoteEstimator], None]] = {
    "rows": lambda remote: remote.fit(X, Y, nb_epochs=1),
    "batches": lambda remote: remote.fit_generator([(X, Y)], nb_epochs=1),
}


@pytest.mark.usefixtures("transport")
def test_a_fit_returns_its_version_without_another_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("a unary call was made")

    with serving({"m": MODEL}) as address, connect(address) as server:
        remote, other = server.estimator("m"), server.estimator("m")
        for number, fit in enumerate(FITS.values(), 1):
            with monkeypatch.context() as patch:
                patch.setattr(server.connection, "ask", asked)
                fit(remote)
            assert remote.card.version == f"fit-{number}"
            assert remote.card == server.card("m")
        assert other.card.version == "initial"
        assert other.refresh().version == "fit-2"
