"""scikit-learn: any classifier or regressor predicts and fits; logistic regression and support vector machines have gradients.

Columns of outputs are class indices 0 to ``nb_classes - 1``. Classes of a fitted model that are whole numbers in that range
are their own columns, so that a model fitted on some of the classes answers 0 (a logit of minus infinity) for the others;
classes of any other kind, strings say, take columns in the order of ``classes_``. `SklearnModel.fit` fits on indices.

What ``predict`` gives follows ART: ``predict_proba``, or one-hot rows of ``predict`` where there is none. The key ``output:
logits`` asks for log probabilities instead, and for the scores of a support vector machine. Gradients and losses of a
support vector machine are always those of its scores (see `sklearn_gradients`): labels have no gradient, and libsvm's
probabilities come from an iteration that stops early (0.002 off its own sigmoid for two classes of digits).

A fitted estimator is never changed: a fit takes a clone, so a snapshot is a reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.svm import SVC, LinearSVC, NuSVC
from sklearn.utils.validation import check_is_fitted

from gradwire.backends import sklearn_weights as weights
from gradwire.backends.backend import Array, Model, OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import InvalidLabel, InvalidLayer, InvalidShape, InvalidValue, ModelConfigError, Unsupported
from gradwire.backends.labels import one_hot
from gradwire.backends.sklearn_gradients import ClosedForm, kernel_svm, linear_svm, log_logistic, logistic

# By exact type: a subclass of the owner's may predict otherwise than the closed form.
_CLOSED_FORMS: dict[type, Callable[[Any], ClosedForm]] = {
    LogisticRegression: logistic,
    LogisticRegressionCV: logistic,
    LinearSVC: linear_svm,
    SVC: kernel_svm,
    NuSVC: kernel_svm,
}
_CLOSED_FORMS_OF_LOGITS = {**_CLOSED_FORMS, LogisticRegression: log_logistic, LogisticRegressionCV: log_logistic}


class Config(ModelConfig):
    """The keys of every model. ``weights`` holds a whole estimator: .skops, or .pkl or .joblib with ``trust_pickle``."""

    factory: ObjectRef
    """The owner's code; called without positional arguments, returns the estimator, fitted or not."""
    trust_types: tuple[str, ...] = ()
    """Full names of types that a .skops file may hold besides scikit-learn's harmless ones; its trees are not among those."""


def load(config: Config) -> Model:
    """Loads the estimator that the factory returns, or its fitted likeness from ``weights``.

    Raises:
        ModelConfigError: ``factory``, ``weights``, ``output``, ``input_shape``, ``nb_classes`` or ``device`` does not fit.
    """
    if config.device != "cpu":
        raise ModelConfigError("device", f"{config.device!r}; scikit-learn runs on the cpu")
    estimator = config.factory.build("factory")
    is_right = is_classifier if config.task == "classification" else is_regressor
    if not isinstance(estimator, BaseEstimator) or not is_right(estimator):
        raise ModelConfigError(
            "factory", f"gave {type(estimator).__name__}; task {config.task} needs a scikit-learn estimator of it"
        )
    if config.weights is not None:
        estimator = _same_type(estimator, weights.read(config.weights, config.trust_pickle, config.trust_types))
    if config.task == "regression":
        return Regressor(estimator, config)
    if _closed_form(estimator, config) is None:
        return Classifier(estimator, config)
    if isinstance(estimator, LogisticRegression) or config.output == "logits":
        return SmoothClassifier(estimator, config)
    return GradientClassifier(estimator, config)


@dataclass(frozen=True)
class State:
    """All that a fit changes: the estimator, and what follows from it.

    Attributes:
        estimator: Never written to.
        fitted: Whether it can predict.
        columns: int64 ``(k,)``, the output column of each fitted class.
        form: Where gradients come from; None without gradients, or before the first fit.
    """

    estimator: Any
    fitted: bool
    columns: Array
    form: ClosedForm | None


