#!/usr/bin/env bash
# Library:  jax 0.10.2, on CPU
# Expected: an exception raised inside jax.pure_callback reaches the caller as it is, or as the cause of what does.
# Seen:     it arrives as JaxRuntimeError with its traceback as text. Type and attributes are gone: __cause__ and
#           __context__ are None.
#             eager: JaxRuntimeError, cause None, context None, text names BudgetSpent True
#             jit: JaxRuntimeError, cause None, context None, text names BudgetSpent True
# Date:     2026-11-29
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 scipy==1.17.1 || exit 2

JAX_PLATFORMS=cpu venv/bin/python -W ignore - 2>log <<'PY' || { cat log >&2; exit 1; }
import sys

import jax
import jax.numpy as jnp


class BudgetSpent(Exception):
    rows_left = 3


def refuse(x):
    raise BudgetSpent("rows: 3")


def remote(x):
    return jax.pure_callback(refuse, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


holds = True
for title, function in (("eager", remote), ("jit", jax.jit(remote))):
    try:
        function(jnp.ones(3)).block_until_ready()
        sys.exit("no error")
    except Exception as error:
        seen = type(error).__name__, error.__cause__, error.__context__, "BudgetSpent" in str(error)
    print("{}: {}, cause {}, context {}, text names BudgetSpent {}".format(title, *seen))
    holds = holds and seen == ("JaxRuntimeError", None, None, True)
sys.exit(not holds)
PY
