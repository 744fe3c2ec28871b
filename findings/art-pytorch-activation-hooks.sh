#!/usr/bin/env bash
# Library:  adversarial-robustness-toolbox 1.20.1, with torch 2.13.0
# Expected: PyTorchClassifier.get_activations leaves the model as it was.
# Seen:     each call registers a forward hook on the layer and never removes it: after 50 calls every forward pass,
#           predict's too, runs 50 hooks more.
#             hooks on the layer after 0, 50 calls: 0, 50
# Date:     2026-11-29
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 || exit 2
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 \
  adversarial-robustness-toolbox==1.20.1 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1 packaging==26.3 || exit 2

venv/bin/python -W ignore - <<'PY'
import sys

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
classifier = PyTorchClassifier(net, loss=torch.nn.CrossEntropyLoss(), input_shape=(4,), nb_classes=2)


def hooks():
    return sum(len(module._forward_hooks) for module in classifier.model.modules())


before = hooks()
for _ in range(50):
    classifier.get_activations(np.zeros((2, 4), np.float32), layer=0, batch_size=2)
after = hooks()
print(f"hooks on the layer after 0, 50 calls: {before}, {after}")
sys.exit((before, after) != (0, 50))
PY