class SklearnModel:
    """What classifiers and regressors share: everything but their outputs."""

    input_dtype = np.dtype(np.float64)
    device = "cpu"
    may_wait = False
    loss_reduction: Literal["mean", "sum"] = "sum"
    loss_name = ""

    def __init__(self, estimator: Any, config: Config) -> None:
        self.layer_names: list[str] = []
        self.notes: list[str] = []
        self.output_kind: OutputKind = _output_kind(estimator, config)
        self._config = config
        self._state = _state_of(estimator, config)

    def fit(self, x: Array, y: Array) -> None:
        """Fits a clone of the estimator on all rows, and takes it if that succeeds.

        Args:
            x: ``(n, *input_shape)``.
            y: int64 indices ``(n,)`` or one-hot rows ``(n, C)``; for regression floating ``(n,)`` or ``(n, outputs)``.

        Raises:
            InvalidLabel: A row of labels is soft.
        """
        if self._config.task == "classification":
            y = _hard(y)
        elif y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        estimator = clone(self._state.estimator)
        estimator.fit(x.reshape(len(x), -1), y)
        self._state = _state_of(estimator, self._config)

    def snapshot(self) -> State:
        """The estimator as it is."""
        return self._state

    def rollback(self, snapshot: State) -> None:
        """Takes the estimator that was."""
        self._state = snapshot

    def save(self, path: Path) -> None:
        """Writes the estimator to a .skops file. Raises Unsupported if it holds types that `restore` would not trust."""
        weights.save(self._state.estimator, path, self._config.trust_types)

    def restore(self, path: Path) -> None:
        """Takes the estimator from a .skops file. Raises ModelConfigError if it is not one of the same type and sizes."""
        before = self._state.estimator
        estimator = _same_type(before, weights.read_saved(path, self._config.trust_types))
        alike = _closed_form(estimator, self._config) == _closed_form(before, self._config)
        if not alike or self.output_kind not in ("labels", _output_kind(estimator, self._config)):
            raise ModelConfigError("weights", f"{path} holds a {type(before).__name__} that cannot give what this one does")
        self._state = _state_of(estimator, self._config)

    def fresh(self) -> SklearnModel:
        """A model with the same hyperparameters, not fitted."""
        return type(self)(clone(self._state.estimator), self._config)

    @property
    def fitted(self) -> bool:
        """Whether there is anything to predict with yet."""
        return self._state.fitted

    def _for(self, x: Array) -> tuple[State, Array]:
        """What to answer from, and rows ``(n, d)``."""
        state = self._fitted_state()
        rows = x.reshape(len(x), -1)
        if rows.shape[1] != (expected := getattr(state.estimator, "n_features_in_", rows.shape[1])):
            raise InvalidShape(f"rows of shape {x.shape[1:]} have {rows.shape[1]} features; the model was fitted on {expected}")
        return state, rows

    def _fitted_state(self) -> State:
        if not self._state.fitted:
            raise Unsupported(f"{type(self._state.estimator).__name__} has not been fitted; call fit first")
        return self._state


class Regressor(SklearnModel):
    """Predicts numbers ``(n, outputs)``; the loss is the squared error, averaged over outputs."""

    loss_name = "squared error"
    loss_reduction: Literal["mean", "sum"] = "mean"

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """``(n, outputs)``."""
        state, rows = self._for(x)
        return np.asarray(state.estimator.predict(rows), np.float64).reshape(len(x), -1)

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """``(n,)``."""
        return self.loss_from_predictions(self.predict(x, training_mode=training_mode), y)

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """``(n,)``: what ``sklearn.metrics.mean_squared_error`` averages over rows."""
        expected = y.reshape(len(y), -1)
        if expected.shape != predictions.shape:
            raise InvalidLabel(f"targets have shape {y.shape}; expected one number for each output: {predictions.shape}")
        loss: Array = ((predictions - expected) ** 2).mean(axis=1)
        return loss

    def loss_divisor(self, y: Array) -> float:
        """The number of rows."""
        return float(len(y))


