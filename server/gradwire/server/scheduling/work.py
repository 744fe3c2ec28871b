"""The unit of work: one row block of one call, and what it has in common with others.

Blocks of equal kinds are the same computation on other rows. Where rows do not see each other (`Likeness.separable`) such
blocks can be computed as one, or in pieces, and nobody can tell from the answer (see `merging`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gradwire.backends.backend import Array
from gradwire.backends.errors import ModelFailed
from gradwire.backends.estimator import Estimator

if TYPE_CHECKING:
    from gradwire.server.scheduling.tickets import Ticket


@dataclass(frozen=True, eq=False)
class Likeness:
    """What all row blocks of a call have in common, and may have in common with those of other calls.

    Attributes:
        estimator: Computes them.
        kind: What is computed of a row: operation, options, shapes and dtypes. Names, sizes and digests only, so that
            nothing is kept alive by being remembered.
        row_shape: Of what is computed on.
        separable: Whether rows do not see each other, and nobody minds in whose company they are computed.
        may_wait: Whether it may wait for something else than the device.
        max_rows: Most of them to compute at once.
    """

    estimator: Estimator
    kind: Hashable
    row_shape: tuple[int, ...]
    separable: bool
    may_wait: bool
    max_rows: int


@dataclass(eq=False)
class Work:
    """One row block of one call, or something else that needs the device (then it is like nothing else).

    Attributes:
        function: Computes the block.
        rows: Arguments that hold one entry a row.
        options: The other arguments.
        done: Where the result goes; belongs to the loop's thread.
        ticket: The call.
        likeness: What the block has in common with others.
        one_of_several: Whether its call may have more of the kind.
        queued_s: Since when it waits for the device, by ``time.monotonic()``; 0 if it never did.
        size: How many rows it has; 0 for what is no row block.
    """

    function: Callable[..., Any]
    rows: Mapping[str, Array]
    options: Mapping[str, Any]
    done: asyncio.Future[Any]
    ticket: Ticket
    likeness: Likeness | None = None
    one_of_several: bool = False
    queued_s: float = 0.0
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = 0 if self.likeness is None else len(next(iter(self.rows.values())))


def call(function: Callable[..., Any], rows: Mapping[str, Array], options: Mapping[str, Any]) -> Any:
    """Computes, with the device held. A model that calls sys.exit() ends its call, not the server."""
    try:
        return function(**rows, **options)
    except Exception:
        raise
    except BaseException as e:
        raise ModelFailed(f"the model raised {type(e).__name__}: {e}") from e
