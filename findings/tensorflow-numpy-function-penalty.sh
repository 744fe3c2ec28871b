#!/usr/bin/env bash
# Library:  tensorflow-cpu 2.21.0
# Expected: where tf.custom_gradient computes its gradient in tf.numpy_function, differentiating that gradient raises or
#           warns: numpy code has no gradient.
# Seen:     the second gradient alone is None. In a sum its term vanishes without a word: the gradient of loss + gradient
#           penalty is that of the loss.
#             second gradient: None
#             gradient of loss + penalty at (1, 2): right [39.0, 300.0], seen [3.0, 12.0]
# Date:     2026-11-29
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check \
  tensorflow-cpu==2.21.0 keras==3.15.1 numpy==2.4.6 || exit 2

TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python -W ignore - 2>log <<'PY' || { cat log >&2; exit 1; }
import sys

import tensorflow as tf


@tf.custom_gradient
def numpy_cube(x):
    def gradient(cotangent):
        return tf.numpy_function(lambda x, c: (3 * x**2 * c).astype(x.dtype), [x, cotangent], x.dtype)

    return tf.numpy_function(lambda x: x**3, [x], x.dtype), gradient


def gradients(function):
    x = tf.Variable([1.0, 2.0])
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            loss = tf.reduce_sum(function(x))
        gradient = inner.gradient(loss, x)
        penalised = loss + tf.reduce_sum(gradient**2)
    return outer.gradient(gradient, x), outer.gradient(penalised, x).numpy().tolist()


_, right = gradients(lambda x: x**3)
second, seen = gradients(numpy_cube)
print(f"second gradient: {second}")
print(f"gradient of loss + penalty at (1, 2): right {right}, seen {seen}")
sys.exit(not (second is None and right == [39.0, 300.0] and seen == [3.0, 12.0]))
PY
