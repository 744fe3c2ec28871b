#!/usr/bin/env bash
# Library:  torch 2.13.0
# Expected: a custom autograd Function whose backward is marked once_differentiable raises wherever it is differentiated
#           twice.
# Seen:     only backward() raises, and only if the Function's incoming gradient requires grad itself. Where a loss is linear
#           in the Function, a gradient penalty adds nothing to the gradient. torch.autograd.functional.hessian never
#           raises: zeros of every loss. All at x = (1, 2):
#             Hessian's diagonal of sum(x ** 3): right [6.0, 12.0], seen [0.0, 0.0]
#             Hessian's diagonal of sum(x ** 3) ** 2: right [126.0, 504.0], seen [0.0, 0.0]
#             penalised gradient, sum(x ** 3): right [38.0, 292.0], seen [2.0, 4.0]
#             penalised gradient, sum(x ** 3) ** 2: right [44714.0, 225508.0], seen RuntimeError
# Date:     2026-11-29
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 || exit 2

venv/bin/python -W ignore - <<'PY'
import sys

import torch
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):
        return 3 * ctx.saved_tensors[0] ** 2 * cotangent


def marked(x):
    return Cube.apply(x).sum()


def plain(x):
    return (x**3).sum()


def hessian(function):
    return torch.autograd.functional.hessian(function, torch.tensor([1.0, 2.0])).diagonal().tolist()


def penalised(function):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    try:
        ((x**2).sum() + (gradient**2).sum()).backward()
    except RuntimeError:
        return "RuntimeError"
    return x.grad.tolist()


def squared(function):
    return lambda x: function(x) ** 2


seen = []
for quantity, name in ((hessian, "Hessian's diagonal of"), (penalised, "penalised gradient,")):
    for change, loss in ((lambda function: function, "sum(x ** 3)"), (squared, "sum(x ** 3) ** 2")):
        seen.append(quantity(change(marked)))
        print(f"{name} {loss}: right {quantity(change(plain))}, seen {seen[-1]}")
sys.exit(seen != [[0.0, 0.0], [0.0, 0.0], [2.0, 4.0], "RuntimeError"])
PY
