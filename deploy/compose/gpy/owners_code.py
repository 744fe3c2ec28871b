"""An example that decides whether a point is within a ring; replace it with your own model."""

from __future__ import annotations

import GPy
import numpy as np


def rings() -> GPy.models.GPClassification:
    """Return a classifier of points within radius 1, fitted to 60 points."""
    x = np.random.default_rng(0).normal(size=(60, 2)) * 1.5
    y = (np.linalg.norm(x, axis=1) < 1)[:, None].astype(float)
    return GPy.models.GPClassification(x, y, kernel=GPy.kern.RBF(2))
