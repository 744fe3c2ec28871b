"""scikit-learn models: any classifier or regressor predicts and fits; those with a closed form have gradients.

The closed forms are listed in `closed_forms`. Columns of outputs are class indices 0 to ``nb_classes - 1``. Classes of a
fitted model that are whole numbers in that range are their own columns, so that a model fitted on some of the classes answers
0 (a logit of minus infinity) for the others; classes of any other kind, such as strings, take columns in the order of
``classes_``. `SklearnModel.fit` fits on indices.

As in ART, outputs are those of ``predict_proba``, or one-hot rows of ``predict`` if the estimator has no probabilities. With
the key ``output: logits``, outputs are log probabilities instead, or the scores of estimators that only score, such as support
vector machines. Gradients and losses of these are always those of the scores (see `gradients`): labels have no gradient, and
libsvm's probabilities come from an iteration that stops early (0.002 off its own sigmoid for two classes of digits).

A fitted estimator is never changed: a fit works on a clone, so that a snapshot is a reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier

from gradwire.backends.backend import Array
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import InvalidLabel, InvalidShape, InvalidValue, ModelConfigError, Unsupported
from gradwire.backends.labels import one_hot
from gradwire.backends.sklearn import closed_forms, weights
from gradwire.backends.sklearn.gradients import ClosedForm, SquaredError, jacobian
from gradwire.backends.sklearn.state import State, kind_of, state_of


class Config(ModelConfig):
    """Keys of a scikit-learn model. ``weights`` is a whole estimator: .skops, or .pkl or .joblib with ``trust_pickle``."""

    factory: ObjectRef
    """The owner's code; called without positional arguments, returns the estimator, fitted or not."""
    trust_types: tuple[str, ...] = ()
    """Full names of types that a .skops file may hold besides scikit-learn's harmless ones; its trees are not among those."""


def load(config: Config) -> SklearnModel:
    """Loads the estimator that the factory returns, or a fitted one of its type from ``weights``.

    Raises:
        ModelConfigError: ``factory``, ``weights``, ``output``, ``input_shape``, ``nb_classes`` or ``device`` is wrong.
    """
    if config.device != "cpu":
        raise ModelConfigError("device", f"{config.device!r}; scikit-learn runs on the cpu")
    estimator = config.factory.build("factory")
    is_right = is_classifier if config.task == "classification" else is_regressor
    if not isinstance(estimator, BaseEstimator) or not is_right(estimator):
        raise ModelConfigError(
            "factory", f"returned {type(estimator).__name__}; task {config.task} needs a scikit-learn estimator for it"
        )
    if isinstance(estimator, (ClassifierChain, MultiOutputClassifier)):
        raise ModelConfigError(
            "factory", f"returned {type(estimator).__name__}, which gives a row several labels; expected one class a row"
        )
    if isinstance(estimator, closed_forms.SEARCHES) and not estimator.refit:
        raise ModelConfigError("factory", f"returned {type(estimator).__name__} with refit=False, which keeps no model; set refit")
    if config.weights is not None:
        estimator = _same_type(estimator, weights.read(config.weights, config.trust_pickle, config.trust_types))
    return (Classifier if config.task == "classification" else Regressor)(estimator, config)


