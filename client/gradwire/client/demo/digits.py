"""Held-out images of the attacker: the quarter of scikit-learn's digits that the model was not trained on."""

from __future__ import annotations

import numpy as np

from gradwire.wire.tensors import Array


def held_out() -> tuple[Array, Array]:
    """Returns images ``(450, 1, 8, 8)``, float32 in [0, 1], and their classes, int64, in random order."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    # The same split as in gradwire.server.demo.model, which cannot be imported here; a test compares the two.
    _, x, _, y = train_test_split(x, digits.target.astype(np.int64), test_size=0.25, random_state=0, stratify=digits.target)
    return x, y
