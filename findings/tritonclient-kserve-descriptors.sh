#!/usr/bin/env bash
# Library:  tritonclient 2.73.0 and kserve 0.21.0, with protobuf 6.33.6
# Expected: two clients of one protocol, the Open Inference Protocol, can be imported into one process.
# Seen:     each registers its own copy of the protocol's messages, package `inference`, in protobuf's only default pool.
#           Whichever is imported second raises TypeError; alone each imports.
#             import tritonclient.grpc: ok
#             import kserve: ok
#             import tritonclient.grpc, kserve: TypeError
#             import kserve, tritonclient.grpc: TypeError
# Date:     2026-11-29
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check \
  'tritonclient[grpc]==2.73.0' kserve==0.21.0 protobuf==6.33.6 grpcio==1.85.3 numpy==2.4.6 || exit 2

venv/bin/python -W ignore - <<'PY'
import subprocess
import sys

PROGRAM = """
try:
    import {}
except TypeError as error:
    assert "duplicate symbol 'inference." in str(error), error
    print("TypeError")
else:
    print("ok")
"""

holds = True
for modules, expected in (
    ("tritonclient.grpc", "ok"),
    ("kserve", "ok"),
    ("tritonclient.grpc, kserve", "TypeError"),
    ("kserve, tritonclient.grpc", "TypeError"),
):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(modules)], capture_output=True, text=True, check=False
    )
    seen = (done.stdout.split() or [done.stderr[-200:]])[-1]
    print(f"import {modules}: {seen}")
    holds = holds and seen == expected
sys.exit(not holds)
PY
