"""Table of the estimators that have gradients in closed form, and the reasons for others.

Estimators are looked up by exact type: an owner's subclass may predict otherwise. Pipelines and searches are resolved to
their last step, behind its transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from sklearn import discriminant_analysis, dummy, ensemble, kernel_ridge, linear_model, naive_bayes, neighbors, neural_network
from sklearn.base import is_classifier
from sklearn.cross_decomposition import CCA, PLSCanonical, PLSRegression
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC, NuSVR
from sklearn.tree import BaseDecisionTree

from gradwire.backends.backend import Array
from gradwire.backends.sklearn import densities, gradients, kernels, linear, perceptrons, scalers
from gradwire.backends.sklearn.gradients import ClosedForm, Differentiable, chain

SEARCHES = (GridSearchCV, RandomizedSearchCV)


@dataclass(frozen=True)
class Rule:
    """Closed form of one type of estimators.

    Attributes:
        kind: Result of ``function``: scores whose softmax are the probabilities, scores without probabilities, or values.
        function: Makes the function of the fitted last step.
        layer_names: Lists the layers of the last step, fitted or not, the output last.
        hidden_layers: Makes the functions of the fitted last step's hidden layers.
    """

    kind: Literal["softmax", "scores", "values"]
    function: Callable[[Any], Differentiable]
    layer_names: Callable[[Any], list[str]] = lambda model: []
    hidden_layers: Callable[[Any], list[Differentiable]] = lambda model: []


def rule_of(estimator: Any, nb_classes: int) -> Rule | str:
    """The rule for an estimator, fitted or not; or the reason for having no gradients, as the end of a sentence."""
    transformers, last = _steps(estimator)
    for transformer in transformers:
        if not scalers.is_differentiable(transformer):
            return f"{_name(transformer)}, a step of the pipeline, has no gradient in closed form here"
    make = _RULES.get(type(last))
    rule = make if make is None or isinstance(make, Rule) else make(last, nb_classes)
    return _why_not(last) if rule is None else rule


def form_of(estimator: Any, rule: Rule, logits: bool) -> ClosedForm:
    """The closed form of a fitted estimator.

    Args:
        estimator: The estimator.
        rule: Its rule, from `rule_of`.
        logits: If true, outputs are log probabilities instead of probabilities.
    """
    transformers, last = _steps(estimator)
    before = [scalers.function(transformer) for transformer in transformers]
    function = chain(*before, rule.function(last))
    if rule.kind == "values":
        form = gradients.of_values(function)
    elif rule.kind == "scores":
        form = gradients.of_scores(function, len(last.classes_))
    elif logits:
        form = gradients.of_log_probabilities(function, _class_weight(last))
    else:
        form = gradients.of_probabilities(function, _class_weight(last))
    layers = [*(chain(*before, layer) for layer in rule.hidden_layers(last)), form.outputs]
    return replace(form, layers=dict(zip(rule.layer_names(last), layers, strict=False)))


def layer_names(estimator: Any, rule: Rule) -> list[str]:
    """The layers of an estimator, fitted or not."""
    return rule.layer_names(_steps(estimator)[1])


def is_balanced(estimator: Any) -> bool:
    """True if the training loss weighed classes by their numbers of rows."""
    return getattr(_steps(estimator)[1], "class_weight", None) == "balanced"


def path(estimator: Any) -> str:
    """Names of the transformers and of the last step, in order."""
    transformers, last = _steps(estimator)
    return ", ".join(_name(step) for step in (*transformers, last))


def _steps(estimator: Any) -> tuple[list[Any], Any]:
    """The transformers and the last step; for a fitted search, those of the best estimator."""
    if type(estimator) in SEARCHES:
        return _steps(getattr(estimator, "best_estimator_", estimator.estimator))
    if type(estimator) is linear_model.RANSACRegressor:
        template = estimator.estimator
        return _steps(getattr(estimator, "estimator_", linear_model.LinearRegression() if template is None else template))
    if type(estimator) is Pipeline:
        steps = [step for _, step in estimator.steps]
        before: list[Any] = []
        for step in steps[:-1]:
            if type(step) is Pipeline:
                inner, end = _steps(step)
                before += [*inner, end]
            else:
                before.append(step)
        inner, last = _steps(steps[-1])
        return [step for step in (*before, *inner) if step is not None and step != "passthrough"], last
    return [], estimator


def _class_weight(model: Any) -> Array:
    """Weights of the fitted classes, ``(k,)``: a dictionary weighs a row's loss by its label, as in training.

    A model fitted with ``"balanced"`` does not keep its weights; they are 1 then, as in ART.
    """
    given = getattr(model, "class_weight", None)
    weights = given if isinstance(given, Mapping) else {}
    return np.array([weights.get(label, 1.0) for label in model.classes_.tolist()], np.float64)


def _logistic(model: Any, nb_classes: int) -> Rule | None:
    # Before scikit-learn 1.8, one-vs-rest was an option, and liblinear's only one.
    if getattr(model, "multi_class", "deprecated") not in ("deprecated", "auto"):
        return None
    if model.solver == "liblinear" and nb_classes > 2:
        return None
    return Rule("softmax", linear.multinomial)


def _sgd(model: Any, nb_classes: int) -> Rule | None:
    return Rule("softmax", linear.one_vs_rest) if model.loss == "log_loss" else Rule("scores", linear.margins)


def _bernoulli(model: Any, nb_classes: int) -> Rule | None:
    return Rule("softmax", linear.bits) if model.binarize is None else None


def _svc(model: Any, nb_classes: int) -> Rule | None:
    return Rule("scores", kernels.classifier) if kernels.has_gradient(model.kernel, model.degree) else None


def _svr(model: Any, nb_classes: int) -> Rule | None:
    return Rule("values", kernels.regressor) if kernels.has_gradient(model.kernel, model.degree) else None


def _kernel_ridge(model: Any, nb_classes: int) -> Rule | None:
    return Rule("values", kernels.ridge) if kernels.has_gradient(model.kernel, model.degree) else None


def _tweedie(model: Any, nb_classes: int) -> Rule | None:
    logarithmic = model.power > 0 if model.link == "auto" else model.link == "log"
    return Rule("values", linear.exponentials if logarithmic else linear.values)


def _linear_models(names: str) -> tuple[type, ...]:
    """The classes among these names that the installed scikit-learn has."""
    return tuple(getattr(linear_model, name) for name in names.split() if hasattr(linear_model, name))


_LINEAR_CLASSIFIERS = (
    LinearSVC,
    *_linear_models("PassiveAggressiveClassifier Perceptron RidgeClassifier RidgeClassifierCV"),
)
_LINEAR_REGRESSORS = (
    LinearSVR,
    *_linear_models("ARDRegression BayesianRidge HuberRegressor LinearRegression QuantileRegressor Ridge RidgeCV SGDRegressor"),
    *_linear_models("ElasticNet ElasticNetCV Lars LarsCV Lasso LassoCV LassoLars LassoLarsCV LassoLarsIC TheilSenRegressor"),
    *_linear_models("MultiTaskElasticNet MultiTaskElasticNetCV MultiTaskLasso MultiTaskLassoCV PassiveAggressiveRegressor"),
    *_linear_models("OrthogonalMatchingPursuit OrthogonalMatchingPursuitCV"),
)
_RULES: dict[type, Rule | Callable[[Any, int], Rule | None]] = {
    linear_model.LogisticRegression: _logistic,
    linear_model.LogisticRegressionCV: _logistic,
    linear_model.SGDClassifier: _sgd,
    discriminant_analysis.LinearDiscriminantAnalysis: Rule("softmax", linear.multinomial),
    discriminant_analysis.QuadraticDiscriminantAnalysis: Rule("softmax", densities.quadratic_discriminants),
    naive_bayes.GaussianNB: Rule("softmax", densities.naive_bayes),
    naive_bayes.MultinomialNB: Rule("softmax", linear.counts),
    naive_bayes.ComplementNB: Rule("softmax", linear.complements),
    naive_bayes.BernoulliNB: _bernoulli,
    neural_network.MLPClassifier: Rule("softmax", perceptrons.scores, perceptrons.layer_names, perceptrons.hidden_layers),
    **dict.fromkeys(_LINEAR_CLASSIFIERS, Rule("scores", linear.margins)),
    SVC: _svc,
    NuSVC: _svc,
    **dict.fromkeys(_LINEAR_REGRESSORS, Rule("values", linear.values)),
    linear_model.PoissonRegressor: Rule("values", linear.exponentials),
    linear_model.GammaRegressor: Rule("values", linear.exponentials),
    linear_model.TweedieRegressor: _tweedie,
    **dict.fromkeys((CCA, PLSCanonical, PLSRegression), Rule("values", linear.least_squares)),
    neural_network.MLPRegressor: Rule("values", perceptrons.values, perceptrons.layer_names, perceptrons.hidden_layers),
    SVR: _svr,
    NuSVR: _svr,
    kernel_ridge.KernelRidge: _kernel_ridge,
}

_TREES: tuple[type, ...] = (
    BaseDecisionTree,
    ensemble.RandomForestClassifier,
    ensemble.RandomForestRegressor,
    ensemble.ExtraTreesClassifier,
    ensemble.ExtraTreesRegressor,
    ensemble.GradientBoostingClassifier,
    ensemble.GradientBoostingRegressor,
    ensemble.HistGradientBoostingClassifier,
    ensemble.HistGradientBoostingRegressor,
)
_TREES_BY_DEFAULT: tuple[type, ...] = (
    ensemble.AdaBoostClassifier,
    ensemble.AdaBoostRegressor,
    ensemble.BaggingClassifier,
    ensemble.BaggingRegressor,
)
_NEIGHBOURS: tuple[type, ...] = (
    neighbors.KNeighborsClassifier,
    neighbors.KNeighborsRegressor,
    neighbors.RadiusNeighborsClassifier,
    neighbors.RadiusNeighborsRegressor,
)


def _why_not(last: Any) -> str:
    name = _name(last)
    if _is_made_of_trees(last):
        return f"{name} is made of trees, whose outputs are constant between thresholds: the gradient is 0 or undefined"
    if type(last) in _NEIGHBOURS and last.weights == "uniform":
        return f"{name} counts neighbours, so that its outputs are constant between jumps: the gradient is 0 or undefined"
    if isinstance(last, (dummy.DummyClassifier, dummy.DummyRegressor)):
        return f"{name} ignores its inputs"
    if isinstance(last, naive_bayes.BernoulliNB):
        return f"{name} makes its inputs 0 or 1 first: the gradient is 0 or undefined; binarize=None takes them unchanged"
    if isinstance(last, naive_bayes.CategoricalNB):
        return f"{name} takes categories, which have no gradient"
    return f"{name} has no gradient in closed form here"


def _is_made_of_trees(estimator: Any) -> bool:
    if type(estimator) in _TREES_BY_DEFAULT:
        return estimator.estimator is None or _is_made_of_trees(_steps(estimator.estimator)[1])
    return isinstance(estimator, _TREES)


def instead(estimator: Any) -> str:
    """Advice to callers of a model without gradients."""
    if is_classifier(estimator):
        return "attacks that need predictions alone work, such as HopSkipJump, Boundary or ZOO"
    return "attacks that need predictions alone work"


def _name(estimator: Any) -> str:
    return type(estimator).__name__
