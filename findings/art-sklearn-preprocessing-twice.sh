#!/usr/bin/env bash
# Library:  adversarial-robustness-toolbox 1.20.1, with scikit-learn 1.9.1
# Expected: with preprocessing=(mean, std), loss_gradient(x) of a LogisticRegression is the gradient that the same
#           classifier without preprocessing gives at (x - mean) / std, divided by std.
# Seen:     predict standardises rows once, loss_gradient twice: the gradient belongs to another point.
#             difference to one standardisation: 5.40e-01 of the largest gradient 5.41e-01
#             difference to two standardisations: 0.00e+00
# Date:     2026-11-29
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check \
  adversarial-robustness-toolbox==1.20.1 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1 packaging==26.3 || exit 2

venv/bin/python -W ignore - <<'PY'
import sys

import numpy as np
from art.estimators.classification import SklearnClassifier
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

x, y = load_iris(return_X_y=True)
model = LogisticRegression(max_iter=500).fit(x, y)
mean, std = 2.0, 0.5
rows, labels = (x[45:55] * std + mean).astype(np.float32), np.eye(3)[y[45:55]]


def standardised(rows):
    return (rows - np.float32(mean)) / np.float32(std)


plain, preprocessing = SklearnClassifier(model), SklearnClassifier(model, preprocessing=(mean, std))
predict_once = np.abs(preprocessing.predict(rows) - plain.predict(standardised(rows))).max()
gradient = preprocessing.loss_gradient(rows, labels)
once = plain.loss_gradient(standardised(rows), labels) / std
twice = plain.loss_gradient(standardised(standardised(rows)), labels) / std
off, same = np.abs(gradient - once).max(), np.abs(gradient - twice).max()
print(f"difference to one standardisation: {off:.2e} of the largest gradient {np.abs(once).max():.2e}")
print(f"difference to two standardisations: {same:.2e}")
sys.exit(not (predict_once < 1e-6 and off > 0.1 and same < 1e-6))
PY
