"""Ratios of measurements in rounds, in each of which every contender has a turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spread(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float] | None:
    """Computes the 10th and 90th percentile of the ratios round by round; None if there are too few rounds.

    Args:
        ours: One number for each round.
        theirs: The other contender's numbers in the same rounds.
    """
    if len(ours) < 4:
        return None
    low, high = np.percentile(np.array(ours) / np.array(theirs), (10, 90))
    return float(low), float(high)


def overhead_spread(ours: Sequence[float], theirs: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """Computes `spread` for the times that both take over a third, ``base``."""
    if len(ours) < 4:
        return None
    low, high = np.percentile((np.array(ours) - np.array(base)) / (np.array(theirs) - np.array(base)), (10, 90))
    return float(low), float(high)
