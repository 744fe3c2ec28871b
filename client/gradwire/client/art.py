"""ART estimator of a remote model, so that attacks of the Adversarial Robustness Toolbox run unchanged.

ART checks an estimator's class for the methods that an attack needs. The class is therefore built from the model's card: it
has a mixin with its methods only if the caller may use the operation.
"""

from __future__ import annotations

import types
from functools import cache
from typing import Any

import numpy as np
from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
from art.estimators.regression.regressor import RegressorMixin

from gradwire.client.attack import answered, differentiated
from gradwire.client.attributes import ModelAttributes
from gradwire.client.card import ModelCard
from gradwire.client.ensemble import RemoteEnsemble
from gradwire.client.errors import InvalidCall, Unsupported
from gradwire.client.estimator import RemoteEstimator
from gradwire.wire.tensors import Array

_CHANNELS_FIRST = {
    "torch": True,
    "mxnet": True,
    "tensorflow": False,
    "tensorflow_v1": False,
    "keras": False,
    "jax": False,
    "ensemble": False,
}
"""Backends of neural networks, and the framework's default of ``channels_first``, as in ART."""


def art_estimator(remote: RemoteEstimator | RemoteEnsemble) -> Any:
    """Makes an ART estimator of a remote model or of an ensemble.

    Its class has `ClassifierMixin` or `RegressorMixin`; `LossGradientsMixin` and, for classifiers, `ClassGradientsMixin` if
    the card has those operations; and `NeuralNetworkMixin` if the backend serves neural networks, or if the card has
    activations or sets `channels_first`. It shares ``remote`` as its ``model``: settings of either affect both. It can be
    pickled and copied.

    Args:
        remote: The model. If its owner has not set `channels_first`, the framework's default holds: true for torch and
            MXNet, false for TensorFlow, Keras, JAX and served ensembles, true for others; for a `RemoteEnsemble`, its
            members' default, and false if they differ.

    Returns:
        An ``art.estimators.BaseEstimator`` with ART's arguments and results, in the dtypes of the model.
    """
    card = remote.card
    return _kind(card.task, _is_neural(card), card.operations.intersection(_OPTIONAL))(remote)


