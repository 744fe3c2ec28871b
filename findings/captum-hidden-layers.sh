#!/usr/bin/env bash
# Library:  captum 0.9.0, with torch 2.13.0
# Expected: DeepLift and GuidedBackprop replace the backward of inner ReLU modules. For a module whose forward is a custom
#           torch.autograd.Function around the same net, they cannot, and so should raise or warn.
# Seen:     both return other values without an error. Methods that need outputs and gradients alone agree.
#             largest difference, hidden to plain: IntegratedGradients 0.00, DeepLift 0.28, GuidedBackprop 0.15
#             DeepLift's convergence delta: plain 0.00, hidden 0.11
# Date:     2026-11-29
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 || exit 2
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check \
  torch==2.13.0 captum==0.9.0 numpy==2.4.6 || exit 2

venv/bin/python -W ignore - <<'PY'
import sys

import torch
from captum.attr import DeepLift, GuidedBackprop, IntegratedGradients

torch.manual_seed(0)
plain = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).eval()


class Outputs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return plain(x)

    @staticmethod
    def backward(ctx, cotangent):
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            return torch.autograd.grad(plain(x), x, cotangent)[0]


class Hidden(torch.nn.Module):
    def forward(self, x):
        return Outputs.apply(x)


hidden, x = Hidden(), torch.randn(4, 5, requires_grad=True)
off = {
    method.__name__: (method(hidden).attribute(x, target=1) - method(plain).attribute(x, target=1)).abs().max().item()
    for method in (IntegratedGradients, DeepLift, GuidedBackprop)
}
deltas = [DeepLift(net).attribute(x, target=1, return_convergence_delta=True)[1].abs().max().item() for net in (plain, hidden)]
print("largest difference, hidden to plain: " + ", ".join(f"{name} {value:.2f}" for name, value in off.items()))
print("DeepLift's convergence delta: plain {:.2f}, hidden {:.2f}".format(*deltas))
same = off.pop("IntegratedGradients") < 1e-6 and deltas[0] < 1e-5
sys.exit(not (same and min(off.values()) > 0.05 and deltas[1] > 0.05))
PY
