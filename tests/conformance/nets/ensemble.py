"""Members of the ensembles that the conformance body is run on, where they are no cases themselves."""

from __future__ import annotations

from sklearn.datasets import load_iris
from sklearn.svm import SVC
from torch import nn

import models


def iris_net() -> nn.Module:
    return models.mlp(4, 3)


def iris_svc() -> SVC:
    return SVC(kernel="poly", degree=2).fit(*load_iris(return_X_y=True))


def softmax_net() -> nn.Module:
    return models.mlp(end="Softmax")