def art_pytorch_classifier(remote: RemoteEstimator | RemoteEnsemble, loss: Any = None) -> Any:
    """Makes ART's own PyTorchClassifier of a remote model, for attacks that accept nothing else.

    Those are AutoAttack with its default list, AutoProjectedGradientDescent and similar attacks with a `loss_type`,
    BrendelBethge, and the PyTorch variants of others. Losses are computed here, from the outputs: a gradient needs two calls,
    and one with `art_estimator`.

    Args:
        remote: A classifier whose card has ``vjp``.
        loss: A ``torch.nn`` loss of the outputs ``(n, C)``; None: cross-entropy of logits.

    Raises:
        Unsupported: The model is not a classifier, or lacks vector-Jacobian products.
        InvalidCall: The outputs are not logits, and no loss is given.
    """
    import torch
    from art.estimators.classification import PyTorchClassifier

    from gradwire.client.torch import remote_module

    card = remote.card
    _require(card, "vjp")
    if card.task != "classification":
        raise Unsupported(f"{card.name!r} is a model for {card.task}; expected a classifier")
    if loss is None and card.output_kind != "logits":
        raise InvalidCall(f"the outputs of {card.name!r} are {card.output_kind}; pass a loss for them (cross-entropy needs logits)")
    return PyTorchClassifier(
        model=remote_module(remote),
        loss=torch.nn.CrossEntropyLoss() if loss is None else loss,
        input_shape=remote.input_shape,
        nb_classes=remote.nb_classes,
        optimizer=None,
        channels_first=_channels_first(remote),
        clip_values=_clip_values(remote),
        preprocessing=None,
        device_type="cpu",
    )


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """Base of all ART estimators of remote models. The server preprocesses and postprocesses; ART does neither here.

    Args:
        remote: The model.
    """

    estimator_params = (*BaseEstimator.estimator_params, "nb_classes", "input_shape", "channels_first")

    def __init__(self, remote: RemoteEstimator | RemoteEnsemble) -> None:
        neural = {"channels_first": _channels_first(remote)} if isinstance(self, NeuralNetworkMixin) else {}
        super().__init__(model=remote, clip_values=None, preprocessing=None, **neural)
        if isinstance(self, ClassifierMixin):
            # After ART's constructor, which sets -1.
            self.nb_classes = remote.nb_classes

    def predict(
        self,
        x: Any,
        batch_size: int = 0,
        training_mode: bool | None = None,
        logits: bool = False,
        raw: bool = False,
        **kwargs: Any,
    ) -> Array:
        """As `RemoteEstimator.predict`; other keywords have no effect, as in ART."""
        # Carlini's attacks ask every estimator for logits; ART's own ignore that, except Gaussian processes.
        logits = logits and "logits" in self.model.card.answers
        outputs: Array = self.model.predict(x, batch_size=batch_size, training_mode=training_mode, logits=logits, raw=raw)
        answered(x, outputs, self.model.card.output_kind == "logits")
        return outputs

    def predict_uncertainty(self, x: Any) -> Array:
        """As `RemoteEstimator.predict_uncertainty`; in the interface of ART's Gaussian process."""
        uncertainty: Array = self.model.predict_uncertainty(x)
        return uncertainty

    def compute_loss(self, x: Any, y: Any, reduction: str = "none", training_mode: bool | None = None, **kwargs: Any) -> Array:
        """As `RemoteEstimator.compute_loss`; other keywords have no effect, as in ART."""
        _require(self.model.card, "loss")
        loss: Array = self.model.compute_loss(x, y, reduction, training_mode=training_mode)
        return loss

    def compute_loss_from_predictions(self, pred: Any, y: Any, reduction: str = "none", **kwargs: Any) -> Array:
        """As `RemoteEstimator.compute_loss_from_predictions`; other keywords have no effect, as in ART."""
        _require(self.model.card, "loss")
        loss: Array = self.model.compute_loss_from_predictions(pred, y, reduction)
        return loss

    def fit(self, x: Any, y: Any, batch_size: int = 128, nb_epochs: int = 10, verbose: Any = False, **kwargs: Any) -> None:
        """As `RemoteEstimator.fit`: an unknown keyword raises Unsupported, unless its value is None."""
        _require(self.model.card, "fit")
        known = {name: value for name, value in kwargs.items() if value is not None}
        self.model.fit(x, y, batch_size=batch_size, nb_epochs=nb_epochs, verbose=bool(verbose), **known)

    def clone_for_refitting(self) -> Any:
        """Makes an estimator of an untrained clone on the same server; ``model.delete()`` removes the clone."""
        _require(self.model.card, "clone_for_refitting")
        return art_estimator(self.model.clone_for_refitting())

    def save(self, filename: str, path: str | None = None, overwrite: bool = False) -> None:
        """As `RemoteEstimator.save`: saves a version on the server, not a local file."""
        _require(self.model.card, "save")
        self.model.save(filename, path, overwrite)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Sizes of a row's axes."""
        shape: tuple[int, ...] = self.model.input_shape
        return shape

    @property
    def clip_values(self) -> Array | None:
        """Least and greatest input values, float32: ``(2,)``, or ``(2, ...)`` where they differ between features."""
        return _clip_values(self.model)

    @property
    def channels_first(self) -> bool:
        """True if images have their channels before height and width."""
        return _channels_first(self.model)

    def get_params(self) -> dict[str, Any]:
        """Returns the parameters by ART's names; ``preprocessing`` is the server's (mean, std), or None."""
        params = {name: getattr(self, name, None) for name in self.estimator_params}
        return {**params, "preprocessing": self.model.get_params()["preprocessing"]}

    def set_params(self, **kwargs: Any) -> None:
        """As `RemoteEstimator.set_params`; also accepts other parameters if their values do not change."""
        now = self.get_params()
        self.model.set_params(**{name: value for name, value in kwargs.items() if name not in now or not _same(value, now[name])})

    def __reduce__(self) -> tuple[Any, ...]:
        # Classes made at run time cannot be found by name.
        return art_estimator, (self.model,), vars(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"


class _Neural(NeuralNetworkMixin, BaseEstimator):  # type: ignore[misc]
    model: RemoteEstimator

    def get_activations(
        self, x: Any, layer: str | int, batch_size: int = 0, framework: bool = False, training_mode: bool | None = None
    ) -> Array:
        """As `RemoteEstimator.get_activations`."""
        _require(self.model.card, "get_activations")
        return self.model.get_activations(x, layer, batch_size, framework, training_mode)

    def fit_generator(self, generator: Any, nb_epochs: int = 20, verbose: Any = False, **kwargs: Any) -> None:
        """As `RemoteEstimator.fit_generator`; keywords as for `fit`."""
        _require(self.model.card, "fit_generator")
        known = {name: value for name, value in kwargs.items() if value is not None}
        self.model.fit_generator(generator, nb_epochs, verbose=bool(verbose), **known)

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers, in the order of their indices."""
        return self.model.layer_names


class _LossGradients(LossGradientsMixin):  # type: ignore[misc]
    model: RemoteEstimator

    def loss_gradient(self, x: Any, y: Any, training_mode: bool | None = None, **kwargs: Any) -> Array:
        """As `RemoteEstimator.loss_gradient`; other keywords have no effect, as in ART."""
        gradient = self.model.loss_gradient(x, y, training_mode=training_mode)
        differentiated(x)
        return gradient


class _ClassGradients(ClassGradientsMixin):  # type: ignore[misc]
    model: RemoteEstimator

    def class_gradient(self, x: Any, label: Any = None, training_mode: bool | None = None, **kwargs: Any) -> Array:
        """As `RemoteEstimator.class_gradient`; other keywords have no effect, as in ART."""
        gradient = self.model.class_gradient(x, label, training_mode=training_mode)
        differentiated(x)
        return gradient


class _CustomLossGradients:
    model: RemoteEstimator

    def custom_loss_gradient(
        self, loss_cotangent: Any, x: Any, y: Any = None, layer_name: str | int | None = None, training_mode: bool | None = None
    ) -> Array:
        """As `RemoteEstimator.custom_loss_gradient`: the function takes arrays and returns the loss's derivative."""
        gradient = self.model.custom_loss_gradient(loss_cotangent, x, y, layer_name, training_mode)
        differentiated(x)
        return gradient


_OPTIONAL: dict[str, type] = {
    "class_gradient": _ClassGradients,
    "loss_gradient": _LossGradients,
    "vjp": _CustomLossGradients,
}
"""Parts that an estimator has only if its card has the operation."""


@cache
def _kind(task: str, neural: bool, operations: frozenset[str]) -> Any:
    """Builds the class for models of one kind; ``operations`` are keys of `_OPTIONAL`."""
    classifier = task == "classification"
    mixin = ClassifierMixin if classifier else RegressorMixin
    # Regressions have gradients of each output too, but for ART's attacks the mixin means that outputs are classes.
    parts = [
        part for operation, part in _OPTIONAL.items() if operation in operations and (classifier or part is not _ClassGradients)
    ]
    name = "Remote" + ("NeuralNetwork" if neural else "") + ("Classifier" if classifier else "Regressor")
    # BaseEstimator comes last, because the constructors of ART's mixins call it.
    bases = (_Estimator, *parts, mixin, *([_Neural] if neural else []), BaseEstimator)
    return types.new_class(name, bases, exec_body=lambda namespace: namespace.update(__module__=__name__))


def _is_neural(card: ModelCard) -> bool:
    return card.backend in _CHANNELS_FIRST or card.channels_first is not None or "get_activations" in card.operations


def _channels_first(remote: ModelAttributes) -> bool:
    if remote.channels_first is not None:
        return remote.channels_first
    if isinstance(remote, RemoteEnsemble):
        return all(map(_channels_first, remote.members))
    return _CHANNELS_FIRST.get(remote.card.backend, True)


def _clip_values(remote: ModelAttributes) -> Array | None:
    values = remote.clip_values
    return None if values is None else np.stack(np.broadcast_arrays(*values))


def _require(card: ModelCard, operation: str) -> None:
    """Raises Unsupported, a NotImplementedError for ART, if the card lacks the operation."""
    if operation not in card.operations:
        offered = ", ".join(sorted(card.operations))
        raise Unsupported(f"{card.name!r} does not offer {operation} to callers with access {card.access!r}; it offers: {offered}")


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(value) == len(other) and all(map(np.array_equal, value, other))
    return value is other or np.array_equal(value, other)
