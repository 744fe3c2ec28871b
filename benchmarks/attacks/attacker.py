"""Attacking process: ``python -m benchmarks.attacks.attacker WEIGHTS [ADDRESS]``; without an address, ART's own estimator.

See `benchmarks.contenders.worker`: there an attack is an operation, whose result is the adversarial images.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier
from torch import nn

from benchmarks.attacks.catalogue import ATTACKS, Attack
from benchmarks.attacks.model import fitted, victims
from benchmarks.contenders.contender import Function
from benchmarks.contenders.worker import work
from benchmarks.model import INPUT_SHAPE, NB_CLASSES, Array, Inputs

CALLS = "calls"
"""The operation that returns the last attack's number of calls, by method of the estimator."""


class InProcess(PyTorchClassifier):  # type: ignore[misc]  # ART has no types
    """ART's estimator, which casts HopSkipJump's rows, float64 under numpy 2, to the model's dtype."""

    def predict(self, x: Array, batch_size: int = 128, training_mode: bool = False, **kwargs: Any) -> Array:
        """Predicts for rows of any floating dtype."""
        answer: Array = super().predict(x.astype(np.float32, copy=False), batch_size, training_mode, **kwargs)
        return answer


class Counted:
    """Counts the calls of an estimator's methods."""

    METHODS = ("predict", "loss_gradient", "class_gradient")

    def __init__(self, estimator: Any) -> None:
        self.counts = dict.fromkeys(self.METHODS, 0)
        for name in self.METHODS:
            setattr(estimator, name, self._counting(name, getattr(estimator, name)))

    def _counting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.counts[name] += 1
            return method(*args, **kwargs)

        return counting


def main(weights: str, address: str = "") -> None:
    """Attacks on request until stdin ends."""
    module = fitted(Path(weights))
    with ExitStack() as stack:
        if address:
            from gradwire.client import connect
            from gradwire.client.art import art_estimator

            estimator = art_estimator(stack.enter_context(connect(address)).estimator("cnn"))
            versions = {"gradwire": version("gradwire")}
        else:
            estimator = InProcess(module, nn.CrossEntropyLoss(), INPUT_SHAPE, NB_CLASSES, clip_values=(0.0, 1.0), device_type="cpu")
            versions = {}
        counted = Counted(estimator)

        def attack(of: Attack, inputs: Inputs) -> Array:
            counted.counts = dict.fromkeys(Counted.METHODS, 0)
            np.random.seed(0)
            adversarial: Array = of.make(estimator).generate(inputs.x, inputs.y)
            return adversarial

        functions: dict[str, Function] = {name: partial(attack, of) for name, of in ATTACKS.items()}
        functions[CALLS] = lambda _: np.array([counted.counts[name] for name in Counted.METHODS])

        def given(rows: int, batch_size: int) -> Inputs:
            x, y = victims(module, rows)
            return Inputs(x=x, y=y, one_hot=x[:, :0], cotangent=x[:, :0], batch_size=batch_size)

        library = "adversarial-robustness-toolbox"
        work({"attack": functions}, given, {**versions, library: version(library)})


if __name__ == "__main__":
    main(*sys.argv[1:])
