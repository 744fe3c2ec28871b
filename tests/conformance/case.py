"""A case of the conformance body: one served model, and what must hold of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

PREDICT = frozenset({"predict"})
TRAINED = frozenset({"fit", "save", "clone_for_refitting"})
GRADIENTS = frozenset({"loss", "loss_gradient", "class_gradient", "vjp"})
NEURAL = PREDICT | TRAINED | GRADIENTS | {"get_activations", "fit_generator"}


@dataclass(frozen=True)
class Case:
    """One served model.

    Attributes:
        config: Its entry in a server's configuration. It names factories by their paths: they import frameworks, and a list of
            all cases does not.
        rows: ``make(n, seed)`` gives inputs ``(n, *input_shape)``.
        operations: What its card must show to a trainer.
        rtol: Relative error against finite differences, and of rows computed in other company; by precision.
        scores: Whether class gradients are those of predict's columns.
        repeatable: Whether a fit with a seed can be repeated; dropout draws from the process's own generator.
        layers: Names of layers, in order, if there are any.
        step: Of finite differences; by precision.
        single_output: Whether two classes have one output.
        loss_of_outputs: Whether the loss is one of predict's outputs; an ensemble's is one of its members'.
        targets: ``make(n, seed)`` gives targets ``(n, outputs)``, of a regression.
        long_fit_rows: So many that a fit that is made in one go takes a tenth of a second or more.
        environment: The one that its server runs in, a name for `environments.python_of`, if not the tests' own.
        prepare: Writes the files that ``config`` names, if they are not there yet.
    """

    config: dict[str, Any]
    rows: Callable[[int, int], Any]
    operations: frozenset[str]
    rtol: float = 1e-6
    scores: bool = True
    repeatable: bool = True
    layers: tuple[str, ...] = ()
    step: float = 1e-5
    single_output: bool = False
    loss_of_outputs: bool = True
    targets: Callable[[int, int], Any] | None = None
    long_fit_rows: int = 6_000
    environment: str = ""
    prepare: Callable[[], None] = lambda: None

    @property
    def backend(self) -> str:
        return str(self.config["backend"])

    @property
    def nb_classes(self) -> int:
        return int(self.config["nb_classes"])

    @property
    def task(self) -> str:
        return str(self.config.get("task", "classification"))

    def labels(self, n: int, seed: int = 0) -> Any:
        """Labels for losses: class indices ``(n,)``, or targets."""
        return self.indices(n, seed) if self.targets is None else self.targets(n, seed)

    def indices(self, n: int, seed: int = 0) -> Any:
        """Labels for class gradients: classes ``(n,)``, or indices of a regression's values."""
        return np.random.default_rng(seed).integers(0, self.nb_classes, n)


def uniform(*shape: int, dtype: str = "float64") -> Callable[[int, int], Any]:
    return lambda n, seed: np.random.default_rng(seed).uniform(0.05, 0.95, (n, *shape)).astype(dtype)


class Halve:
    """A defence with a gradient of its own: inputs are halved before standardisation."""

    apply_fit = True
    apply_predict = True

    def __call__(self, x: Any, y: Any = None) -> tuple[Any, Any]:
        return x / 2, y

    def estimate_gradient(self, x: Any, grad: Any) -> Any:
        return grad / 2
