"""Ratios of what was measured in rounds, in which everybody has a turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spread(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float] | None:
    """The 10th and 90th percentile of the ratios round by round; None where there are too few rounds to say.

    Args:
        ours: A number a round.
        theirs: In the same rounds.
    """
    if len(ours) < 4:
        return None
    low, high = np.percentile(np.array(ours) / np.array(theirs), (10, 90))
    return float(low), float(high)


def overhead_spread(ours: Sequence[float], theirs: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """As `spread`, of what both take more than a third."""
    if len(ours) < 4:
        return None
    low, high = np.percentile((np.array(ours) - np.array(base)) / (np.array(theirs) - np.array(base)), (10, 90))
    return float(low), float(high)