class SklearnModel(ABC):
    """Base of classifiers and regressors: everything but their outputs and labels.

    An operation that an estimator does not allow is None on the instance: all gradients without a closed form, and products
    with the Jacobian of outputs if ``predict`` returns other values than those with gradients.

    Args:
        estimator: Fitted or not; it is not written to.
        config: The model's configuration.
    """

    input_dtype = np.dtype(np.float64)
    device = "cpu"
    may_wait = False
    loss_reduction: Literal["mean", "sum"]
    loss_name: str
    notes: list[str]

    def __init__(self, estimator: Any, config: Config) -> None:
        self._config = config
        self._kind = kind_of(estimator, config)
        self.output_kind = self._kind.outputs
        self._take(state_of(estimator, config))
        # True if class gradients are gradients of predict's outputs.
        self._smooth = self._kind.gradients_of not in (None, "scores") or self._kind[:2] == ("logits", "scores")
        for operation in self._missing():
            setattr(self, operation, None)

    @abstractmethod
    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Outputs ``(n, C)``."""

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The loss of each row, ``(n,)``; see `gradients`. Raises InvalidLabel for a class that is not fitted."""
        state, form, rows = self._differentiable(x)
        terms = form.terms(rows)
        return form.loss(terms, self._targets(state, y, terms.shape[1]))

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """The loss of each row of outputs ``(n, C)``, ``(n,)``."""
        form = self._form(state := self._fitted_state())
        terms = form.terms_of_outputs(self._of_classes(state, predictions))
        return form.loss(terms, self._targets(state, y, terms.shape[1]))

    def loss_divisor(self, y: Array) -> float:
        """Number of rows."""
        return float(len(y))

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """Gradient of the summed loss in the shape of ``x``, float64. Raises as `loss`."""
        state, form, rows = self._differentiable(x)
        terms, pull = form.terms.vjp(rows)
        return pull(form.loss.cotangent(terms, self._targets(state, y, terms.shape[1]))).reshape(x.shape)

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """Class gradients ``(n, C, *input_shape)``, or ``(n, 1, *input_shape)`` for one label a row; 0 for unfitted classes."""
        state, form, rows = self._differentiable(x)
        outputs, pull = form.outputs.vjp(rows)
        if label is not None:
            return pull(self._of_labels(state, label, outputs.shape[1])).reshape(len(x), 1, *x.shape[1:])
        gradients = self._by_column(state, jacobian(outputs, pull), 0.0)
        return gradients.reshape(*gradients.shape[:2], *x.shape[1:])

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        """Outputs of a layer after its activation function, ``(n, units)``; the last layer is ``predict``'s outputs."""
        _, form, rows = self._differentiable(x)
        function = form.layer(layer)
        return self.predict(x, training_mode=training_mode) if function is form.outputs else function(rows)

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        """The cotangent ``(n, C)`` times the Jacobian of the outputs (or of a layer's), in the shape of ``x``."""
        state, form, rows = self._differentiable(x)
        function = form.outputs if layer is None else form.layer(layer)
        activations, pull = function.vjp(rows)
        by_column = function is form.outputs and not state.all_columns
        expected = (len(x), self._config.nb_classes if by_column else activations.shape[1])
        if cotangent.shape != expected:
            raise InvalidShape(f"cotangent has shape {cotangent.shape}; expected {expected}, the outputs of layer {layer!r}")
        return pull(cotangent[:, state.columns] if by_column else cotangent).reshape(x.shape)

    def fit(self, x: Array, y: Array) -> None:
        """Fits a clone of the estimator on all rows, and replaces the estimator with it on success.

        Args:
            x: ``(n, *input_shape)``.
            y: int64 indices ``(n,)`` or one-hot rows ``(n, C)``; for regression floating ``(n,)`` or ``(n, outputs)``.

        Raises:
            InvalidLabel: A row of labels is soft.
            Unsupported: A search found an estimator of another kind than this model.
        """
        if self._config.task == "classification":
            y = _hard(y)
        elif y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        estimator = clone(self._state.estimator)
        estimator.fit(x.reshape(len(x), -1), y)
        if not self._can_become(estimator):
            raise Unsupported(
                f"the best estimator found is {closed_forms.path(estimator)}, which lacks outputs or gradients of the model: "
                f"{', '.join(filter(None, self._kind[:2]))}"
            )
        self._take(state_of(estimator, self._config))

    def snapshot(self) -> State:
        """The current estimator and its state."""
        return self._state

    def rollback(self, snapshot: State) -> None:
        """Returns to the estimator of ``snapshot``."""
        self._take(snapshot)

    def save(self, path: Path) -> None:
        """Writes the estimator to a .skops file. Raises Unsupported if it holds types that `restore` would not trust."""
        weights.save(self._state.estimator, path, self._config.trust_types)

    def restore(self, path: Path) -> None:
        """Loads the estimator from a .skops file. Raises ModelConfigError if its type or sizes differ."""
        before = self._state.estimator
        estimator = _same_type(before, weights.read_saved(path, self._config.trust_types))
        if not self._can_become(estimator):
            raise ModelConfigError("weights", f"{path} holds a {type(before).__name__} without this model's outputs or gradients")
        self._take(state_of(estimator, self._config))

    def untrained_clone(self) -> SklearnModel:
        """Makes a model with the same hyperparameters that has not been fitted."""
        return type(self)(clone(self._state.estimator), self._config)

    @property
    def fitted(self) -> bool:
        """True once the estimator can predict."""
        return self._state.fitted

    # Private.

    def _take(self, state: State) -> None:
        self._state = state
        self.layer_names = list(state.layer_names)

    def _can_become(self, estimator: Any) -> bool:
        kind = kind_of(estimator, self._config)
        # Any classifier predicts labels.
        return kind == self._kind or (self.output_kind == "labels" and kind[1:] == self._kind[1:])

    def _missing(self) -> list[str]:
        operations = []
        if self._kind.gradients_of is None:
            operations += ["loss_gradient", "class_gradient"]
        if not self._smooth:
            operations += ["loss_from_predictions", "vjp"]
        if not self._kind.layered:
            operations += ["activations"]
        return operations

    def _note_on_gradients(self) -> str:
        state = self._state
        if state.why_not:
            return f"no gradients: {state.why_not}; {closed_forms.instead(state.estimator)}"
        return f"gradients are exact, in closed form, through {closed_forms.path(state.estimator)}"

    def _for(self, x: Array) -> tuple[State, Array]:
        """The fitted state, and rows ``(n, d)``."""
        state = self._fitted_state()
        rows = x.reshape(len(x), -1)
        if rows.shape[1] != (expected := getattr(state.estimator, "n_features_in_", rows.shape[1])):
            raise InvalidShape(f"rows of shape {x.shape[1:]} have {rows.shape[1]} features; the model was fitted on {expected}")
        return state, rows

    def _fitted_state(self) -> State:
        if not self._state.fitted:
            raise Unsupported(f"{type(self._state.estimator).__name__} has not been fitted; call fit first")
        return self._state

    def _differentiable(self, x: Array) -> tuple[State, ClosedForm, Array]:
        state, rows = self._for(x)
        if not np.isfinite(rows).all():
            raise InvalidValue("inputs hold NaN or infinity; expected finite numbers")
        return state, self._form(state), rows

    @staticmethod
    def _form(state: State) -> ClosedForm:
        assert state.form is not None, "operations of a closed form are None on a model without one"
        return state.form

    def _by_column(self, state: State, by_class: Array, other: float) -> Array:
        """Expands numbers ``(n, k, ...)`` of the fitted classes to ``(n, C, ...)``."""
        if state.all_columns:
            return np.asarray(by_class, np.float64)
        columns = np.full((len(by_class), self._config.nb_classes, *by_class.shape[2:]), other)
        columns[:, state.columns] = by_class
        return columns

    def _of_classes(self, state: State, columns: Array) -> Array:
        """Selects the columns of the fitted classes, ``(n, k)``, from ``(n, C)``."""
        return (columns if state.all_columns else columns[:, state.columns]).astype(np.float64, copy=False)

    @abstractmethod
    def _targets(self, state: State, y: Array, outputs: int) -> Array:
        """Labels as targets of the terms, ``(n, k)``."""

    @abstractmethod
    def _of_labels(self, state: State, label: Array, outputs: int) -> Array:
        """Labels as one-hot rows ``(n, k)``."""


