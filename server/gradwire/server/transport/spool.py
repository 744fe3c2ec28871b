"""Training data on its way to a fit: in memory up to a limit, beyond it in a memory-mapped file without a name.

The file is unlinked as soon as it is open, so that nothing is left behind however the server ends.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gradwire.backends.backend import Array


def spooled(shape: tuple[int, ...], dtype: np.dtype[Any], memory_nbytes: int, folder: Path | None) -> Array:
    """An uninitialised array for data that is about to come.

    Args:
        shape: Of the array.
        dtype: Of the array.
        memory_nbytes: An array of more bytes than these is memory-mapped.
        folder: Where the file goes; the system's temporary folder if None.

    Returns:
        An ndarray, or an np.memmap.

    Raises:
        OSError: The disk has no room: it is asked for all of it at once, not page by page in the middle of a fit.
    """
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if nbytes <= memory_nbytes:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(dir=folder, prefix="gradwire-spool-") as file:
        _reserve(file, nbytes)
        return np.memmap(file, dtype, "r+", shape=shape)


def _reserve(file: Any, nbytes: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, nbytes)
    else:
        file.truncate(nbytes)
