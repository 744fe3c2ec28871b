"""Answers of plain MXNet code, from a process in the environment that has MXNet."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from commands import environment
from environments import MXNET, python_of


def there(function: str, changes: dict[str, str] | None = None, /, **arrays: Any) -> dict[str, Any]:
    """Runs a function of `mxnet_plain` in the other environment. MXNet is set up as it should be, but for the changes."""
    settings = {"MXNET_MKLDNN_ENABLED": "0", "MXNET_USE_MKLDNN_RNN": "0", "MXNET_STORAGE_FALLBACK_LOG_VERBOSE": "0"}
    with tempfile.TemporaryDirectory() as folder:
        given, answered = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, **{name: np.asarray(str(array) if isinstance(array, Path) else array) for name, array in arrays.items()})
        done = subprocess.run(
            [str(python_of(MXNET)), "-m", "mxnet_plain", function, str(given), str(answered)],
            capture_output=True, text=True, timeout=100, env=environment(**{**settings, **(changes or {})}), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with np.load(answered) as found:
            return {name: found[name] for name in found.files}
