"""Estimator with replicas: requests are checked here, and any free replica computes the rows.

Its methods block, each on one of the runner's threads, until a replica has answered. Computations are safe to retry: if a
replica is lost, another one computes them. A fit is not, and fails with its replica; the model is then unchanged.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.capabilities import Answer, Operation
from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import InvalidValue, Unsupported
from gradwire.backends.estimator import Estimator
from gradwire.backends.preprocessing import Preprocessing, Standardisation
from gradwire.backends.training import FitOptions, FitProgress
from gradwire.server.engines.facts import Facts, RemoteModel
from gradwire.server.engines.replica import Weights


class Fitting(Protocol):
    """A fit in one replica."""

    def __next__(self) -> FitProgress | bytes:
        """Progress of the fit, and at the end the new weights as a file. Raises ReplicaLost, BackendError."""
        ...

    def close(self) -> None:
        """Cancels the fit."""
        ...


class Replicas(Protocol):
    """The replicas of one model. May be used from any thread."""

    def compute(self, weights: Weights, method: str, rows: dict[str, Array], options: dict[str, Any]) -> Any:
        """Computes an operation of the estimator in any replica, and retries if that is lost. Raises BackendError."""
        ...

    def file(self, weights: Weights) -> bytes:
        """Weights as a file."""
        ...

    def keep(self, file: bytes) -> Any:
        """Stores a file for all replicas, and returns the reference for `Weights.file`."""
        ...

    def fit(self, weights: Weights, key: str, x: Array, y: Array, options: FitOptions) -> Fitting:
        """Begins a fit in one replica. The new weights get ``key``."""
        ...

    def fit_batches(self, weights: Weights, key: str, batches: Iterator[tuple[Array, Array]], training_mode: bool) -> Fitting:
        """As `fit`, on batches that are requested one at a time."""
        ...

    def stop_waiting(self) -> None:
        """Stops waiting for replicas that are missing."""
        ...


class ReplicatedEstimator(Estimator):
    """Front of several replicas.

    Args:
        facts: Facts about their model.
        config: The model's configuration.
        replicas: The replicas.
        parallel_blocks: Most row blocks that replicas hold at the same time.
    """

    def __init__(self, facts: Facts, config: ModelConfig, replicas: Replicas, parallel_blocks: int) -> None:
        preprocessing = Preprocessing((), facts.standardisation, facts.input_dtype)
        super().__init__(RemoteModel(facts), config, preprocessing, ())
        self.capabilities, self.answers, self.coalesces = facts.capabilities, facts.answers, facts.coalesces
        self.output_shape, self.output_dtype = facts.output_shape, facts.output_dtype
        # Replicas postprocess. The presence of postprocessing decides which operations callers may use.
        self.postprocessing = (_AppliedByReplicas(),) if facts.postprocessed else ()
        self.parallel_blocks = parallel_blocks
        self._replicas = replicas
        self._first = self._weights = self._shared()
        self._fits_since_loading = 0

    @property
    def version(self) -> str:
        """Version of the current weights."""
        return self._weights.version

    def stop_waiting(self) -> None:
        """Stops waiting for missing replicas, because the server ends."""
        self._replicas.stop_waiting()

    # Operations on a block of rows.

    def predict(
        self,
        x: Array,
        *,
        training_mode: bool = False,
        standardisation: Standardisation | None = None,
        labels_only: bool = False,
    ) -> Array:
        """As in `Estimator`."""
        result = self._compute("predict", {"x": x}, _options(training_mode, standardisation, labels_only=labels_only))
        if not (labels_only or self.postprocessing):
            self.output_shape, self.output_dtype = result.shape[1:], result.dtype
        return result

    def answer(
        self, x: Array, kind: Answer, *, training_mode: bool = False, standardisation: Standardisation | None = None
    ) -> Array:
        """As in `Estimator`."""
        return self._compute("answer", {"x": x}, {"kind": kind, **_options(training_mode, standardisation)})

    def loss(self, x: Array, y: Array, *, training_mode: bool = False, standardisation: Standardisation | None = None) -> Array:
        """As in `Estimator`."""
        return self._compute("loss", {"x": x, "y": y}, _options(training_mode, standardisation))

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """As in `Estimator`."""
        return self._compute("loss_from_predictions", {"predictions": predictions, "y": y}, {})

    def loss_divisor(self, y: Array) -> float:
        """As in `Estimator`."""
        return float(self._replicas.compute(self._weights, "loss_divisor", {"y": y}, {}))

    def loss_gradient(
        self,
        x: Array,
        y: Array,
        *,
        divisor: float | Array | None = None,
        training_mode: bool = False,
        standardisation: Standardisation | None = None,
    ) -> Array:
        """As in `Estimator`."""
        return self._compute("loss_gradient", {"x": x, "y": y}, _options(training_mode, standardisation, divisor=divisor))

    def class_gradient(
        self, x: Array, label: Array | None, *, training_mode: bool = False, standardisation: Standardisation | None = None
    ) -> Array:
        """As in `Estimator`."""
        return self._compute("class_gradient", {"x": x}, {"label": label, **_options(training_mode, standardisation)})

    def get_activations(
        self, x: Array, layer: str | int, *, training_mode: bool = False, standardisation: Standardisation | None = None
    ) -> Array:
        """As in `Estimator`."""
        return self._compute("get_activations", {"x": x}, {"layer": layer, **_options(training_mode, standardisation)})

    def vjp(
        self,
        x: Array,
        cotangent: Array,
        *,
        layer: str | int | None = None,
        training_mode: bool = False,
        standardisation: Standardisation | None = None,
    ) -> Array:
        """As in `Estimator`."""
        options = {"layer": layer, **_options(training_mode, standardisation)}
        return self._compute("vjp", {"x": x, "cotangent": cotangent}, options)

    # Changes of the weights, under the model's exclusive lock.

    def fit(self, x: Array, y: Array, options: FitOptions) -> Iterator[FitProgress]:
        """As in `Estimator`, in one replica; the new weights are then those of all."""
        self._require(Operation.FIT)
        if options.batch_size < 1 or options.nb_epochs < 1:
            raise InvalidValue(f"batch_size {options.batch_size}, nb_epochs {options.nb_epochs}; expected at least 1 each")
        key = uuid.uuid4().hex
        return self._steps(key, lambda: self._replicas.fit(self._weights, key, x, y, options))

    def fit_batches(self, batches: Iterator[tuple[Array, Array]], training_mode: bool) -> Iterator[FitProgress]:
        """As `fit`, on batches as they arrive."""
        self._require(Operation.FIT_BATCHES)
        key = uuid.uuid4().hex
        return self._steps(key, lambda: self._replicas.fit_batches(self._weights, key, batches, training_mode))

    def save(self, path: Path) -> None:
        """As in `Estimator`."""
        self._require(Operation.VERSIONS)
        path.write_bytes(self._replicas.file(self._weights))

    def restore(self, path: Path, version: str) -> None:
        """As in `Estimator`."""
        self._require(Operation.VERSIONS)
        restored = Weights(uuid.uuid4().hex, version, self._replicas.keep(path.read_bytes()))
        # One replica tries them: if they do not fit, the current weights stay.
        self._replicas.file(restored)
        self._weights = restored

    def reset(self) -> None:
        """As in `Estimator`."""
        self._require(Operation.VERSIONS)
        self._weights = self._first

    def untrained_clone(self) -> NoReturn:
        """Raises Unsupported: a clone would exist in one replica only."""
        raise Unsupported(f"a replicated {self.config.backend} model cannot be cloned; serve it a second time, under another name")

    # Private.

    def _shared(self) -> Weights:
        """The weights that one replica was loaded with, for all: without a weights file, each may have drawn its own."""
        if Operation.VERSIONS not in self.capabilities:
            return Weights()
        try:
            file = self._replicas.file(Weights())
        except Unsupported:  # the model has no weights to save before the first fit
            return Weights()
        return Weights(uuid.uuid4().hex, Weights.version, self._replicas.keep(file))

    def _compute(self, method: str, rows: dict[str, Array], options: dict[str, Any]) -> Array:
        return np.asarray(self._replicas.compute(self._weights, method, rows, options))

    def _steps(self, key: str, begin: Any) -> Iterator[FitProgress]:
        fitting: Fitting = begin()
        try:
            while not isinstance(done := next(fitting), bytes):
                yield done
        except BaseException:
            fitting.close()
            raise
        self._fits_since_loading += 1
        self._weights = Weights(key, f"fit-{self._fits_since_loading}", self._replicas.keep(done))


class _AppliedByReplicas:
    """Postprocessing defence that replicas apply."""

    apply_predict = False

    def __call__(self, preds: Array) -> Array:
        return preds


def _options(training_mode: bool, standardisation: Standardisation | None, **more: Any) -> dict[str, Any]:
    """Options that differ from their defaults, so that defaults need not be sent."""
    options = {"training_mode": training_mode or None, "standardisation": standardisation, **more}
    return {name: value for name, value in options.items() if value is not None and value is not False}
