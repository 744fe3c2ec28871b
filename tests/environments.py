"""Python environments beside the tests' own, in which servers of some frameworks run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MXNET = "mxnet"
"""MXNet needs a numpy that no other framework takes any more."""


def python_of(name: str) -> Path:
    """The interpreter of an environment that `make env` makes. A test that needs it fails if it is not there."""
    python = ROOT / f".venv-{name}" / "bin" / "python"
    if not os.access(python, os.X_OK):
        pytest.fail(f"{python} is not there: run `make env`, which makes the environment for {name} too", pytrace=False)
    return python
