"""ART's attacks on a remote model, with their cost and effect."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from art.attacks.evasion import DeepFool, FastGradientMethod, HopSkipJump, ProjectedGradientDescent

from gradwire.client.art import art_estimator
from gradwire.client.estimator import RemoteEstimator
from gradwire.client.server import Server
from gradwire.wire.tensors import Array

WHITE_BOX = "digits"
BLACK_BOX = "digits-labels"
"""Served names."""

EPSILON = 0.15
"""The most that FGSM and PGD may change a pixel, of a range of 1."""


@dataclass(frozen=True)
class Attack:
    """An attack, one row of the table.

    Attributes:
        name: ART's name, or a short form.
        model: The served name under attack.
        uses: The operation that it uses.
        setting: Its main parameter, for pictures.
        images: Number of images.
        at_once: Images per call of ART's ``generate``.
        make: Makes ART's attack for an estimator.
    """

    name: str
    model: str
    uses: str
    setting: str
    images: int
    at_once: int
    make: Callable[[Any], Any]


@dataclass(frozen=True)
class Outcome:
    """Result of an attack on images ``(n, 1, 8, 8)`` of classes ``(n,)``."""

    attack: Attack
    x: Array
    y: Array
    adversarial: Array
    predicted: Array
    predicted_clean: Array
    forward: int
    backward: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Accuracy under attack."""
        return float(np.mean(self.predicted == self.y))

    @property
    def clean_accuracy(self) -> float:
        """Accuracy on clean images."""
        return float(np.mean(self.predicted_clean == self.y))

    @property
    def perturbation(self) -> Array:
        """Change of each pixel."""
        return self.adversarial - self.x


def attacks(quick: bool) -> list[Attack]:
    """Returns the demo's attacks, strongest access first."""
    images, steps, black_box_images, black_box_steps = (40, 10, 6, 4) if quick else (200, 20, 20, 15)
    return [
        Attack("FGSM", WHITE_BOX, "loss_gradient", f"ε = {EPSILON}", images, images // 4, fgsm(EPSILON)),
        Attack("PGD", WHITE_BOX, "loss_gradient", f"ε = {EPSILON}, {steps} steps", images, images // 4, pgd(EPSILON, steps)),
        Attack(
            "DeepFool",
            WHITE_BOX,
            "class_gradient",
            "smallest change",
            images // 2,
            10,
            lambda estimator: DeepFool(estimator, max_iter=30, epsilon=0.02, batch_size=10, verbose=False),
        ),
        Attack(
            "HopSkipJump",
            BLACK_BOX,
            "predict (labels)",
            "no scores",
            black_box_images,
            1,
            lambda estimator: HopSkipJump(
                estimator, max_iter=black_box_steps, init_eval=50, max_eval=500, init_size=50, batch_size=512, verbose=False
            ),
        ),
    ]


def fgsm(epsilon: float) -> Callable[[Any], Any]:
    """Returns a maker of ART's fast gradient method."""
    return lambda estimator: FastGradientMethod(estimator, eps=epsilon, batch_size=512)


def pgd(epsilon: float, steps: int) -> Callable[[Any], Any]:
    """Returns a maker of ART's projected gradient descent."""
    return lambda estimator: ProjectedGradientDescent(
        estimator, eps=epsilon, eps_step=epsilon / 6, max_iter=steps, batch_size=512, verbose=False
    )


def run(server: Server, attack: Attack, x: Array, y: Array, on_rows: Callable[[int, int, int], None]) -> Outcome:
    """Runs an attack on the first images.

    Args:
        server: The model's server.
        attack: The attack.
        x: ``(n, 1, 8, 8)``.
        y: ``(n,)``.
        on_rows: Called with the finished images, and the forward and backward rows used so far.
    """
    x, y = x[: attack.images], y[: attack.images]
    remote = server.estimator(attack.model)
    predicted_clean = labels(remote, x)
    art = attack.make(art_estimator(remote))
    before = remote.usage()
    began_s = time.perf_counter()
    parts = []
    for begin in range(0, len(x), attack.at_once):
        part = slice(begin, begin + attack.at_once)
        parts.append(art.generate(x[part], y[part]))
        now = remote.usage()
        forward, backward = now.forward - before.forward, now.backward - before.backward
        on_rows(min(part.stop, len(x)), forward, backward)
    seconds = time.perf_counter() - began_s
    adversarial = np.concatenate(parts)
    return Outcome(attack, x, y, adversarial, labels(remote, adversarial), predicted_clean, forward, backward, seconds)


def labels(remote: RemoteEstimator, x: Array) -> Array:
    """Returns the predicted classes, ``(n,)``."""
    predicted: Array = remote.predict(x).argmax(axis=1)
    return predicted


@dataclass(frozen=True)
class Curves:
    """Accuracy over epsilon, by the name of the attack or noise."""

    epsilons: list[float]
    accuracies: dict[str, list[float]]
    images: int


def robustness(server: Server, x: Array, y: Array, quick: bool, on_step: Callable[[int], None]) -> Curves:
    """Measures the model's accuracy on images changed by noise, FGSM and PGD, each pixel by at most epsilon.

    Args:
        server: The model's server.
        x: ``(n, 1, 8, 8)``.
        y: ``(n,)``.
        quick: Fewer epsilons and steps.
        on_step: Called with the number of finished epsilons.
    """
    remote = server.estimator(WHITE_BOX)
    estimator = art_estimator(remote)
    rng = np.random.default_rng(0)
    epsilons = [round(float(epsilon), 3) for epsilon in np.linspace(0, 0.3, 5 if quick else 11)]
    accuracies: dict[str, list[float]] = {"random noise": [], "FGSM": [], "PGD": []}
    for done, epsilon in enumerate(epsilons, 1):
        noise = epsilon * rng.choice([-1, 1], x.shape)
        changed = {"random noise": np.clip(x + noise, 0, 1).astype(np.float32)}
        for name, make in (("FGSM", fgsm(epsilon)), ("PGD", pgd(epsilon, 10 if quick else 20))):
            changed[name] = make(estimator).generate(x, y) if epsilon else x
        for name, images in changed.items():
            accuracies[name].append(float(np.mean(labels(remote, images) == y)))
        on_step(done)
    return Curves(epsilons, accuracies, len(x))
