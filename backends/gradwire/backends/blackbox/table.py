"""A black box whose answers are known beforehand: a table of rows and labels, in which rows are looked up.

A row that is not in the table has no answer; nothing is made up for it.
"""

from __future__ import annotations

import math
from itertools import repeat
from pathlib import Path

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import InvalidValue, ModelConfigError

_PAIRS_AT_ONCE = 1 << 17
"""Of rows that are compared by one number: 1 MiB, which stays in a core's cache, however many rows there are."""

_NUMBERS_AT_ONCE = 1 << 20
"""Of rows that are compared by all of their numbers: 8 MiB."""

_TELLING = 8
"""How many numbers are compared before all are."""

_SHOWN = 4


class Table:
    """Rows and what is answered for them.

    Args:
        x: ``(m, *input_shape)``, model inputs: what callers' rows are after preprocessing.
        y: ``(m,)`` or ``(m, 1)`` class indices or numbers, or ``(m, C)`` outputs.
        tolerance: How far each number of a row may be from the table's, of which the nearest row is taken; None: not at all.
        config: What the table must fit.
        key: Where the table came from, for errors.

    Attributes:
        dtype: What holds the table's rows exactly, float32 or float64.
        example: One of its rows, ``(1, *input_shape)``.

    Raises:
        ModelConfigError: It is no such table, or gives a row two answers.
    """

    def __init__(self, x: Array, y: Array, tolerance: float | None, config: ModelConfig, key: str) -> None:
        _check(x, y, config, key)
        self.dtype: np.dtype[np.floating] = np.result_type(x.dtype, np.float32)
        self.example = x[:1].astype(self.dtype)
        self._row_shape = x.shape[1:]
        self._answers = _answers(y, config, key)
        rows = self._flat(x)
        keys = _keys(rows)
        self._index = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
        first = np.fromiter(map(self._index.__getitem__, keys), np.int64, len(keys))
        differ = (self._answers != self._answers[first]).reshape(len(x), -1).any(axis=1)
        if differ.any():
            again = int(differ.argmax())
            raise ModelConfigError(
                key, f"x[{first[again]}] and x[{again}] are the same row, but their y differ; a row has one answer"
            )
        if tolerance is not None and not np.isfinite(rows).all():
            raise ModelConfigError(key, "x holds NaN or infinity, which are near nothing; leave tolerance out, or these rows")
        self._near = None if tolerance is None else _Near(rows, tolerance)

    def __len__(self) -> int:
        return len(self._answers)

    def __call__(self, x: Array) -> Array:
        """The answers to rows ``(n, *input_shape)``, as the table holds them. Raises InvalidValue if one is not there."""
        if x.shape[1:] != self._row_shape:
            raise InvalidValue(f"rows of shape {x.shape[1:]} are not in the table; its rows have shape {self._row_shape}")
        rows = self._flat(x)
        found = np.fromiter(map(self._index.get, _keys(rows), repeat(-1)), np.int64, len(rows))
        missing = np.flatnonzero(found < 0)
        if missing.size and self._near is not None:
            found[missing] = self._near(rows[missing])
            missing = missing[found[missing] < 0]
        if missing.size:
            begin = ", ".join(f"{value:g}" for value in rows[missing[0], :_SHOWN])
            more = ", ..." if rows.shape[1] > _SHOWN else ""
            near = "" if self._near is None else f" within {self._near.tolerance:g}"
            raise InvalidValue(
                f"{missing.size} of {len(rows)} rows computed together are not in the table{near}; "
                f"the first of them is number {missing[0]}, counted from 0: ({begin}{more})"
            )
        return self._answers[found]

    def _flat(self, x: Array) -> Array:
        # Adding 0 makes -0 a 0, which has other bytes.
        return np.ascontiguousarray(x.astype(self.dtype).reshape(len(x), -1) + 0)


