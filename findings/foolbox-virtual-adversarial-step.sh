#!/usr/bin/env bash
# Library:  foolbox 3.3.4, with torch 2.13.0
# Expected: VirtualAdversarialAttack finds the direction in which a classifier of two classes changes most, which is its
#           weights', for float32 rows too, or raises its "Gradient vanished" error.
# Seen:     the default step xi=1e-6 is lost in the rounding of float32 rows of 784 features. Where the gradient
#           comes out zero, the attack divides by its norm, as the error's threshold, 1e-64, is zero in float32: rows of NaN.
#             float64, default xi: 0 of 16 rows NaN, least cosine to the weights 1.000
#             float32, default xi: 4 of 16 rows NaN
#             float32, xi=1e-3: 0 of 16 rows NaN, least cosine to the weights 1.000
# Date:     2026-11-29
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 || exit 2
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 \
  foolbox==3.3.4 eagerpy==0.30.0 numpy==2.4.6 scipy==1.17.1 || exit 2

venv/bin/python -W ignore - <<'PY'
import sys

import torch
from foolbox import PyTorchModel
from foolbox.attacks import VirtualAdversarialAttack

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 2)).eval()
x = 0.1 + 0.8 * torch.rand(16, 1, 28, 28)


def attacked(title, dtype, **options):
    model, rows = net.to(dtype), x.to(dtype)
    _, adversarial, _ = VirtualAdversarialAttack(steps=10, **options)(
        PyTorchModel(model, bounds=(0, 1)), rows, model(rows).argmax(1), epsilons=0.5
    )
    spoiled = int(adversarial.flatten(1).isnan().any(1).sum())
    direction = model[1].weight[0] - model[1].weight[1]
    cosine = torch.nn.functional.cosine_similarity((adversarial - rows).flatten(1), direction[None]).abs().min().item()
    print(f"{title}: {spoiled} of 16 rows NaN" + ("" if spoiled else f", least cosine to the weights {cosine:.3f}"))
    return spoiled, cosine > 0.99


right = (0, True)
holds = attacked("float64, default xi", torch.float64) == right
holds = attacked("float32, default xi", torch.float32)[0] > 0 and holds
holds = attacked("float32, xi=1e-3", torch.float32, xi=1e-3) == right and holds
sys.exit(not holds)
PY
