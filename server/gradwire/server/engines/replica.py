"""Replica: one copy of a model, in a process of its own. Each request names the weights to compute with.

A replica that has other weights loads the named ones first: after its start, after a restart on another machine, or after a fit
in another replica. So no result is computed with old weights, and no message to all replicas is needed.
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
    """Reference to the weights to compute with.

    Attributes:
        key: Unique key of these weights; empty for those that every replica is loaded with.
        version: Their name for callers.
        file: Reference from which a replica gets them, in the transport's form. None for those that it is loaded with.
    """

    key: str = AS_LOADED
    version: str = "initial"
    file: Any = None


@dataclass(frozen=True)
class ErrorMessage:
    """Backend error in transit: exceptions with arguments of their own cannot be pickled and restored."""

    kind: str
    text: str

    @classmethod
    def of(cls, error: BackendError) -> ErrorMessage:
        """Message of an error."""
        return cls(type(error).__name__, str(error))

    def error(self) -> BackendError:
        """The original error, without its traceback."""
        kind: type[BackendError] = getattr(errors, self.kind, errors.ModelFailed)
        error = kind.__new__(kind)
        error.args = (self.text,)
        return error


@dataclass(frozen=True)
class NotLoaded:
    """Reply of a replica without a model; another replica may have one.

    Attributes:
        why: The error of loading.
    """

    why: ErrorMessage


class Replica:
    """One copy of a model. Not thread-safe: one thread at a time runs its methods.

    Args:
        load: Loads the model.
    """

    def __init__(self, load: Callable[[], Estimator]) -> None:
        self._estimator = load()
        self._key = AS_LOADED
        self._steps: Iterator[FitProgress] | None = None

    @property
    def facts(self) -> Facts:
        """Facts about the model."""
        return facts_of(self._estimator)

    def has(self, weights: Weights) -> bool:
        """True if these are the current weights."""
        return self._key == weights.key

    def take(self, weights: Weights, file: bytes | None) -> None:
        """Replaces the current weights.

        Args:
            weights: The weights to take.
            file: Their file, from `weights` of any replica; None for those that the replica was loaded with.

        Raises:
            BackendError: They do not fit. The replica then has the weights that it was loaded with.
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
        """Calls an operation of the estimator; an error of the backend is returned as `ErrorMessage`."""
        try:
            return guarded_call(getattr(self._estimator, method), rows, options)
        except BackendError as e:
            return ErrorMessage.of(e)

    def weights(self) -> bytes:
        """Current weights as a file, for `take` of any replica."""
        with tempfile.TemporaryDirectory(prefix="gradwire-") as folder:
            path = Path(folder) / "weights"
            self._estimator.save(path)
            return path.read_bytes()

    def begin_fit(self, x: Array, y: Array, options: FitOptions) -> None:
        """Begins a fit, whose steps are `next_step`."""
        self._steps = self._estimator.fit(x, y, options)

    def begin_fit_batches(self, batches: Iterator[tuple[Array, Array]], training_mode: bool) -> None:
        """Begins a fit on batches as they arrive."""
        self._steps = self._estimator.fit_batches(batches, training_mode)

    def next_step(self, key: str) -> FitProgress | None:
        """Takes one step of the fit. At its end returns None, and the current weights get ``key``."""
        assert self._steps is not None, "no fit has begun"
        try:
            progress = next(self._steps, None)
        except BaseException:
            self._steps = None
            raise
        if progress is None:
            self._steps, self._key = None, key
        return progress

    def cancel_fit(self) -> None:
        """Rolls back a fit that has not ended, if any."""
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.close()  # type: ignore[attr-defined]