class Classifier(SklearnModel):
    """Predicts probabilities, their logarithms, or one-hot labels, ``(n, C)``."""

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """``(n, C)``."""
        state, rows = self._for(x)
        if self.output_kind == "labels":
            classes = np.asarray(state.estimator.classes_)
            order = np.argsort(classes)
            found = order[np.searchsorted(classes, state.estimator.predict(rows), sorter=order)]
            return one_hot(state.columns[found], self._config.nb_classes, self.input_dtype)
        if self.output_kind == "probabilities":
            return self._by_column(state, state.estimator.predict_proba(rows))
        with np.errstate(divide="ignore"):  # the logarithm of a probability that is 0
            return self._by_column(state, state.estimator.predict_log_proba(rows))

    def _by_column(self, state: State, by_class: Array) -> Array:
        """Outputs ``(n, k)`` of the fitted classes as ``(n, C)``."""
        if np.array_equal(state.columns, np.arange(self._config.nb_classes)):
            return np.asarray(by_class, np.float64)
        outputs = np.full((len(by_class), self._config.nb_classes), -np.inf if self.output_kind == "logits" else 0.0)
        outputs[:, state.columns] = by_class
        return outputs


class GradientClassifier(Classifier):
    """A classifier with gradients of its scores, whatever ``predict`` gives."""

    def __init__(self, estimator: Any, config: Config) -> None:
        super().__init__(estimator, config)
        if not isinstance(estimator, LogisticRegression):
            self.loss_name = "negated score of the label"
            given = "scores" if self.output_kind == "logits" else self.output_kind
            self.notes.append(
                f"losses and class gradients are of the scores (decisions summed for each class); predict gives {given}"
            )
            return
        self.loss_name = "cross-entropy"
        if estimator.class_weight == "balanced":
            self.notes.append("the loss weighs all classes alike: a fitted model does not know its balanced class weights")

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """``(n,)``; see `sklearn_gradients`. Raises InvalidLabel for a class that the model was not fitted on."""
        state, form, rows = self._differentiable(x)
        return form.loss(form.loss_terms(rows), self._targets(state, y))

    def loss_divisor(self, y: Array) -> float:
        """The number of rows. The model's own loss is summed, so that each row's gradient is its own, as in ART."""
        return float(len(y))

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """In the shape of ``x``, float64. Raises as `loss`."""
        state, form, rows = self._differentiable(x)
        return form.loss_gradient(rows, self._targets(state, y)).reshape(x.shape)

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """``(n, C, *input_shape)``, or ``(n, 1, *input_shape)`` for one label a row; 0 for classes that were not fitted."""
        state, form, rows = self._differentiable(x)
        nb_classes = self._config.nb_classes
        if label is not None:
            chosen = one_hot(label, nb_classes, self.input_dtype)[:, state.columns]
            return form.outputs.vjp(rows, chosen).reshape(len(x), 1, *x.shape[1:])
        gradients = np.ascontiguousarray(form.outputs.jacobian(rows))
        if not np.array_equal(state.columns, np.arange(nb_classes)):
            by_class, gradients = gradients, np.zeros((len(x), nb_classes, rows.shape[1]))
            gradients[:, state.columns] = by_class
        return gradients.reshape(len(x), nb_classes, *x.shape[1:])

    def _differentiable(self, x: Array) -> tuple[State, ClosedForm, Array]:
        state, rows = self._for(x)
        if not np.isfinite(rows).all():
            raise InvalidValue("inputs hold NaN or infinity; expected finite numbers")
        assert state.form is not None
        return state, state.form, rows

    def _targets(self, state: State, y: Array) -> Array:
        """Labels as weights of the fitted classes, ``(n, k)``."""
        rows = one_hot(y, self._config.nb_classes, self.input_dtype) if y.ndim == 1 else y
        unknown = np.setdiff1d(np.flatnonzero(rows.any(axis=0)), state.columns)
        if unknown.size:
            raise InvalidLabel(f"the model was not fitted on class {unknown[0]}; it knows {state.columns.tolist()}")
        return rows[:, state.columns].astype(np.float64, copy=False)


