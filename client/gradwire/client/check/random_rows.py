"""Random rows for a model, for checks and benchmarks."""

from __future__ import annotations

import numpy as np

from gradwire.client.card import ModelCard
from gradwire.wire.tensors import Array


def random_rows(card: ModelCard, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Makes random rows: uniform within the clip values, else normal around the standardisation; integers are 0 or 1."""
    drawn = np.float64 if card.input_dtype.itemsize == 8 else np.float32
    if card.clip_values is not None:
        low, high = (np.asarray(bound, drawn) for bound in card.clip_values)
        return np.asarray(low + (high - low) * rng.random(shape, drawn)).astype(card.input_dtype)
    if card.input_dtype.kind in "iub":
        # Possibly tokens: every vocabulary has 0 and 1.
        return rng.integers(0, 2, shape).astype(card.input_dtype)
    rows = rng.standard_normal(shape, drawn)
    if card.preprocessing is not None:
        mean, std = (np.asarray(value, drawn) for value in card.preprocessing)
        try:
            rows = np.asarray(mean + std * rows)
        except ValueError:  # by channel, on an axis that is not the last
            rows = np.asarray(mean.mean() + std.mean() * rows)
    return rows.astype(card.input_dtype)
