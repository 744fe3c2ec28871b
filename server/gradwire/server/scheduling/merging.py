"""Batches: row blocks of several calls computed as one, and their results taken apart.

Invariant: each call gets the answer that it would get alone, up to the rounding of the framework's arithmetic, which may
differ with the number of rows. A mean divides by the caller's own rows. If a batch fails, its blocks are computed one by
one, so that only the call at fault fails. A block that does not fit into the device's memory is computed in pieces.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.errors import ModelFailed, OutOfMemory
from gradwire.backends.estimator import Estimator
from gradwire.backends.preprocessing import Standardisation
from gradwire.server.errors import ReplicaLost
from gradwire.server.scheduling.work import BatchKey, Work

log = logging.getLogger("gradwire.server")


def batch_key(
    estimator: Estimator, function: Callable[..., Any], rows: Mapping[str, Array], options: Mapping[str, Any], max_rows: int
) -> BatchKey:
    """Makes the batch key of a call's row blocks.

    Args:
        estimator: Computes them.
        function: The estimator's operation.
        rows: Arguments of one block that hold one entry a row; the rows themselves come first.
        options: The other arguments; ``divisor`` differs between calls and is left out of the key.
        max_rows: Most rows of this call to compute at once.
    """
    # Batch normalisation in training mode sees the block, and dropout's noise depends on how much was drawn before.
    separable = estimator.coalesces and "training_mode" not in options
    return BatchKey(
        estimator=estimator,
        kind=(
            function.__name__,
            *((name, _hashable(value)) for name, value in options.items() if name != "divisor"),
            *((name, array.dtype.str, array.shape[1:]) for name, array in rows.items()),
        ),
        row_shape=next(iter(rows.values())).shape[1:],
        separable=separable,
        may_wait=estimator.model.may_wait,
        max_rows=max_rows,
    )


def _hashable(value: Any) -> Hashable:
    """Hashable value of an option, so that equal options give equal keys."""
    if isinstance(value, Standardisation):
        arrays = (value.mean, value.std)
        return tuple((a.dtype.str, a.shape, hashlib.blake2b(a.tobytes(), digest_size=16).digest()) for a in arrays)
    hashable: Hashable = value
    return hashable


class Outcome(NamedTuple):
    """Result of a block, or the error that it ended with."""

    work: Work
    result: Any
    error: Exception | None


@dataclass(frozen=True)
class Computed:
    """A batch that has been computed.

    Attributes:
        outcomes: One for each block.
        as_one: Whether the blocks were computed as one.
        seconds: Duration; 0 if a block failed.
    """

    outcomes: list[Outcome]
    as_one: bool
    seconds: float

    def deliver(self) -> None:
        """Sets the results of the calls that still wait for them. Runs on the loop's thread."""
        for work, result, error in self.outcomes:
            if work.done.done():
                continue
            if error is None:
                work.done.set_result(result)
            else:
                work.done.set_exception(error)


def compute(taken: Sequence[Work]) -> Computed:
    """Computes blocks with equal batch keys as one; every block is computed, since taken work is charged."""
    waiting = list(taken)
    began_s = time.perf_counter()
    if len(waiting) > 1:
        try:
            outcomes = _as_one(waiting)
            return Computed(outcomes, True, time.perf_counter() - began_s)
        except ReplicaLost as e:
            # No other replica would answer the blocks either.
            return Computed([Outcome(work, None, e) for work in waiting], True, 0.0)
        except Exception as e:
            log.info("a merged batch failed; its blocks are computed one by one", extra={"blocks": len(waiting), "reason": str(e)})
    outcomes = [_alone(work) for work in waiting]
    failed = any(outcome.error is not None for outcome in outcomes)
    return Computed(outcomes, len(waiting) == 1, 0.0 if failed or len(waiting) != 1 else time.perf_counter() - began_s)


def _alone(work: Work) -> Outcome:
    try:
        return Outcome(work, _in_pieces(work.function, work.key, work.rows, work.options, work.size), None)
    except Exception as e:
        return Outcome(work, None, e)


def _as_one(parts: Sequence[Work]) -> list[Outcome]:
    first, key = parts[0], parts[0].key
    assert key is not None, "work without a batch key is taken by itself"
    ends = np.cumsum([part.size for part in parts]).tolist()
    rows = {name: np.concatenate([part.rows[name] for part in parts]) for name in first.rows}
    options = dict(first.options)
    if "divisor" in options:
        options["divisor"] = np.concatenate([_divisors(key.estimator, part) for part in parts])
    result = _in_pieces(first.function, key, rows, options, ends[-1])
    if not isinstance(result, np.ndarray) or result.shape[:1] != (ends[-1],):
        raise ModelFailed(f"{first.function.__name__} answered {ends[-1]} rows with {getattr(result, 'shape', type(result))}")
    return [Outcome(part, result[end - part.size : end], None) for part, end in zip(parts, ends, strict=True)]


def _divisors(estimator: Estimator, part: Work) -> Array:
    """Divisors ``(n,)`` of the means, one a row: that of the row's own call."""
    divisor = part.options["divisor"]
    return np.full(part.size, estimator.loss_divisor(part.rows["y"]) if divisor is None else divisor)


def _in_pieces(
    function: Callable[..., Any], key: BatchKey | None, rows: Mapping[str, Array], options: Mapping[str, Any], size: int
) -> Any:
    """Computes a block, halving it as often as the device runs out of memory; the size that fits is remembered."""
    if key is None or not key.separable:
        return guarded_call(function, rows, options)
    room, room_of = key.estimator.room, (function.__name__, key.row_shape)
    most, begin, results = min(size, room.get(room_of, size)), 0, []
    while begin < size:
        end = min(begin + most, size)
        try:
            if end - begin == size:
                return guarded_call(function, rows, options)
            results.append(guarded_call(function, *_cut(key.estimator, rows, options, slice(begin, end))))
        except OutOfMemory as e:
            if end - begin == 1:
                raise OutOfMemory(f"{e}. Not even one row of {function.__name__} fits") from e
            most = -(-(end - begin) // 2)
        else:
            begin = end
    if most < room.get(room_of, size):
        room[room_of] = most
        extra = {"operation": function.__name__, "row_shape": key.row_shape, "tried_rows": size, "rows": most}
        log.warning("the device ran out of memory; from now on fewer rows are computed at once", extra=extra)
    return np.concatenate(results)


def _cut(
    estimator: Estimator, rows: Mapping[str, Array], options: Mapping[str, Any], at: slice
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Cuts a piece out of a block; a mean still divides by the divisor of the whole block."""
    piece = {name: array[at] for name, array in rows.items()}
    if "divisor" not in options:
        return piece, dict(options)
    divisor = options["divisor"]
    if divisor is None:
        divisor = estimator.loss_divisor(rows["y"])
    return piece, {**options, "divisor": divisor[at] if isinstance(divisor, np.ndarray) else divisor}


def guarded_call(function: Callable[..., Any], rows: Mapping[str, Array], options: Mapping[str, Any]) -> Any:
    """Calls the estimator. A model that calls sys.exit() ends its call, not the server."""
    try:
        return function(**rows, **options)
    except Exception:
        raise
    except BaseException as e:
        raise ModelFailed(f"the model raised {type(e).__name__}: {e}") from e