class _Near:
    """The nearest row of a table by the greatest difference of a number.

    Rows are compared by the few numbers that vary most before they are by all, which leaves few to be compared.

    Args:
        rows: ``(m, d)``, finite.
        tolerance: Rows further away are not found.
    """

    def __init__(self, rows: Array, tolerance: float) -> None:
        self.tolerance = tolerance
        self._rows = rows
        self._telling = np.argsort(rows.var(axis=0))[: -_TELLING - 1 : -1]
        self._columns = self._told(rows)

    def __call__(self, rows: Array) -> Array:
        """For rows ``(n, d)`` the index of the nearest, int64 ``(n,)``; -1 where none is near enough."""
        best = np.full(len(rows), np.inf)
        found = np.full(len(rows), -1, np.int64)
        columns = self._told(rows)
        at_once = max(1, _PAIRS_AT_ONCE // len(rows))
        for begin in range(0, len(self._rows), at_once):
            asked, known = self._candidates(columns, begin, begin + at_once)
            for part in range(0, len(asked), max(1, _NUMBERS_AT_ONCE // rows.shape[1])):
                some = slice(part, part + max(1, _NUMBERS_AT_ONCE // rows.shape[1]))
                self._take_nearest(rows, asked[some], known[some], best, found)
        return found

    def _candidates(self, columns: Array, begin: int, end: int) -> tuple[Array, Array]:
        """Pairs of a row asked for and a row of the table that are near each other in the numbers that vary most."""
        near = np.ones((columns.shape[1], min(end, len(self._rows)) - begin), bool)
        for asked, own in zip(columns, self._columns[:, begin:end], strict=True):
            near &= np.abs(asked[:, None] - own) <= self.tolerance
            if not near.any():
                break
        found, known = np.nonzero(near)
        return found, known + begin

    def _take_nearest(self, rows: Array, asked: Array, known: Array, best: Array, found: Array) -> None:
        distance = np.abs(rows[asked].astype(np.float64) - self._rows[known]).max(axis=1)
        near = np.flatnonzero(distance <= self.tolerance)
        # The nearest of each row first, and of equally near ones the first in the table.
        ordered = near[np.lexsort((known[near], distance[near], asked[near]))]
        first = ordered[np.flatnonzero(np.diff(asked[ordered], prepend=-1))]
        better = first[distance[first] < best[asked[first]]]
        best[asked[better]], found[asked[better]] = distance[better], known[better]

    def _told(self, rows: Array) -> Array:
        return np.ascontiguousarray(rows[:, self._telling].T.astype(np.float64))


def read(path: Path) -> tuple[Array, Array]:
    """``x`` and ``y`` of a .npz file. Arrays of objects are not read: they would be unpickled. Raises ModelConfigError."""
    how = "make it with numpy.savez(path, x=rows, y=labels)"
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["x"], file["y"]
    except FileNotFoundError:
        raise ModelConfigError("table", f"{path} is not there; {how}") from None
    except KeyError:
        raise ModelConfigError("table", f"{path} holds no arrays x and y; {how}") from None
    except Exception as e:  # zip files, .npy files and pickles are refused in many ways
        raise ModelConfigError("table", f"{path} is not a .npz file of plain arrays; {how} ({type(e).__name__}: {e})") from e


def _check(x: Array, y: Array, config: ModelConfig, key: str) -> None:
    if x.dtype.kind not in "biuf" or x.dtype.itemsize > 8:
        raise ModelConfigError(key, f"x has dtype {x.dtype}; expected numbers of at most 64 bits")
    expected = config.input_shape
    fits = x.ndim == len(expected) + 1 and all(size in (-1, own) for size, own in zip(expected, x.shape[1:], strict=True))
    if not fits or not x.size:
        sizes = ", ".join("any" if size == -1 else str(size) for size in expected)
        raise ModelConfigError(key, f"x has shape {x.shape}; expected (m, {sizes}), with at least one row, as input_shape says")
    if y.dtype.kind not in "biuf" or (y.dtype.kind == "f" and not np.isfinite(y).all()):
        raise ModelConfigError(key, f"y has dtype {y.dtype}; expected finite numbers")
    if y.shape[:1] != x.shape[:1] or y.ndim not in (1, 2):
        raise ModelConfigError(key, f"y has shape {y.shape} for {len(x)} rows; expected one label or one row of outputs each")


def _answers(y: Array, config: ModelConfig, key: str) -> Array:
    """What is answered for each row: int64 indices ``(m,)``, or floating outputs ``(m, C)``."""
    if config.task == "regression" or (y.ndim == 2 and y.shape[1] != 1):
        outputs = y.reshape(len(y), -1)
        if outputs.shape[1] != config.nb_classes:
            raise ModelConfigError(key, f"y has shape {y.shape}; expected ({len(y)}, {config.nb_classes}), as nb_classes says")
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
    """The bytes of each row."""
    keys: list[bytes] = rows.view(np.dtype((np.void, rows.dtype.itemsize * math.prod(rows.shape[1:])))).ravel().tolist()
    return keys
