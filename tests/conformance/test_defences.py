"""Defences stand in front of every backend and behind it, and gradients go back through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conformance.cases import CASES, Case, served, with_operation
from conformance.servers import servers

from gradwire.client import RemoteEstimator, Server, connect
from gradwire.server import serving

N = 6


def defended(case: Case) -> dict[str, Any]:
    # By their names: servers of other environments get them in a file.
    front, behind = "defences:Sine", "defences:Rounded"
    return {
        **case.config,
        "access": "gradients",
        "preprocessing_defences": [front, *case.config.get("preprocessing_defences", [])],
        "postprocessing_defences": [behind],
    }


# A table answers only the rows that it has, and an ensemble's members are models with defences of their own.
NAMES = [name for name, case in CASES.items() if case.config["backend"] != "ensemble" and name != "blackbox-table"]


def served_defended(server: str) -> dict[str, dict[str, Any]]:
    return {name: defended(CASES[name]) for name in served(server) if name in NAMES}


@pytest.fixture(scope="module")
def defended_server_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    with servers(tmp_path_factory.mktemp("defended"), served_defended) as connected:
        yield connected


@pytest.fixture
def behind_defences(defended_server_with: Callable[[str], Server], case: Case, name: str) -> RemoteEstimator:
    return defended_server_with(case.backend).estimator(name)


@pytest.mark.parametrize("name", NAMES)
def test_predict_is_between_its_defences(remote: RemoteEstimator, behind_defences: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 30)
    expected = np.round(remote.predict(np.sin(x)) * 4) / 4
    found = behind_defences.predict(x)
    # A value beside the middle of a step may be rounded either way.
    assert np.isclose(found, expected, atol=1e-6).mean() > 0.9
    np.testing.assert_allclose(found, expected, atol=0.25 + 1e-6)
    np.testing.assert_array_equal(found * 4, np.round(found * 4))


@with_operation("loss_gradient", where=lambda case: case.config["backend"] != "ensemble")
def test_loss_gradients_go_back_through_defences(remote: RemoteEstimator, behind_defences: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(N, 31), case.labels(N)
    expected = remote.loss_gradient(np.sin(x), y) * np.cos(x)
    close = {"rtol": 1e-4, "atol": 1e-6 * max(1.0, float(np.abs(expected).max()))}
    np.testing.assert_allclose(behind_defences.compute_loss(x, y), remote.compute_loss(np.sin(x), y), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(behind_defences.loss_gradient(x, y), expected, **close)


@with_operation("class_gradient", where=lambda case: case.config["backend"] != "ensemble")
def test_class_gradients_go_back_through_defences(remote: RemoteEstimator, behind_defences: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 32)
    expected = remote.class_gradient(np.sin(x)) * np.cos(x)[:, None]
    close = {"rtol": 1e-4, "atol": 1e-6 * max(1.0, float(np.abs(expected).max()))}
    np.testing.assert_allclose(behind_defences.class_gradient(x), expected, **close)


def test_arts_defences_with_gradients_of_their_own_give_what_art_gives() -> None:
    """A filter, whose gradient is a filter, and a standardisation by feature."""
    import torch
    from art.estimators.classification import PyTorchClassifier
    from art.preprocessing.audio import LFilter
    from art.preprocessing.standardisation_mean_std import StandardisationMeanStd
    from torch import nn

    def mlp() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))

    defences = {
        "filter": LFilter(numerator_coef=np.array([0.5, 0.3, 0.2]), denominator_coef=np.array([1.0])),
        "standardisation": StandardisationMeanStd(mean=np.linspace(0.1, 0.9, 16), std=np.linspace(0.3, 2.0, 16)),
    }
    models = {
        name: {"backend": "torch", "factory": mlp, "loss": "torch.nn.CrossEntropyLoss", "input_shape": [16], "nb_classes": 4,
               "preprocessing_defences": [lambda defence=defence: defence]}
        for name, defence in defences.items()
    }  # fmt: skip
    x = np.random.default_rng(0).uniform(0.05, 0.95, (5, 16)).astype(np.float32)
    y = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0]]
    plain = PyTorchClassifier(mlp(), nn.CrossEntropyLoss(), (16,), 4, device_type="cpu", preprocessing=None)
    with serving(models) as address, connect(address) as server:
        for name, defence in defences.items():
            local = PyTorchClassifier(
                mlp(), nn.CrossEntropyLoss(), (16,), 4, device_type="cpu", preprocessing=None, preprocessing_defences=[defence]
            )
            remote = server.estimator(name)
            np.testing.assert_allclose(remote.predict(x), local.predict(x), rtol=1e-5, atol=1e-6)
            expected = local.loss_gradient(x, y)
            np.testing.assert_allclose(remote.loss_gradient(x, y), expected, rtol=1e-4, atol=1e-7)
            # The defence has a part in it.
            assert np.abs(expected - plain.loss_gradient(defence(x)[0].astype(np.float32), y)).max() > 1e-3
            np.testing.assert_allclose(remote.class_gradient(x, label=2), local.class_gradient(x, label=2), rtol=1e-4, atol=1e-6)
