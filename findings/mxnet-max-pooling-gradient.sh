#!/usr/bin/env bash
# Library:  mxnet 1.9.1, with numpy 1.23.5, on CPU
# Expected: the gradient of an output by the input is the same in training and in evaluation mode, for a net without
#           dropout or batch normalisation.
# Seen:     with oneDNN, which is on by default, the gradient through MaxPool2D is right in training mode and wrong in
#           evaluation mode, and two calls give two gradients. MXNET_MKLDNN_ENABLED=0 makes both right.
#             default:  training mode off by 0.00, evaluation mode off by 0.28, largest gradient 0.26
#             disabled: training mode off by 0.00, evaluation mode off by 0.00, largest gradient 0.26
# Date:     2026-11-29
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
# The system must have libgomp1 and libquadmath0.
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check mxnet==1.9.1 numpy==1.23.5 || exit 2

cat >gradient.py <<'PY'
import sys

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

mx.random.seed(0)
net = gluon.nn.HybridSequential()
net.add(gluon.nn.Conv2D(4, 3), gluon.nn.Activation("relu"), gluon.nn.MaxPool2D(2), gluon.nn.Flatten(), gluon.nn.Dense(3))
net.initialize(mx.init.Xavier())
rows = np.random.default_rng(0).random((2, 1, 8, 8)).astype(np.float32)


def output(x):
    return net(mx.nd.array(x))[:, 0].sum().asscalar()


def gradient(train_mode):
    x = mx.nd.array(rows)
    x.attach_grad()
    with autograd.record(train_mode=train_mode):
        y = net(x)[:, 0].sum()
    y.backward(train_mode=train_mode)
    return x.grad.asnumpy()


# Central differences in float32: right to about 0.001 where a step crosses no kink, and this seed's cross none.
truth = np.zeros_like(rows)
for index in np.ndindex(rows.shape):
    step = np.zeros_like(rows)
    step[index] = 0.002
    truth[index] = (output(rows + step) - output(rows - step)) / 0.004

training, evaluation = (abs(gradient(mode) - truth).max() for mode in (True, False))
print(f"training mode off by {training:.2f}, evaluation mode off by {evaluation:.2f}, largest gradient {abs(truth).max():.2f}")
seen = "wrong" if evaluation > 0.05 else "right"
sys.exit(not (training < 0.01 and seen == sys.argv[1]))
PY

export MXNET_STORAGE_FALLBACK_LOG_VERBOSE=0
printf 'default:  '
venv/bin/python gradient.py wrong
printf 'disabled: '
MXNET_MKLDNN_ENABLED=0 venv/bin/python gradient.py right
