#!/usr/bin/env bash
# Library:  keras 3.15.1, with tensorflow-cpu 2.21.0
# Expected: keras.losses.CategoricalCrossentropy(from_logits=False) is a function of the probabilities that it is given.
# Seen:     on TensorFlow it also looks at where they come from. Straight from a softmax layer, it takes the values before
#           the softmax; straight from a sigmoid layer, the softmax cross-entropy of the values before the sigmoid. The
#           same numbers as a copy give another loss.
#             softmax: straight 50.0000, copied 16.1181
#             sigmoid: straight 0.0486, copied 0.1511
# Date:     2026-11-29
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check \
  tensorflow-cpu==2.21.0 keras==3.15.1 numpy==2.4.6 || exit 2

KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python -W ignore - 2>log <<'PY' || { cat log >&2; exit 1; }
import sys

import keras
import numpy as np

loss = keras.losses.CategoricalCrossentropy()
label = np.array([[1.0, 0.0]], np.float32)
holds = True
for activation, row, expected in (("softmax", [0.0, 50.0], (50.0, 16.1181)), ("sigmoid", [1.0, -2.0], (0.0486, 0.1511))):
    x = np.array([row], np.float32)
    outputs = keras.layers.Activation(activation)(x)
    straight, copied = float(loss(label, outputs)), float(loss(label, outputs.numpy()))
    print(f"{activation}: straight {straight:.4f}, copied {copied:.4f}")
    holds = holds and np.allclose((straight, copied), expected, atol=2e-4)
sys.exit(not holds)
PY
