"""A remote model as an estimator of the Adversarial Robustness Toolbox (ART), so that its attacks run unchanged.

ART looks in an estimator's class for what an attack may use. That class is therefore built from the model's card: it has a
mixin, and the methods that come with it, only where the caller may use the operation.
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
"""Backends of neural networks, and what holds for their images where the owner does not say: as in ART, the framework's habit."""


def art_estimator(remote: RemoteEstimator | RemoteEnsemble) -> Any:
    """An ART estimator of a remote model, or of an ensemble of them.

    Its class has `ClassifierMixin` or `RegressorMixin`; `LossGradientsMixin` and, of classifiers, `ClassGradientsMixin` if
    the card has those operations; and `NeuralNetworkMixin` if the backend is one of neural networks, or if the card has
    activations or says where the channels of images are. It shares ``remote`` (as its ``model``): what either is told, both
    know. It can be pickled and copied.

    Args:
        remote: The model. Where its owner does not say `channels_first`, the habit of its framework holds: true for torch
            and MXNet, false for TensorFlow, Keras, JAX and served ensembles, true for others; of a `RemoteEnsemble`, its
            members' habit, and false if they differ.

    Returns:
        An ``art.estimators.BaseEstimator`` whose methods take and give what ART's do, in the dtypes of the model.
    """
    card = remote.card
    return _kind(card.task, _is_neural(card), card.operations.intersection(_OPTIONAL))(remote)


def art_pytorch_classifier(remote: RemoteEstimator | RemoteEnsemble, loss: Any = None) -> Any:
    """ART's own PyTorchClassifier around a remote model, for attacks that accept nothing else.

    Those are AutoAttack with its default list, AutoProjectedGradientDescent and its kin with a `loss_type`, BrendelBethge, and
    the PyTorch variants of others. Losses are computed here, from the outputs: two calls a gradient where `art_estimator`
    needs one.

    Args:
        remote: A classifier whose card has ``vjp``.
        loss: A ``torch.nn`` loss of the outputs ``(n, C)``; None: cross-entropy of logits.

    Raises:
        Unsupported: It is no classifier, or has no vector-Jacobian products.
        InvalidCall: The outputs are not logits, and there is no loss.
    """
    import torch
    from art.estimators.classification import PyTorchClassifier

    from gradwire.client.torch import remote_module

    card = remote.card
    _require(card, "vjp")
    if card.task != "classification":
        raise Unsupported(f"{card.name!r} is a model for {card.task}; expected a classifier")
    if loss is None and card.output_kind != "logits":
        raise InvalidCall(
            f"the outputs of {card.name!r} are {card.output_kind}; pass a loss that takes them (cross-entropy is of logits)"
        )
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
    """What every remote model has. Preprocessing and postprocessing are the server's; ART finds none here.

    Args:
        remote: The model.
    """

    estimator_params = (*BaseEstimator.estimator_params, "nb_classes", "input_shape", "channels_first")

    def __init__(self, remote: RemoteEstimator | RemoteEnsemble) -> None:
        neural = {"channels_first": _channels_first(remote)} if isinstance(self, NeuralNetworkMixin) else {}
        super().__init__(model=remote, clip_values=None, preprocessing=None, **neural)
        if isinstance(self, ClassifierMixin):
            # After ART's constructor, which leaves -1 there.
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
        # Carlini's attacks ask every estimator for logits, and ART's own take no notice, but for Gaussian processes.
        logits = logits and "logits" in self.model.card.answers
        outputs: Array = self.model.predict(x, batch_size=batch_size, training_mode=training_mode, logits=logits, raw=raw)
        answered(x, outputs, self.model.card.output_kind == "logits")
        return outputs

    def predict_uncertainty(self, x: Any) -> Array:
        """As `RemoteEstimator.predict_uncertainty`, as of ART's Gaussian process."""
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
        """As `RemoteEstimator.fit`: a keyword that it does not know raises Unsupported, unless its value is None."""
        _require(self.model.card, "fit")
        known = {name: value for name, value in kwargs.items() if value is not None}
        self.model.fit(x, y, batch_size=batch_size, nb_epochs=nb_epochs, verbose=bool(verbose), **known)

    def clone_for_refitting(self) -> Any:
        """An estimator of the same architecture that has not been fitted, on the same server; ``model.delete()`` ends it."""
        _require(self.model.card, "clone_for_refitting")
        return art_estimator(self.model.clone_for_refitting())

    def save(self, filename: str, path: str | None = None, overwrite: bool = False) -> None:
        """As `RemoteEstimator.save`: a version on the server, not a file here."""
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
        """Whether the channels of images come before height and width."""
        return _channels_first(self.model)

    def get_params(self) -> dict[str, Any]:
        """Parameters by the names that ART gives them; ``preprocessing`` is what the server does, (mean, std), or None."""
        params = {name: getattr(self, name, None) for name in self.estimator_params}
        return {**params, "preprocessing": self.model.get_params()["preprocessing"]}

    def set_params(self, **kwargs: Any) -> None:
        """As `RemoteEstimator.set_params`; what is as it should be already may be any parameter."""
        now = self.get_params()
        self.model.set_params(**{name: value for name, value in kwargs.items() if name not in now or not _same(value, now[name])})

    def __reduce__(self) -> tuple[Any, ...]:
        # Classes that are made here cannot be found by name.
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
        """In the order of their indices."""
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
        """As `RemoteEstimator.custom_loss_gradient`: the function works on arrays, and returns the loss's derivative."""
        gradient = self.model.custom_loss_gradient(loss_cotangent, x, y, layer_name, training_mode)
        differentiated(x)
        return gradient


_OPTIONAL: dict[str, type] = {
    "class_gradient": _ClassGradients,
    "loss_gradient": _LossGradients,
    "vjp": _CustomLossGradients,
}
"""What an estimator has only if its card has the operation."""


@cache
def _kind(task: str, neural: bool, operations: frozenset[str]) -> Any:
    """The class for models of one kind; ``operations`` are keys of `_OPTIONAL`."""
    classifier = task == "classification"
    mixin = ClassifierMixin if classifier else RegressorMixin
    # Regressions have gradients of each output too, but to ART's attacks the mixin says that outputs are classes.
    parts = [
        part for operation, part in _OPTIONAL.items() if operation in operations and (classifier or part is not _ClassGradients)
    ]
    name = "Remote" + ("NeuralNetwork" if neural else "") + ("Classifier" if classifier else "Regressor")
    # Last, because the constructors of ART's mixins call on to it.
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
    """Raises Unsupported, which ART takes for its own NotImplementedError."""
    if operation not in card.operations:
        offered = ", ".join(sorted(card.operations))
        raise Unsupported(f"{card.name!r} does not offer {operation} to callers with access {card.access!r}; it offers {offered}")


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(value) == len(other) and all(map(np.array_equal, value, other))
    return value is other or np.array_equal(value, other)
