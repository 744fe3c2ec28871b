"""Tables of known answers: rows and their labels, looked up exactly or as the nearest row.

A row that the table does not hold has no answer; the model never interpolates.
"""

from __future__ import annotations

import math
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import InvalidValue, ModelConfigError

_SHOWN = 4
"""Numbers of a missing row that an error shows."""


class Table:
    """Rows and their outputs.

    Args:
        x: ``(m, *input_shape)``, model inputs: callers' rows after preprocessing.
        y: ``(m,)`` or ``(m, 1)`` class indices or numbers, or ``(m, C)`` outputs.
        tolerance: Largest difference in any number between a row and the table's; the nearest row answers. None: exact only.
        config: The model's configuration, which the table must fit.
        key: The configuration key that gave the table, for errors.

    Attributes:
        dtype: The smallest of float32 and float64 that holds the table's rows exactly.
        example: The first of its rows, ``(1, *input_shape)``.

    Raises:
        ModelConfigError: The arrays do not fit, or give a row two answers; or scipy is missing and ``tolerance`` is set.
    """

    def __init__(self, x: Array, y: Array, tolerance: float | None, config: ModelConfig, key: str) -> None:
        _check(x, y, config, key)
        self.dtype: np.dtype[np.floating] = np.result_type(x.dtype, np.float32)
        self.example = x[:1].astype(self.dtype)
        self._row_shape = x.shape[1:]
        self._outputs = _outputs(y, config, key)
        rows = self._flat(x)
        keys = _keys(rows)
        self._index = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
        first = np.fromiter(map(self._index.__getitem__, keys), np.int64, len(keys))
        differ = (self._outputs != self._outputs[first]).reshape(len(x), -1).any(axis=1)
        if differ.any():
            again = int(differ.argmax())
            raise ModelConfigError(
                key, f"x[{first[again]}] and x[{again}] are the same row, but their y differ; give each row one answer"
            )
        if tolerance is not None and not np.isfinite(rows).all():
            raise ModelConfigError(
                key, "x holds NaN or infinity; a table with a tolerance needs finite numbers: leave out tolerance, or these rows"
            )
        self._nearest = None if tolerance is None else _Nearest(rows, np.flatnonzero(first == np.arange(len(first))), tolerance)

    def __len__(self) -> int:
        return len(self._outputs)

    def __call__(self, x: Array) -> Array:
        """Outputs for rows ``(n, *input_shape)``, as the table holds them. Raises InvalidValue if a row is missing."""
        if x.shape[1:] != self._row_shape:
            raise InvalidValue(f"rows of shape {x.shape[1:]} are not in the table; its rows have shape {self._row_shape}")
        rows = self._flat(x)
        indices = np.fromiter(map(self._index.get, _keys(rows), repeat(-1)), np.int64, len(rows))
        missing = np.flatnonzero(indices < 0)
        if missing.size and self._nearest is not None:
            indices[missing] = self._nearest(rows[missing])
            missing = missing[indices[missing] < 0]
        if missing.size:
            begin = ", ".join(f"{value:g}" for value in rows[missing[0], :_SHOWN])
            more = ", ..." if rows.shape[1] > _SHOWN else ""
            near = "" if self._nearest is None else f" within {self._nearest.tolerance:g}"
            raise InvalidValue(
                f"{missing.size} of {len(rows)} rows computed together are not in the table{near}; "
                f"the first of them is number {missing[0]}, counted from 0: ({begin}{more})"
            )
        return self._outputs[indices]

    def _flat(self, x: Array) -> Array:
        # Adding 0 makes -0 a 0, which has other bytes.
        return np.ascontiguousarray(x.astype(self.dtype).reshape(len(x), -1) + 0)


