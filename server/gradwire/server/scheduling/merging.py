"""What can be computed as one, and how it comes apart again.

What holds: each call gets what it would have got alone, to the rounding of the framework's arithmetic, which may go
another way for another number of rows. A mean divides by the caller's own rows. If what was computed as one fails, its
parts are computed one by one, so that only the call that is the reason fails. A block that the device has no room for is
computed in pieces.
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
from gradwire.server.scheduling.work import Likeness, Work, call

log = logging.getLogger("gradwire.server")


def likeness(
    estimator: Estimator, function: Callable[..., Any], rows: Mapping[str, Array], options: Mapping[str, Any], max_rows: int
) -> Likeness:
    """What the row blocks of a call have in common.

    Args:
        estimator: Computes them.
        function: The estimator's operation.
        rows: One of the blocks, or the whole call: arguments that hold one entry a row, what is computed on first.
        options: The other arguments; ``divisor`` is the call's own and no matter.
        max_rows: Most rows of this call to compute at once.
    """
    # Batch normalisation in training mode sees the block, and dropout's noise depends on how much was drawn before.
    separable = estimator.coalesces and "training_mode" not in options
    return Likeness(
        estimator=estimator,
        kind=(
            function.__name__,
            *((name, _told(value)) for name, value in options.items() if name != "divisor"),
            *((name, array.dtype.str, array.shape[1:]) for name, array in rows.items()),
        ),
        row_shape=next(iter(rows.values())).shape[1:],
        separable=separable,
        may_wait=estimator.model.may_wait,
        max_rows=max_rows,
    )


def _told(value: Any) -> Hashable:
    """An option by its value, so that equal ones are equal."""
    if isinstance(value, Standardisation):
        arrays = (value.mean, value.std)
        return tuple((a.dtype.str, a.shape, hashlib.blake2b(a.tobytes(), digest_size=16).digest()) for a in arrays)
    told: Hashable = value
    return told


class Outcome(NamedTuple):
    """What a block came to: a result, or why there is none."""

    work: Work
    result: Any
    error: Exception | None


@dataclass(frozen=True)
class Computed:
    """What was taken together and has been computed.

    Attributes:
        outcomes: Of each block.
        as_one: Whether it was one batch.
        seconds: How long it took; 0 if something failed.
    """

    outcomes: list[Outcome]
    as_one: bool
    seconds: float

    def deliver(self) -> None:
        """Hands results to the calls that still wait for them. On the loop's thread."""
        for work, result, error in self.outcomes:
            if work.done.done():
                continue
            if error is None:
                work.done.set_result(result)
            else:
                work.done.set_exception(error)


def compute(taken: Sequence[Work]) -> Computed:
    """Computes blocks that are alike as one, with the device held, and all of them: what is taken is charged."""
    waiting = list(taken)
    began_s = time.perf_counter()
    if len(waiting) > 1:
        try:
            outcomes = _as_one(waiting)
            return Computed(outcomes, True, time.perf_counter() - began_s)
        except ReplicaLost as e:
            # Nobody else would answer the parts.
            return Computed([Outcome(work, None, e) for work in waiting], True, 0.0)
        except Exception as e:
            log.info("blocks computed as one failed, and are computed one by one", extra={"blocks": len(waiting), "reason": str(e)})
    outcomes = [_alone(work) for work in waiting]
    failed = any(outcome.error is not None for outcome in outcomes)
    return Computed(outcomes, len(waiting) == 1, 0.0 if failed or len(waiting) != 1 else time.perf_counter() - began_s)


def _alone(work: Work) -> Outcome:
    try:
        return Outcome(work, _in_pieces(work.function, work.likeness, work.rows, work.options, work.size), None)
    except Exception as e:
        return Outcome(work, None, e)


def _as_one(parts: Sequence[Work]) -> list[Outcome]:
    first, like = parts[0], parts[0].likeness
    assert like is not None, "work that is like nothing else is taken by itself"
    ends = np.cumsum([part.size for part in parts]).tolist()
    rows = {name: np.concatenate([part.rows[name] for part in parts]) for name in first.rows}
    options = dict(first.options)
    if "divisor" in options:
        options["divisor"] = np.concatenate([_divisors(like.estimator, part) for part in parts])
    result = _in_pieces(first.function, like, rows, options, ends[-1])
    if not isinstance(result, np.ndarray) or result.shape[:1] != (ends[-1],):
        raise ModelFailed(f"{first.function.__name__} answered {ends[-1]} rows with {getattr(result, 'shape', type(result))}")
    return [Outcome(part, result[end - part.size : end], None) for part, end in zip(parts, ends, strict=True)]


def _divisors(estimator: Estimator, part: Work) -> Array:
    """What the mean of each row's own call divides by."""
    divisor = part.options["divisor"]
    return np.full(part.size, estimator.loss_divisor(part.rows["y"]) if divisor is None else divisor)


def _in_pieces(
    function: Callable[..., Any], like: Likeness | None, rows: Mapping[str, Array], options: Mapping[str, Any], size: int
) -> Any:
    """Computes a block; if the device has no room for it, half of it at a time, and so on. What has worked is remembered."""
    if like is None or not like.separable:
        return call(function, rows, options)
    room, room_of = like.estimator.room, (function.__name__, like.row_shape)
    most, begin, results = min(size, room.get(room_of, size)), 0, []
    while begin < size:
        end = min(begin + most, size)
        try:
            if end - begin == size:
                return call(function, rows, options)
            results.append(call(function, *_cut(like.estimator, rows, options, slice(begin, end))))
        except OutOfMemory as e:
            if end - begin == 1:
                raise OutOfMemory(f"{e}. There is no room even for one row of {function.__name__}") from e
            most = -(-(end - begin) // 2)
        else:
            begin = end
    if most < room.get(room_of, size):
        room[room_of] = most
        extra = {"operation": function.__name__, "row_shape": like.row_shape, "tried_rows": size, "rows": most}
        log.warning("the device has no room for a block; from now on fewer rows are computed at once", extra=extra)
    return np.concatenate(results)


def _cut(
    estimator: Estimator, rows: Mapping[str, Array], options: Mapping[str, Any], at: slice
) -> tuple[dict[str, Array], dict[str, Any]]:
    """A piece of a block; a mean still divides by what the whole of it does."""
    piece = {name: array[at] for name, array in rows.items()}
    if "divisor" not in options:
        return piece, dict(options)
    divisor = options["divisor"]
    if divisor is None:
        divisor = estimator.loss_divisor(rows["y"])
    return piece, {**options, "divisor": divisor[at] if isinstance(divisor, np.ndarray) else divisor}