class SmoothClassifier(GradientClassifier):
    """A classifier whose outputs have gradients: logistic regression, and support vector machines that give scores."""

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """``(n, C)``: probabilities, log probabilities, or scores."""
        state, form, rows = self._differentiable(x)
        return self._by_column(state, form.outputs(rows))

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """``(n,)`` for outputs ``(n, C)``."""
        state = self._fitted_state()
        assert state.form is not None
        terms = state.form.terms_of_outputs(predictions[:, state.columns])
        return state.form.loss(terms, self._targets(state, y))

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        """The cotangent ``(n, C)`` times the Jacobian of the outputs, in the shape of ``x``."""
        if layer is not None:
            raise InvalidLayer(f"layer {layer!r}: scikit-learn models have no layers; leave it out for the outputs")
        state, form, rows = self._differentiable(x)
        return form.outputs.vjp(rows, cotangent[:, state.columns]).reshape(x.shape)


def _output_kind(estimator: Any, config: Config) -> OutputKind:
    if config.task == "regression":
        if config.output not in (None, "values"):
            raise ModelConfigError("output", f"{config.output!r}; a regressor gives values")
        return "values"
    probable = hasattr(estimator, "predict_proba")
    if config.output is None:
        return "probabilities" if probable else "labels"
    if config.output == "probabilities" and probable:
        return "probabilities"
    if config.output == "logits" and (hasattr(estimator, "predict_log_proba") or _closed_form(estimator, config)):
        return "logits"
    raise ModelConfigError("output", f"{type(estimator).__name__} does not give {config.output}; leave the key out")


def _closed_form(estimator: Any, config: Config) -> Callable[[Any], ClosedForm] | None:
    """How to take gradients of an estimator like this one, fitted or not."""
    if isinstance(estimator, SVC | NuSVC) and estimator.kernel not in ("linear", "poly", "rbf", "sigmoid"):
        return None  # the owner's function
    if isinstance(estimator, LogisticRegression):
        # Before scikit-learn 1.8, one-vs-rest could be asked for, and liblinear knew nothing else.
        if getattr(estimator, "multi_class", "deprecated") not in ("deprecated", "auto"):
            return None
        if estimator.solver == "liblinear" and config.nb_classes > 2:
            return None
    forms = _CLOSED_FORMS_OF_LOGITS if config.output == "logits" else _CLOSED_FORMS
    return forms.get(type(estimator))


def _state_of(estimator: Any, config: Config) -> State:
    """Raises ModelConfigError if a fitted estimator has other sizes than the configuration says."""
    none = np.empty(0, np.int64)
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return State(estimator, False, none, None)
    features = getattr(estimator, "n_features_in_", None)
    if -1 not in config.input_shape and features not in (None, math.prod(config.input_shape)):
        raise ModelConfigError("input_shape", f"{list(config.input_shape)}; the estimator was fitted on {features} features")
    if config.task == "regression":
        return State(estimator, True, none, None)
    classes = getattr(estimator, "classes_", None)
    if not isinstance(classes, np.ndarray) or len(classes) > config.nb_classes:
        raise ModelConfigError("nb_classes", f"{config.nb_classes}; the estimator was fitted on the classes {classes}")
    build = _closed_form(estimator, config)
    form = build(estimator) if build else None
    return State(estimator, True, _columns(classes, config.nb_classes), form)


def _columns(classes: Array, nb_classes: int) -> Array:
    if classes.dtype.kind in "iuf":
        columns = classes.astype(np.int64)
        if (columns == classes).all() and columns.min() >= 0 and columns.max() < nb_classes:
            return columns
    return np.arange(len(classes))


def _hard(y: Array) -> Array:
    if y.ndim == 1:
        return y
    indices: Array = y.argmax(axis=1)
    soft = (y != one_hot(indices, y.shape[1], np.dtype(np.float64))).any(axis=1)
    if soft.any():
        raise InvalidLabel(f"row {soft.argmax()} is a soft label, {y[soft][0]}; scikit-learn fits on indices or one-hot rows")
    return indices


def _same_type(expected: Any, found: Any) -> Any:
    if type(found) is not type(expected):
        raise ModelConfigError("weights", f"hold a {type(found).__name__}; the factory returns a {type(expected).__name__}")
    return found