class _Nearest:
    """Nearest row of a table in a k-d tree, by the largest difference in any number.

    Measured with a tolerance of 1e-4 and 128 rows: 18 ms in a table of 10,000 images of 784 numbers and 13 ms in one of 60,000,
    where comparisons by the 8 numbers of largest variance took 2.2 s and 7.1 s; among uniform random rows 1 and 2 ms, against 42
    and 179 ms. Nodes are split at midpoints, not at medians: those took 132 and 317 ms on the images, most of whose pixels are 0.
    The tree is built in 0.1 and 0.5 s, and holds the rows in float64.

    Args:
        rows: ``(m, d)``, finite.
        distinct: Indices of the rows to search, ascending: one of each group of equal rows.
        tolerance: Rows further away are not found.

    Raises:
        ModelConfigError: scipy is not installed.
    """

    def __init__(self, rows: Array, distinct: Array, tolerance: float) -> None:
        self.tolerance = tolerance
        self._distinct = distinct
        self._tree = _tree_class(tolerance)(rows[distinct], balanced_tree=False, compact_nodes=False)

    def __call__(self, rows: Array) -> Array:
        """Index of the nearest row for each of ``rows (n, d)``, int64 ``(n,)``; -1 beyond the tolerance.

        Of equally near rows it is the first in the table.
        """
        indices = np.full(len(rows), -1, np.int64)
        finite = np.flatnonzero(np.isfinite(rows).all(axis=1))
        if not finite.size:
            return indices
        # The tree's bound is exclusive, and it does not order equally near rows; the second one tells that there are several.
        bound = np.nextafter(self.tolerance, np.inf)
        distances, nearest = self._tree.query(rows[finite], k=[1, 2], p=np.inf, distance_upper_bound=bound)
        found = np.isfinite(distances[:, 0])
        indices[finite[found]] = self._distinct[nearest[found, 0]]
        for tied in np.flatnonzero(found & (distances[:, 0] == distances[:, 1])):
            equally_near = self._tree.query_ball_point(rows[finite[tied]], distances[tied, 0], p=np.inf)
            indices[finite[tied]] = self._distinct[min(equally_near)]
        return indices


def _tree_class(tolerance: float) -> Any:
    # Imported here: black boxes without a tolerance need no scipy.
    try:
        from scipy.spatial import cKDTree
    except ModuleNotFoundError as e:
        raise ModelConfigError(
            "tolerance", f"{tolerance:g} needs scipy, which is not installed: pip install 'gradwire[blackbox]'"
        ) from e
    return cKDTree


def read(path: Path) -> tuple[Array, Array]:
    """Reads ``x`` and ``y`` from a .npz file. Arrays of objects, which need unpickling, are rejected. Raises ModelConfigError."""
    how = "make it with numpy.savez(path, x=rows, y=labels)"
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["x"], file["y"]
    except FileNotFoundError:
        raise ModelConfigError("table", f"{path} does not exist; {how}") from None
    except KeyError:
        raise ModelConfigError("table", f"{path} holds no arrays x and y; {how}") from None
    except Exception as e:  # numpy raises many types for broken zip files, .npy files and pickles
        raise ModelConfigError("table", f"{path} is not a .npz file of plain arrays; {how} ({type(e).__name__}: {e})") from e


def _check(x: Array, y: Array, config: ModelConfig, key: str) -> None:
    if x.dtype.kind not in "biuf" or x.dtype.itemsize > 8:
        raise ModelConfigError(key, f"x has dtype {x.dtype}; expected numbers of at most 64 bits")
    expected = config.input_shape
    fits = x.ndim == len(expected) + 1 and all(size in (-1, own) for size, own in zip(expected, x.shape[1:], strict=True))
    if not fits or not x.size:
        sizes = ", ".join("any" if size == -1 else str(size) for size in expected)
        raise ModelConfigError(key, f"x has shape {x.shape}; expected (m, {sizes}) by input_shape, with at least one row")
    if y.dtype.kind not in "biuf" or (y.dtype.kind == "f" and not np.isfinite(y).all()):
        raise ModelConfigError(key, f"y has dtype {y.dtype}; expected finite numbers")
    if y.shape[:1] != x.shape[:1] or y.ndim not in (1, 2):
        raise ModelConfigError(key, f"y has shape {y.shape} for {len(x)} rows; expected one label or one row of outputs each")


def _outputs(y: Array, config: ModelConfig, key: str) -> Array:
    """Outputs for each row: int64 indices ``(m,)``, or floating ``(m, C)``."""
    if config.task == "regression" or (y.ndim == 2 and y.shape[1] != 1):
        outputs = y.reshape(len(y), -1)
        if outputs.shape[1] != config.nb_classes:
            raise ModelConfigError(key, f"y has shape {y.shape}; expected ({len(y)}, {config.nb_classes}) by nb_classes")
        return outputs if outputs.dtype in (np.float32, np.float64) else outputs.astype(np.float32)
    column = y.reshape(len(y))
    if (np.floor(column) != column).any():
        if config.nb_classes == 2:
            return column[:, None] if column.dtype in (np.float32, np.float64) else column[:, None].astype(np.float32)
        raise ModelConfigError(key, f"y holds {column[np.floor(column) != column][0]}; expected class indices, or outputs (m, C)")
    outside = (column < 0) | (column >= config.nb_classes)
    if outside.any():
        raise ModelConfigError(key, f"y holds the label {column[outside][0]}; expected 0 to {config.nb_classes - 1}")
    return column.astype(np.int64)


def _keys(rows: Array) -> list[bytes]:
    """Bytes of each row, as its key in a dictionary."""
    keys: list[bytes] = rows.view(np.dtype((np.void, rows.dtype.itemsize * math.prod(rows.shape[1:])))).ravel().tolist()
    return keys
