"""Sizes of the rows that backends try a model with before it is served."""

from __future__ import annotations

from collections.abc import Sequence

FREE_SIZE = 8
"""Stands in for a size that may be any."""


def known_sizes(input_shape: Sequence[int]) -> tuple[int, ...]:
    """The sizes of a row with `FREE_SIZE` in place of each -1."""
    return tuple(FREE_SIZE if size == -1 else size for size in input_shape)
