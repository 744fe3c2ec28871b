"""A replica: one copy of a model, in a process of its own. What is asked of it says by which weights it is to answer.

A replica that has others takes the right ones before it answers, whatever it was before: just started, started again on
another machine, or one of those that did not see a fit. So no answer is ever by old weights, and nobody has to tell all
replicas of anything.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradwire.backends import errors
from gradwire.backends.backend import Array
from gradwire.backends.errors import BackendError
from gradwire.backends.estimator import Estimator
from gradwire.backends.training import FitOptions, FitProgress
from gradwire.server.engines.facts import Facts, facts_of
from gradwire.server.scheduling.merging import guarded_call

AS_LOADED = ""


@dataclass(frozen=True)
class Weights:
    """Which weights are meant.

    Attributes:
        key: Of these weights and no others, ever; empty for those that every replica is loaded with.
        version: What callers call them.
        file: Where a replica that has others gets theirs: whatever carries it there. None for those that are loaded.
    """

    key: str = AS_LOADED
    version: str = "initial"
    file: Any = None


@dataclass(frozen=True)
class Failed:
    """An error of a backend on its way: exceptions with arguments of their own do not survive the way as they are."""

    kind: str
    text: str

    @classmethod
    def of(cls, error: BackendError) -> Failed:
        return cls(type(error).__name__, str(error))

    def error(self) -> BackendError:
        """The error as it was raised, but for where."""
        kind: type[BackendError] = getattr(errors, self.kind, errors.ModelFailed)
        error = kind.__new__(kind)
        error.args = (self.text,)
        return error


@dataclass(frozen=True)
class NotLoaded:
    """In place of an answer: this replica has no model. Another one may.

    Attributes:
        why: As loading it failed.
    """

    why: Failed


class Replica:
    """One copy of a model. Not thread-safe: one thread at a time runs its methods.

    Args:
        load: Loads it.
    """

    def __init__(self, load: Callable[[], Estimator]) -> None:
        self._estimator = load()
        self._key = AS_LOADED
        self._steps: Iterator[FitProgress] | None = None

    @property
    def facts(self) -> Facts:
        return facts_of(self._estimator)

    def has(self, weights: Weights) -> bool:
        """Whether it would answer by these weights."""
        return self._key == weights.key

    def take(self, weights: Weights, file: bytes | None) -> None:
        """Takes other weights.

        Args:
            weights: Which.
            file: What a replica's `weights` was; None: those that it was loaded with.

        Raises:
            BackendError: They do not fit. The replica has those that it was loaded with, then.
        """
        if self._key != AS_LOADED:
            self._estimator.reset()
            self._key = AS_LOADED
        if file is not None:
            with tempfile.TemporaryDirectory(prefix="gradwire-") as folder:
                path = Path(folder) / "weights"
                path.write_bytes(file)
                self._estimator.restore(path, weights.version)
            self._key = weights.key

    def compute(self, method: str, rows: dict[str, Array], options: dict[str, Any]) -> Any:
        """Calls an operation of the estimator; an error of the backend comes back as `Failed`."""
        try:
            return guarded_call(getattr(self._estimator, method), rows, options)
        except BackendError as e:
            return Failed.of(e)

    def weights(self) -> bytes:
        """The weights as a file, for `take` of any replica."""
        with tempfile.TemporaryDirectory(prefix="gradwire-") as folder:
            path = Path(folder) / "weights"
            self._estimator.save(path)
            return path.read_bytes()

    def begin_fit(self, x: Array, y: Array, options: FitOptions) -> None:
        """Begins a fit; `next_step` carries it out."""
        self._steps = self._estimator.fit(x, y, options)

    def begin_fit_batches(self, batches: Iterator[tuple[Array, Array]], training_mode: bool) -> None:
        """Begins a fit on batches as they come."""
        self._steps = self._estimator.fit_batches(batches, training_mode)

    def next_step(self, key: str) -> FitProgress | None:
        """One step of the fit. At its end None: from then on the weights are known by ``key``."""
        assert self._steps is not None, "no fit has begun"
        try:
            progress = next(self._steps, None)
        except BaseException:
            self._steps = None
            raise
        if progress is None:
            self._steps, self._key = None, key
        return progress

    def give_up_fit(self) -> None:
        """Takes back what of a fit is there, if one has not come to its end."""
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.close()  # type: ignore[attr-defined]
