"""State of a scikit-learn model: the fitted estimator, and the columns and closed form derived from it.

A fitted estimator is never written to, so that a state can be kept and restored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import ModelConfigError
from gradwire.backends.sklearn import closed_forms
from gradwire.backends.sklearn.gradients import ClosedForm


class Kind(NamedTuple):
    """Properties of a model that no fit changes.

    Attributes:
        outputs: Kind of predict's outputs.
        gradients_of: Kind of the function that gradients are taken of: see `closed_forms.Rule`; None without gradients.
        layered: True if the model has layers.
    """

    outputs: OutputKind
    gradients_of: Literal["softmax", "scores", "values"] | None
    layered: bool


@dataclass(frozen=True)
class State:
    """A fitted estimator, or one to be fitted.

    Attributes:
        estimator: The estimator, which is never written to.
        fitted: True if it can predict.
        columns: int64 ``(k,)``, the output column of each fitted class.
        all_columns: True if ``columns`` are all columns, in order.
        form: Closed form of gradients; None without gradients, or before the first fit.
        layer_names: Names of the layers in the order of their indices.
        why_not: Reason for having no gradients, as the end of a sentence; empty if the model has gradients.
    """

    estimator: Any
    fitted: bool
    columns: Array
    all_columns: bool
    form: ClosedForm | None
    layer_names: tuple[str, ...]
    why_not: str


def kind_of(estimator: Any, config: ModelConfig) -> Kind:
    """Kind of an estimator, fitted or not. Raises ModelConfigError if the configuration asks for another output."""
    rule = closed_forms.rule_of(estimator, config.nb_classes)
    if isinstance(rule, str):
        return Kind(_output_kind(estimator, config, False), None, False)
    return Kind(_output_kind(estimator, config, True), rule.kind, bool(closed_forms.layer_names(estimator, rule)))


def state_of(estimator: Any, config: ModelConfig) -> State:
    """State of an estimator. Raises ModelConfigError if its sizes differ from the configuration's."""
    rule = closed_forms.rule_of(estimator, config.nb_classes)
    names, why_not = ((), rule) if isinstance(rule, str) else (tuple(closed_forms.layer_names(estimator, rule)), "")
    if not _is_fitted(estimator):
        return State(estimator, False, np.empty(0, np.int64), False, None, names, why_not)
    _check_features(estimator, config)
    columns, all_columns = np.empty(0, np.int64), True
    if config.task == "classification":
        columns = _columns(estimator, config.nb_classes)
        all_columns = np.array_equal(columns, np.arange(config.nb_classes))
    form = None if isinstance(rule, str) else closed_forms.form_of(estimator, rule, config.output == "logits")
    return State(estimator, True, columns, all_columns, form, names, why_not)


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def _output_kind(estimator: Any, config: ModelConfig, has_scores: bool) -> OutputKind:
    if config.task == "regression":
        if config.output not in (None, "values"):
            raise ModelConfigError("output", f"{config.output!r}; a regressor gives values")
        return "values"
    probable = hasattr(estimator, "predict_proba")
    if config.output is None:
        return "probabilities" if probable else "labels"
    if config.output == "probabilities" and probable:
        return "probabilities"
    if config.output == "logits" and (has_scores or hasattr(estimator, "predict_log_proba")):
        return "logits"
    raise ModelConfigError("output", f"{type(estimator).__name__} does not give {config.output}; leave the key out")


def _check_features(estimator: Any, config: ModelConfig) -> None:
    features = getattr(estimator, "n_features_in_", None)
    if -1 not in config.input_shape and features not in (None, math.prod(config.input_shape)):
        raise ModelConfigError("input_shape", f"{list(config.input_shape)}; the estimator was fitted on {features} features")


def _columns(estimator: Any, nb_classes: int) -> Array:
    classes = getattr(estimator, "classes_", None)
    if not isinstance(classes, np.ndarray) or len(classes) > nb_classes:
        raise ModelConfigError("nb_classes", f"{nb_classes}; the estimator was fitted on the classes {classes}")
    if classes.dtype.kind in "iuf":
        columns = classes.astype(np.int64)
        if (columns == classes).all() and columns.min() >= 0 and columns.max() < nb_classes:
            return columns
    return np.arange(len(classes))