class Regressor(SklearnModel):
    """Regressor with outputs ``(n, outputs)``; the loss is the squared error, averaged over outputs."""

    loss_name = "squared error"
    loss_reduction: Literal["mean", "sum"] = "mean"

    def __init__(self, estimator: Any, config: Config) -> None:
        super().__init__(estimator, config)
        self.notes = [self._note_on_gradients()]

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Values ``(n, outputs)``."""
        if self._kind.gradients_of is not None:
            _, form, rows = self._differentiable(x)
            return form.outputs(rows)
        state, rows = self._for(x)
        return np.asarray(state.estimator.predict(rows), np.float64).reshape(len(x), -1)

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """Squared error of each row, ``(n,)``."""
        return self._squared_error(self.predict(x, training_mode=training_mode), y)

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """Squared error of each row, ``(n,)``, whose mean is ``sklearn.metrics.mean_squared_error``."""
        return self._squared_error(predictions, y)

    def _squared_error(self, predictions: Array, y: Array) -> Array:
        return SquaredError()(predictions, self._targets(self._state, y, predictions.shape[1]))

    def _missing(self) -> list[str]:
        # Any regressor has a loss, which is a function of its outputs.
        return [operation for operation in super()._missing() if operation != "loss_from_predictions"]

    def _targets(self, state: State, y: Array, outputs: int) -> Array:
        targets = y.reshape(len(y), -1)
        if targets.shape[1] != outputs:
            raise InvalidLabel(f"targets have shape {y.shape}; expected one number for each output: ({len(y)}, {outputs})")
        return targets

    def _of_labels(self, state: State, label: Array, outputs: int) -> Array:
        if label.max() >= outputs:
            raise InvalidLabel(f"label {label.max()} is out of range; the model has {outputs} output(s), counted from 0")
        return one_hot(label, outputs, self.input_dtype)


class Classifier(SklearnModel):
    """Classifier with probabilities, their logarithms, scores, or one-hot labels as outputs, ``(n, C)``.

    The loss is summed over rows, so that each row's gradient is its own, as in ART.
    """

    loss_reduction: Literal["mean", "sum"] = "sum"

    def __init__(self, estimator: Any, config: Config) -> None:
        super().__init__(estimator, config)
        self.loss_name = {"softmax": "cross-entropy", "scores": "negated score of the label"}.get(self._kind.gradients_of or "", "")
        self.notes = []
        if self._kind.gradients_of == "scores":
            given = "scores" if self.output_kind == "logits" else self.output_kind
            self.notes.append(
                f"losses and class gradients are of the scores (decisions summed for each class); predict gives {given}"
            )
        self.notes.append(self._note_on_gradients())
        if self._kind.gradients_of == "softmax" and closed_forms.is_balanced(estimator):
            self.notes.append("the loss weighs all classes alike: a fitted model does not keep its balanced class weights")

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Outputs ``(n, C)``."""
        other = -np.inf if self.output_kind == "logits" else 0.0
        if self._smooth:
            state, form, rows = self._differentiable(x)
            return self._by_column(state, form.outputs(rows), other)
        state, rows = self._for(x)
        if self.output_kind == "labels":
            classes = np.asarray(state.estimator.classes_)
            order = np.argsort(classes)
            indices = order[np.searchsorted(classes, state.estimator.predict(rows), sorter=order)]
            return one_hot(state.columns[indices], self._config.nb_classes, self.input_dtype)
        if self.output_kind == "probabilities":
            return self._by_column(state, state.estimator.predict_proba(rows), other)
        with np.errstate(divide="ignore"):  # the logarithm of a probability that is 0
            return self._by_column(state, state.estimator.predict_log_proba(rows), other)

    def _missing(self) -> list[str]:
        operations = super()._missing()
        return operations if self._kind.gradients_of else [*operations, "loss", "loss_divisor"]

    def _targets(self, state: State, y: Array, outputs: int) -> Array:
        rows = one_hot(y, self._config.nb_classes, self.input_dtype) if y.ndim == 1 else y
        if not state.all_columns:
            unknown = np.setdiff1d(np.flatnonzero(rows.any(axis=0)), state.columns)
            if unknown.size:
                raise InvalidLabel(f"the model was not fitted on class {unknown[0]}; its classes are {state.columns.tolist()}")
        return self._of_classes(state, rows)

    def _of_labels(self, state: State, label: Array, outputs: int) -> Array:
        return self._of_classes(state, one_hot(label, self._config.nb_classes, self.input_dtype))


def _hard(y: Array) -> Array:
    if y.ndim == 1:
        return y
    indices: Array = y.argmax(axis=1)
    soft = (y != one_hot(indices, y.shape[1], np.dtype(np.float64))).any(axis=1)
    if soft.any():
        raise InvalidLabel(f"row {soft.argmax()} is a soft label, {y[soft][0]}; scikit-learn fits on indices or one-hot rows")
    return indices


def _same_type(expected: Any, read: Any) -> Any:
    if type(read) is not type(expected):
        raise ModelConfigError("weights", f"hold a {type(read).__name__}; the factory returns a {type(expected).__name__}")
    return read
