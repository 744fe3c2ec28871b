"""Spool for training data: in memory up to a limit, beyond it in an unnamed memory-mapped file.

The file is unlinked as soon as it is open, so that nothing remains however the server ends.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gradwire.backends.backend import Array


def spooled(shape: tuple[int, ...], dtype: np.dtype[Any], memory_nbytes: int, folder: Path | None) -> Array:
    """Makes an uninitialised array for incoming data.

    Args:
        shape: Shape of the array.
        dtype: Dtype of the array.
        memory_nbytes: Arrays above this size are memory-mapped.
        folder: Folder of the file; None: the system's temporary folder.

    Returns:
        An ndarray, or an np.memmap.

    Raises:
        OSError: The disk is full. All space is reserved at once, not page by page during a fit.
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
