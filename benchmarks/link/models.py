"""Models that are attacked over the link: small, so that the link takes most of the time."""

from __future__ import annotations

from torch import nn

from benchmarks.model import NB_CLASSES, cnn

SHAPES: dict[str, tuple[int, ...]] = {"28": (1, 28, 28), "224": (3, 224, 224)}
"""Shapes of rows, by the names that the models are served under."""


def for_224() -> nn.Sequential:
    """Makes a small CNN for 3 x 224 x 224 inputs; the weights are the same every time."""
    import torch

    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 8, stride=8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 4, stride=4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(784, NB_CLASSES),
        )


FACTORIES = {"28": cnn, "224": for_224}


def yaml() -> str:
    """Makes their entries in the list of models of a server's configuration."""
    return "".join(
        f"""
  - name: "{name}"
    backend: torch
    factory: {factory.__module__}:{factory.__name__}
    loss: torch.nn.CrossEntropyLoss
    input_shape: {list(SHAPES[name])}
    nb_classes: {NB_CLASSES}
    clip_values: [0.0, 1.0]
    access: gradients
"""
        for name, factory in FACTORIES.items()
    )
