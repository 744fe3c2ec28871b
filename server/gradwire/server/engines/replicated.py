"""An estimator whose model is elsewhere: checks are made here, rows are computed by a replica, whichever is free.

Its methods block, each on one of the runner's threads, until a replica has answered. Computing is safe to repeat: a replica that
dies in the middle is not noticed, another one is asked. A fit is not, and fails with its replica; the model is then as it was.
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
from gradwire.server.engines.facts import Described, Facts
from gradwire.server.engines.replica import Weights


class Fitting(Protocol):
    """A fit that one replica is at."""

    def __next__(self) -> FitProgress | bytes:
        """What was done, and at the end the new weights as a file. Raises ReplicaLost, BackendError."""
        ...

    def close(self) -> None:
        """Gives it up."""
        ...


class Replicas(Protocol):
    """Those of one model. May be used from any thread."""

    def compute(self, weights: Weights, method: str, rows: dict[str, Array], options: dict[str, Any]) -> Any:
        """Has an operation of the estimator computed by any replica, again by another one if that is lost. Raises BackendError."""
        ...

    def file(self, weights: Weights) -> bytes:
        """Weights as a file."""
        ...

    def keep(self, file: bytes) -> Any:
        """Puts a file where every replica can get it; what is returned is the `Weights.file`."""
        ...

    def fit(self, weights: Weights, key: str, x: Array, y: Array, options: FitOptions) -> Fitting:
        """Begins a fit on one replica. ``key`` will be that of the new weights."""
        ...

    def fit_batches(self, weights: Weights, key: str, batches: Iterator[tuple[Array, Array]], training_mode: bool) -> Fitting:
        """As `fit`, on batches that are asked for one at a time."""
        ...

    def give_up(self) -> None:
        """Waits for no replica any more."""
        ...


class ReplicatedEstimator(Estimator):
    """The front of several replicas.

    Args:
        facts: Of their model.
        config: The model's configuration.
        replicas: Who compute.
        places: How many row blocks may be with them at the same time.
    """

    def __init__(self, facts: Facts, config: ModelConfig, replicas: Replicas, places: int) -> None:
        preprocessing = Preprocessing((), facts.standardisation, facts.input_dtype)
        super().__init__(Described(facts), config, preprocessing, ())
        self.capabilities, self.answers, self.coalesces = facts.capabilities, facts.answers, facts.coalesces
        self.output_shape, self.output_dtype = facts.output_shape, facts.output_dtype
        # Postprocessing is done where the model is. That there is some decides what may be asked for.
        self.postprocessing = (_Elsewhere(),) if facts.postprocessed else ()
        self.places = places
        self._replicas = replicas
        self._first = self._weights = self._shared()
        self._since_loading = 0

    @property
    def version(self) -> str:
        return self._weights.version

    def give_up(self) -> None:
        """Waits for no replica any more: the server ends."""
        self._replicas.give_up()

    # Operations on a block of rows.

    def predict(
        self,
        x: Array,
        *,
        training_mode: bool = False,
        standardisation: Standardisation | None = None,
        labels_only: bool = False,
    ) -> Array:
        result = self._computed("predict", {"x": x}, _said(training_mode, standardisation, labels_only=labels_only))
        if not (labels_only or self.postprocessing):
            self.output_shape, self.output_dtype = result.shape[1:], result.dtype
        return result

    def answer(
        self, x: Array, kind: Answer, *, training_mode: bool = False, standardisation: Standardisation | None = None
    ) -> Array:
        return self._computed("answer", {"x": x}, {"kind": kind, **_said(training_mode, standardisation)})

    def loss(self, x: Array, y: Array, *, training_mode: bool = False, standardisation: Standardisation | None = None) -> Array:
        return self._computed("loss", {"x": x, "y": y}, _said(training_mode, standardisation))

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        return self._computed("loss_from_predictions", {"predictions": predictions, "y": y}, {})

    def loss_divisor(self, y: Array) -> float:
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
        return self._computed("loss_gradient", {"x": x, "y": y}, _said(training_mode, standardisation, divisor=divisor))

    def class_gradient(
        self, x: Array, label: Array | None, *, training_mode: bool = False, standardisation: Standardisation | None = None
    ) -> Array:
        return self._computed("class_gradient", {"x": x}, {"label": label, **_said(training_mode, standardisation)})

    def get_activations(
        self, x: Array, layer: str | int, *, training_mode: bool = False, standardisation: Standardisation | None = None
    ) -> Array:
        return self._computed("get_activations", {"x": x}, {"layer": layer, **_said(training_mode, standardisation)})

    def vjp(
        self,
        x: Array,
        cotangent: Array,
        *,
        layer: str | int | None = None,
        training_mode: bool = False,
        standardisation: Standardisation | None = None,
    ) -> Array:
        options = {"layer": layer, **_said(training_mode, standardisation)}
        return self._computed("vjp", {"x": x, "cotangent": cotangent}, options)

    # What changes the weights. The caller has the model for itself.

    def fit(self, x: Array, y: Array, options: FitOptions) -> Iterator[FitProgress]:
        self._require(Operation.FIT)
        if options.batch_size < 1 or options.nb_epochs < 1:
            raise InvalidValue(f"batch_size {options.batch_size}, nb_epochs {options.nb_epochs}; expected at least 1 each")
        key = uuid.uuid4().hex
        return self._steps(key, lambda: self._replicas.fit(self._weights, key, x, y, options))

    def fit_batches(self, batches: Iterator[tuple[Array, Array]], training_mode: bool) -> Iterator[FitProgress]:
        self._require(Operation.FIT_BATCHES)
        key = uuid.uuid4().hex
        return self._steps(key, lambda: self._replicas.fit_batches(self._weights, key, batches, training_mode))

    def save(self, path: Path) -> None:
        self._require(Operation.VERSIONS)
        path.write_bytes(self._replicas.file(self._weights))

    def restore(self, path: Path, version: str) -> None:
        self._require(Operation.VERSIONS)
        wanted = Weights(uuid.uuid4().hex, version, self._replicas.keep(path.read_bytes()))
        # One replica tries them: if they do not fit, nobody has taken them.
        self._replicas.file(wanted)
        self._weights = wanted

    def reset(self) -> None:
        self._require(Operation.VERSIONS)
        self._weights = self._first

    def untrained_clone(self) -> NoReturn:
        raise Unsupported(f"a replicated {self.config.backend} model cannot be cloned; serve it once more, under another name")

    # Inside.

    def _shared(self) -> Weights:
        """The weights that one replica was loaded with, for all: without a file of weights, each may have made up its own."""
        if Operation.VERSIONS not in self.capabilities:
            return Weights()
        try:
            file = self._replicas.file(Weights())
        except Unsupported:  # there is nothing to save before the first fit
            return Weights()
        return Weights(uuid.uuid4().hex, Weights.version, self._replicas.keep(file))

    def _computed(self, method: str, rows: dict[str, Array], options: dict[str, Any]) -> Array:
        return np.asarray(self._replicas.compute(self._weights, method, rows, options))

    def _steps(self, key: str, begin: Any) -> Iterator[FitProgress]:
        fitting: Fitting = begin()
        try:
            while not isinstance(done := next(fitting), bytes):
                yield done
        except BaseException:
            fitting.close()
            raise
        self._since_loading += 1
        self._weights = Weights(key, f"fit-{self._since_loading}", self._replicas.keep(done))


class _Elsewhere:
    """A defence that is applied by replicas."""

    apply_predict = False

    def __call__(self, preds: Array) -> Array:
        return preds


def _said(training_mode: bool, standardisation: Standardisation | None, **more: Any) -> dict[str, Any]:
    """Options that are not as they are if nothing is said: what is not sent need not be read."""
    said = {"training_mode": training_mode or None, "standardisation": standardisation, **more}
    return {name: value for name, value in said.items() if value is not None and value is not False}
