"""ART's estimator in this process, the alternative to a server."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch
from torch import nn

from benchmarks.contenders.contender import Contender, InThisProcess
from benchmarks.model import LEARNING_RATE, MOMENTUM, NB_CLASSES, Inputs
from benchmarks.subject import CNN, Subject

NAME = "ART"


@contextmanager
def art(subject: Subject = CNN) -> Iterator[Contender]:
    """Yields ART's ``PyTorchClassifier`` as a contender. It has no vector-Jacobian products."""
    from art.estimators.classification import PyTorchClassifier

    module = subject.module()
    optimizer = torch.optim.SGD(module.parameters(), LEARNING_RATE, MOMENTUM)
    at_first = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    estimator = PyTorchClassifier(
        module, nn.CrossEntropyLoss(), subject.input_shape, NB_CLASSES, optimizer, clip_values=(0.0, 1.0), device_type="cpu"
    )

    def reset(_: Inputs) -> None:
        weights, state = copy.deepcopy(at_first)
        estimator.model.load_state_dict({f"_model.{name}": value for name, value in weights.items()}, strict=False)
        module.load_state_dict(weights)
        estimator.optimizer.load_state_dict(state)

    yield InThisProcess(
        NAME,
        {
            "predict": lambda i: estimator.predict(i.x),
            "loss": lambda i: estimator.compute_loss(i.x, i.one_hot, reduction="none"),
            "loss_gradient": lambda i: estimator.loss_gradient(i.x, i.one_hot),
            "class_gradient_rows": lambda i: estimator.class_gradient(i.x, label=i.y),
            "class_gradient_one": lambda i: estimator.class_gradient(i.x, label=3),
            "class_gradient_all": lambda i: estimator.class_gradient(i.x),
            "activations_dense": lambda i: estimator.get_activations(i.x, subject.dense_layer),
            "activations_conv": lambda i: estimator.get_activations(i.x, subject.conv_layer),
            "fit": lambda i: estimator.fit(i.x, i.one_hot, batch_size=i.batch_size, nb_epochs=1),
            "reset": reset,
        },
        {"adversarial-robustness-toolbox": version("adversarial-robustness-toolbox")},
    )
