"""Attacks to measure, with their settings and goals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from art.attacks.evasion import DeepFool, HopSkipJump, ProjectedGradientDescent

from benchmarks.figures.figure import Goal


@dataclass(frozen=True)
class Attack:
    """An attack.

    Attributes:
        title: Its title in reports.
        rows: Number of images to attack.
        make: Makes ART's object around an estimator.
        goal: Goal for its time beside that on ART's own estimator.
    """

    title: str
    rows: int
    make: Callable[[Any], Any]
    goal: Goal


ATTACKS = {
    "hopskipjump": Attack(
        "HopSkipJump, 8 images, 10 iterations", 8, lambda e: HopSkipJump(e, max_iter=10, batch_size=64, verbose=False), Goal(1.3)
    ),
    "pgd": Attack(
        "PGD, 128 images, 40 iterations",
        128,
        lambda e: ProjectedGradientDescent(e, eps=0.1, eps_step=0.01, max_iter=40, batch_size=128, verbose=False),
        Goal(1.0),
    ),
    "deepfool": Attack("DeepFool, 32 images", 32, lambda e: DeepFool(e, batch_size=32, verbose=False), Goal(0.8)),
}
