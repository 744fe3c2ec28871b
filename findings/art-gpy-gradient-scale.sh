#!/usr/bin/env bash
# Library:  adversarial-robustness-toolbox 1.20.1, with gpy 1.15.0
# Expected: GPyGaussianProcessClassifier.class_gradient is the gradient of predict, and loss_gradient that of a loss made
#           of predict.
# Seen:     both are finite differences multiplied by their step where they should be divided by it. class_gradient
#           (step 1e-4) is too small by 1e-8, loss_gradient (step 1e-5) by 1e-10.
#             class_gradient / central differences: 1.00e-08
#             loss_gradient / central differences: 1.00e-10
# Date:     2026-11-29
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check \
  adversarial-robustness-toolbox==1.20.1 gpy==1.15.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 packaging==26.3 || exit 2

venv/bin/python -W ignore - <<'PY'
import sys

import GPy
import numpy as np
from art.estimators.classification import GPyGaussianProcessClassifier

x = np.random.default_rng(0).random((30, 2))
y = (x.sum(axis=1, keepdims=True) > 1).astype(int)
model = GPy.models.GPClassification(x, y)
model.optimize(max_iters=30)
classifier = GPyGaussianProcessClassifier(model)

rows = x[:2]
labels = np.eye(2)[[0, 0]]
steps = 1e-4 * np.eye(2)
truth = np.stack([(classifier.predict(rows + s) - classifier.predict(rows - s))[:, 0] / 2e-4 for s in steps], axis=1)
of_class = classifier.class_gradient(rows, label=0)[:, 0] / truth
# The loss is 1 - probability of the label, so its gradient is minus that of the class.
of_loss = classifier.loss_gradient(rows, labels) / -truth
print(f"class_gradient / central differences: {np.median(of_class):.2e}")
print(f"loss_gradient / central differences: {np.median(of_loss):.2e}")
sys.exit(not (np.allclose(of_class, 1e-8, rtol=0.02, atol=0) and np.allclose(of_loss, 1e-10, rtol=0.02, atol=0)))
PY
