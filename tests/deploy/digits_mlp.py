"""Perceptron of scikit-learn on 8x8 digits, with the demo's interface, which trains in a second.

Copied to a configuration's folder and named in it; imports only scikit-learn.
"""

from __future__ import annotations

import warnings
from typing import Any


def digits_mlp() -> Any:
    """Rows ``(n, 64)`` in [0, 1] to probabilities of ten classes, trained on the digits that attackers do not hold."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    digits = load_digits()
    # The split of gradwire.client.demo.digits.
    x, _, y, _ = train_test_split(digits.data / 16, digits.target, test_size=0.25, random_state=0, stratify=digits.target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MLPClassifier((32,), max_iter=60, random_state=0).fit(x, y)
