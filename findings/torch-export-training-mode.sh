#!/usr/bin/env bash
# Library:  torch 2.13.0
# Expected: the module of an exported program tells by .training how it computes, and eval() changes that.
# Seen:     .training is True of an export in evaluation mode too, though its outputs are those of evaluation. The export
#           of a module in training mode updates its running statistics at every call, under no_grad too, and eval()
#           raises NotImplementedError.
#             exported in evaluation mode: training True, outputs equal to the net's True
#             exported in training mode: 3 calls moved the running mean 3 times, eval() NotImplementedError
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

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
x = torch.randn(6, 4) + 1

evaluation = torch.export.export(net.eval(), (x,)).module()
equal = torch.equal(evaluation(x), net(x))
print(f"exported in evaluation mode: training {evaluation.training}, outputs equal to the net's {equal}")

training = torch.export.export(net.train(), (x,)).module()
moved = 0
for _ in range(3):
    before = training.get_buffer("1.running_mean").clone()
    with torch.no_grad():
        training(x)
    moved += not torch.equal(before, training.get_buffer("1.running_mean"))
try:
    training.eval()
    answer = "accepted"
except NotImplementedError as error:
    answer = type(error).__name__
print(f"exported in training mode: 3 calls moved the running mean {moved} times, eval() {answer}")
sys.exit(not (evaluation.training and equal and moved == 3 and answer == "NotImplementedError"))
PY
