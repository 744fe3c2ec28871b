"""Cases to measure: operations, numbers of rows, and numbers of calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ROW_OPERATIONS = {
    "predict": "predict",
    "loss": "loss",
    "loss_gradient": "loss gradient",
    "class_gradient_rows": "class gradient, one class a row",
    "class_gradient_one": "class gradient, one class",
    "class_gradient_all": "class gradient, all classes",
    "activations_dense": "activations, linear layer",
    "activations_conv": "activations, first convolution",
    "vjp": "vector-Jacobian product",
}
"""Operations on rows, and their titles in reports."""

FIT = "fit"
FIT_ROWS = 1024
TITLES = {**ROW_OPERATIONS, FIT: "fit, one epoch"}


@dataclass(frozen=True)
class Repeats:
    """Numbers of rounds and calls of a case.

    Attributes:
        rounds: Turns of each contender.
        calls: Measured calls in a turn.
        settling: Calls before these, which refill caches and wake sleeping processes after the turns of the others.
    """

    rounds: int
    calls: int
    settling: int


@dataclass(frozen=True)
class Case:
    """One operation on a number of rows."""

    operation: str
    rows: int
    repeats: Repeats

    @property
    def title(self) -> str:
        """Its operation's title in reports."""
        return TITLES[self.operation]


_RESNET = Repeats(7, 1, 0)
_RESNET_ROWS = 32

_REPEATS = {1: Repeats(60, 5, 3), 32: Repeats(30, 3, 1), 128: Repeats(20, 2, 1), FIT_ROWS: Repeats(8, 1, 0)}
_QUICK = {1: Repeats(8, 4, 3), 32: Repeats(5, 2, 1), 128: Repeats(4, 1, 1), FIT_ROWS: Repeats(2, 1, 0)}


def cases(quick: bool, only: list[str]) -> list[Case]:
    """Makes the cases of a run.

    Args:
        quick: True for a tenth of the calls, to try things out.
        only: Parts of operation names, for example ``gradient``; empty: all operations.
    """
    repeats = _QUICK if quick else _REPEATS

    def all_cases() -> Iterator[Case]:
        for operation in ROW_OPERATIONS:
            for rows in (1, 32, 128):
                yield Case(operation, rows, repeats[rows])
        yield Case(FIT, FIT_ROWS, repeats[FIT_ROWS])

    return [case for case in all_cases() if not only or any(part in case.operation for part in only)]


def resnet_cases(quick: bool, only: list[str]) -> list[Case]:
    """Makes the cases of the larger model, whose calls take tenths of a second and more. Arguments as for `cases`."""
    repeats = Repeats(2, 1, 0) if quick else _RESNET
    return [Case(o, _RESNET_ROWS, repeats) for o in ROW_OPERATIONS if not only or any(part in o for part in only)]
