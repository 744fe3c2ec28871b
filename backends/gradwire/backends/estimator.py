"""Estimators: a model with ART's preprocessing, label forms, postprocessing, and fits as transactions.

Every operation takes callers' rows and returns their results. A call may come in several row blocks: rows are independent
of each other, so that blocks can be split and joined freely, except in training mode, in which batch normalisation sees the
block. The divisor of a mean, which belongs to the whole call, is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np

from gradwire.backends import labels, training
from gradwire.backends.backend import Array, Model
from gradwire.backends.capabilities import Answer, Operation, answers, capabilities
from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import (
    BackendError,
    EmptyBatch,
    InvalidDtype,
    InvalidShape,
    InvalidValue,
    ModelConfigError,
    ModelFailed,
    OutOfMemory,
    Unsupported,
)
from gradwire.backends.preprocessing import PostprocessingDefence, Preprocessing, Standardisation, postprocess
from gradwire.backends.training import FitOptions, FitProgress


class Estimator:
    """One loaded model with its preprocessing and postprocessing. Not thread-safe: one thread at a time runs its operations.

    Args:
        model: The model that a backend loaded.
        config: The model's configuration.
        preprocessing: Converts callers' rows to model inputs.
        postprocessing: Defences that predictions pass before callers see them.
    """

    def __init__(
        self,
        model: Model,
        config: ModelConfig,
        preprocessing: Preprocessing,
        postprocessing: Sequence[PostprocessingDefence],
    ) -> None:
        self.model = model
        self.config = config
        self.preprocessing = preprocessing
        self.postprocessing = tuple(postprocessing)
        self.capabilities = capabilities(model)
        self.answers = answers(model)
        self.coalesces = config.coalesce and _rows_are_apart(model, preprocessing, self.postprocessing)
        """True if rows of several calls may be computed together, and a call's rows in other blocks than alone."""
        self.room: dict[tuple[str, tuple[int, ...]], int] = {}
        """Largest number of rows that fit into memory, by operation and row shape, after a larger block did not."""
        self._version = "initial"
        self.output_shape: tuple[int, ...] = (config.nb_classes,)
        """Shape of a row's outputs before postprocessing; updated at each prediction, the first of them at loading."""
        self.output_dtype: np.dtype[Any] = self._float_dtype
        self._fits = 0
        self._initial: object | None = None
        # The optional operations, without a type for each framework: `capabilities` lists those that the model has.
        self._do = cast(Any, model)

    @property
    def version(self) -> str:
        """Version of the current weights. An ensemble's version is composed of its members'."""
        return str(getattr(self.model, "version", self._version))

    # Checks of requests, before memory is allocated for them.

    def check_rows(self, shape: Sequence[int], dtype: np.dtype[Any]) -> int:
        """Checks the shape ``(n, *input_shape)`` and the dtype of rows, and returns n.

        Raises:
            InvalidShape, EmptyBatch, InvalidDtype: The model does not take such rows.
        """
        expected = self.config.input_shape
        fits = len(shape) == len(expected) + 1 and all(
            s == e or (e == -1 and s > 0) for s, e in zip(shape[1:], expected, strict=False)
        )
        if not fits:
            raise InvalidShape(
                f"x has shape {tuple(shape)}; expected (n, {', '.join('any' if e == -1 else str(e) for e in expected)})"
            )
        if shape[0] == 0:
            raise EmptyBatch("x has no rows; expected at least one")
        if self.model.input_dtype.kind in "iu" and dtype.kind not in "biu":
            raise InvalidDtype(f"x has dtype {dtype}; the model takes {self.model.input_dtype}")
        return shape[0]

    def check_predictions(self, shape: Sequence[int]) -> int:
        """Checks the shape ``(n, *output_shape)`` of outputs that a caller sends, and returns n. Raises as `check_rows`."""
        if tuple(shape[1:]) != self.output_shape:
            raise InvalidShape(f"predictions have shape {tuple(shape)}; expected (n, {', '.join(map(str, self.output_shape))})")
        if shape[0] == 0:
            raise EmptyBatch("predictions have no rows; expected at least one")
        return shape[0]

    def prepare_labels(self, y: Array, rows: int) -> Array:
        """Converts labels or targets of a whole call to the form that operations take: see `labels`."""
        if self.config.task == "regression":
            return labels.targets(y, rows)
        return labels.canonical(y, rows, self.config.nb_classes)

    def prepare_label(self, label: int | Array | None, rows: int) -> Array | None:
        """Converts the label of a class gradient to one class a row; None for all classes."""
        self._require(Operation.CLASS_GRADIENT)
        if label is None:
            return None
        if isinstance(label, (int, np.integer)):
            # Without an array of n numbers: so far, n is only a number in a header.
            one = labels.one_per_row(np.array([label]), 1, self.config.nb_classes)
            return np.broadcast_to(one, (rows,))
        return labels.one_per_row(label, rows, self.config.nb_classes)

    def standardisation(self, mean: Any, std: Any) -> Standardisation:
        """Makes a caller's own standardisation, which replaces the server's in one call."""
        return Standardisation.of(mean, std, self.config.input_shape, self._float_dtype)

    # Operations on a block of rows; y and label as the prepare functions return them.

    def predict(
        self,
        x: Array,
        *,
        training_mode: bool = False,
        standardisation: Standardisation | None = None,
        labels_only: bool = False,
    ) -> Array:
        """Outputs ``(n, C)`` or ``(n, 1)``; with ``labels_only`` one-hot rows of the top class, ``(n, nb_classes)``."""
        with _owners_code("predict"):
            raw = self.model.predict(self.preprocessing(x, standardisation), training_mode=training_mode)
            self.output_shape, self.output_dtype = raw.shape[1:], raw.dtype
            outputs = postprocess(self.postprocessing, raw)
        if labels_only:
            return labels.top_class(outputs, self.config.nb_classes, 0.0 if self.model.output_kind == "logits" else 0.5)
        return outputs

    def answer(
        self, x: Array, kind: Answer, *, training_mode: bool = False, standardisation: Standardisation | None = None
    ) -> Array:
        """Further answers of predict, ``(n, ...)``: see `backend.OptionalOutputs`. Postprocessing applies to outputs alone.

        ART postprocesses the logits and the variance of a Gaussian process too, as if they were probabilities.
        """
        if kind not in self.answers:
            can = ", ".join(sorted(answer.value for answer in self.answers))
            raise Unsupported(f"this {self.config.backend} model ({type(self.model).__name__}) has no {kind.value}; it has {can}")
        if kind is Answer.OUTPUTS:
            return self.predict(x, training_mode=training_mode, standardisation=standardisation)
        with _owners_code(kind.value):
            compute = getattr(self._do, kind.value)
            return np.asarray(compute(self.preprocessing(x, standardisation), training_mode=training_mode))

    def loss(self, x: Array, y: Array, *, training_mode: bool = False, standardisation: Standardisation | None = None) -> Array:
        """The loss of each row, ``(n,)``."""
        self._require(Operation.LOSS)
        with _owners_code("loss"):
            inputs, y = self._with_labels(x, y, standardisation)
            return np.asarray(self._do.loss(inputs, y, training_mode=training_mode))

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """The loss of each row of outputs, ``(n,)``."""
        if not callable(getattr(self.model, "loss_from_predictions", None)):
            raise Unsupported(f"this {self.config.backend} model has no loss of predictions")
        with _owners_code("loss"):
            return np.asarray(self._do.loss_from_predictions(predictions, y))

    def loss_divisor(self, y: Array) -> float:
        """Divisor of a mean over the call's rows."""
        if not callable(getattr(self.model, "loss_divisor", None)):
            self._require(Operation.LOSS)
        return float(self._do.loss_divisor(y))

    def loss_gradient(
        self,
        x: Array,
        y: Array,
        *,
        divisor: float | Array | None = None,
        training_mode: bool = False,
        standardisation: Standardisation | None = None,
    ) -> Array:
        """Gradient of the model's own loss with respect to ``x``, in its shape.

        Args:
            x: A block of the call's rows.
            y: Their labels.
            divisor: `loss_divisor` of the whole call, or ``(n,)`` that of each row's call; None if this block is a whole call.
                Losses that sum ignore it.
            training_mode: If true, layers behave as in training.
            standardisation: Replaces the model's own.
        """
        self._require(Operation.LOSS_GRADIENT)
        with _owners_code("loss gradient"):
            inputs, y = self._with_labels(x, y, standardisation)
            gradient = self._do.loss_gradient(inputs, y, training_mode=training_mode)
            if self.model.loss_reduction == "mean":
                each = np.asarray(self._do.loss_divisor(y) if divisor is None else divisor, gradient.dtype)
                gradient /= each.reshape(each.shape + (1,) * (gradient.ndim - each.ndim))
            return self.preprocessing.gradient(x, gradient, standardisation)

    def class_gradient(
        self, x: Array, label: Array | None, *, training_mode: bool = False, standardisation: Standardisation | None = None
    ) -> Array:
        """Gradients of the class outputs: ``(n, C, *input_shape)``, or ``(n, 1, *input_shape)`` with one label a row."""
        self._require(Operation.CLASS_GRADIENT)
        with _owners_code("class gradient"):
            inputs = self.preprocessing(x, standardisation)
            gradient = self._do.class_gradient(inputs, label, training_mode=training_mode)
            return self.preprocessing.gradient(x, gradient, standardisation)

    def get_activations(
        self, x: Array, layer: str | int, *, training_mode: bool = False, standardisation: Standardisation | None = None
    ) -> Array:
        """Outputs of the layer, ``(n, ...)``."""
        self._require(Operation.GET_ACTIVATIONS)
        with _owners_code("activations"):
            return np.asarray(self._do.activations(self.preprocessing(x, standardisation), layer, training_mode=training_mode))

    def vjp(
        self,
        x: Array,
        cotangent: Array,
        *,
        layer: str | int | None = None,
        training_mode: bool = False,
        standardisation: Standardisation | None = None,
    ) -> Array:
        """The cotangent times the Jacobian of the outputs before postprocessing (or of a layer's), in the shape of ``x``."""
        self._require(Operation.VJP)
        if layer is None and cotangent.shape[1:] != self.output_shape:
            expected = ", ".join(map(str, self.output_shape))
            raise InvalidShape(f"cotangent has shape {cotangent.shape}; expected that of the outputs, (n, {expected})")
        with _owners_code("vector-Jacobian product"):
            gradient = self._do.vjp(self.preprocessing(x, standardisation), cotangent, layer, training_mode=training_mode)
            return self.preprocessing.gradient(x, gradient, standardisation)

    # Training.

    def fit(self, x: Array, y: Array, options: FitOptions) -> Iterator[FitProgress]:
        """Fits, one step of the iterator at a time. Closing the iterator early, or any error, rolls the model back.

        Args:
            x: ``(n, *input_shape)``; may be memory-mapped, batches are read from it one at a time.
            y: As `prepare_labels` returns it.
            options: Options of the training loop.
        """
        self._require(Operation.FIT)
        if options.batch_size < 1 or options.nb_epochs < 1:
            raise InvalidValue(f"batch_size {options.batch_size}, nb_epochs {options.nb_epochs}; expected at least 1 each")
        if Operation.FIT_BATCHES not in self.capabilities:
            return self._transaction(training.whole(self.model, x, y, self._for_fit))
        if self.preprocessing.has_fit_defences and not isinstance(x, np.memmap):
            # As in ART, defences see all of the data together. Of data beyond memory they see batches.
            with _owners_code("fit"):
                inputs, y = self._for_fit(x, y)
            return self._transaction(training.steps(self.model, inputs, y, options, lambda x, y: (x, y)))
        return self._transaction(training.steps(self.model, x, y, options, self._for_fit))

    def fit_batches(self, batches: Iterator[tuple[Array, Array]], training_mode: bool) -> Iterator[FitProgress]:
        """Trains on each batch as it arrives, one step of the iterator each. Otherwise as `fit`."""
        self._require(Operation.FIT_BATCHES)
        return self._transaction(training.batches(self.model, batches, training_mode, self._for_fit))

    def save(self, path: Path) -> None:
        """Writes the weights to a file. Raises OSError if the disk is full."""
        self._require(Operation.VERSIONS)
        self._do.save(path)

    def restore(self, path: Path, version: str) -> None:
        """Loads the weights from a file of `save`, all or none."""
        self._require(Operation.VERSIONS)
        self._keep_initial()
        before = self._do.snapshot()
        try:
            with _owners_code("restore"):
                self._do.restore(path)
        except BaseException as e:
            self._do.rollback(before)
            if isinstance(e, ModelConfigError):
                problem = e.problem.replace(str(path), f"version {version!r}")
                raise Unsupported(f"{problem}; the model is unchanged") from e
            raise
        self._version = version

    def reset(self) -> None:
        """Restores the weights that the model was loaded with."""
        self._require(Operation.VERSIONS)
        if self._initial is not None:
            self._do.rollback(self._initial)
        self._version = "initial"

    def untrained_clone(self) -> Estimator:
        """Makes an estimator of the same architecture that has not been fitted."""
        self._require(Operation.CLONE)
        with _owners_code("clone"):
            clone = Estimator(self._do.untrained_clone(), self.config, self.preprocessing, self.postprocessing)
        clone.output_shape, clone.output_dtype = self.output_shape, self.output_dtype
        return clone

    # Private.

    @property
    def _float_dtype(self) -> np.dtype[Any]:
        dtype = self.model.input_dtype
        return dtype if dtype.kind == "f" else np.dtype(np.float32)

    def _require(self, operation: Operation) -> None:
        if operation not in self.capabilities:
            can = ", ".join(sorted(o.value for o in self.capabilities))
            raise Unsupported(
                f"this {self.config.backend} model ({type(self.model).__name__}) has no {operation.value}; it has {can}"
            )

    def _with_labels(self, x: Array, y: Array, standardisation: Standardisation | None) -> tuple[Array, Array]:
        """Model inputs, and labels after the defences that may change them while predicting."""
        if not self.preprocessing.has_predict_defences:
            return self.preprocessing(x, standardisation), y
        inputs, rows = self.preprocessing.with_labels(x, self._as_rows(y), standardisation)
        return inputs, self.prepare_labels(rows, len(inputs))

    def _for_fit(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Model inputs and labels to train on, after the defences that apply to a fit."""
        if not self.preprocessing.has_fit_defences:
            return self.preprocessing.for_fit(x, y)
        inputs, rows = self.preprocessing.for_fit(x, self._as_rows(y))
        return inputs, self.prepare_labels(rows, len(inputs))

    def _as_rows(self, y: Array) -> Array:
        """Labels in the form that ART's defences take: one row each."""
        if self.config.task == "regression" or y.ndim == 2:
            return y
        return labels.one_hot(y, self.config.nb_classes, np.dtype(np.float32))

    def _transaction(self, steps: Iterator[FitProgress]) -> Iterator[FitProgress]:
        self._keep_initial()
        before = self._do.snapshot()
        try:
            with _owners_code("fit"):
                yield from steps
        except BaseException:
            self._do.rollback(before)
            raise
        self._fits += 1
        self._version = f"fit-{self._fits}"

    def _keep_initial(self) -> None:
        if self._initial is None and Operation.VERSIONS in self.capabilities:
            self._initial = self._do.snapshot()


def _rows_are_apart(model: Model, preprocessing: Preprocessing, postprocessing: Sequence[PostprocessingDefence]) -> bool:
    """True if rows are computed independently. Defences are the owner's code, and may look at several rows together."""
    alone = not preprocessing.has_predict_defences and not any(defence.apply_predict for defence in postprocessing)
    return alone and bool(getattr(model, "coalesces", True))


class _owners_code:  # noqa: N801, used as a function
    """Context that wraps exceptions of the owner's model, loss or defences in gradwire's; its own errors pass.

    A class instead of a generator: every call enters it, and a generator's 3 microseconds are noticeable in calls of one row.
    """

    __slots__ = ("_operation",)

    def __init__(self, operation: str) -> None:
        self._operation = operation

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or isinstance(error, BackendError) or not isinstance(error, Exception):
            return
        if isinstance(error, MemoryError):
            raise OutOfMemory(
                f"out of memory for this many rows in {self._operation}; send fewer, or set a smaller batch_size"
            ) from error
        raise ModelFailed(f"the model raised {type(error).__name__} in {self._operation}: {error}") from error
