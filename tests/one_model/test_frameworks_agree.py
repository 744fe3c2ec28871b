"""The same weights in every framework answer the same, over the wire.

The nets are those of `weights`, in float32: 1e-5 is some hundred roundings, of values between 0.1 and 10.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from environments import MXNET, python_of
from one_model import weights
from processes import server_process

from gradwire.client import RemoteEstimator, Server, connect
from gradwire.server import serving

HERE = ("torch", "tensorflow", "keras", "tensorflow_v1", "jax")
FRAMEWORKS = (*HERE, "mxnet")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
N = 9


def nets(framework: str) -> ModuleType:
    return importlib.import_module(f"one_model.{framework}_nets")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """One process with five frameworks in it, and one of another environment."""
    here = {
        f"{framework}-{net}": {"access": "trainer", **getattr(nets(framework), net.upper())}
        for framework in HERE
        for net in ("conv", "dense")
    }
    there = [{"name": f"mxnet-{net}", "access": "trainer", **getattr(nets("mxnet"), net.upper())} for net in ("conv", "dense")]
    folder = tmp_path_factory.mktemp("mxnet")
    with serving(here) as address, server_process(folder, there, python=python_of(MXNET)) as other:
        with connect(address) as ours, connect(other.address) as mxnet:
            yield {**dict.fromkeys(HERE, ours), "mxnet": mxnet}


class Net:
    """One framework's net, with rows and gradients channels first whatever the framework wants."""

    def __init__(self, remote: RemoteEstimator, module: ModuleType) -> None:
        self.remote = remote
        self._turned = not module.CHANNELS_FIRST and len(remote.input_shape) == 3
        self._layers = module.LAYERS

    def __getattr__(self, operation: str) -> Any:
        def call(x: Any, *args: Any, **kwargs: Any) -> Any:
            inputs = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if self._turned else x
            return self._back(getattr(self.remote, operation)(inputs, *args, **kwargs))

        return call

    def layer(self, x: Any, name: str) -> Any:
        return self.get_activations(x, self._layers[name])

    def _back(self, result: Any) -> Any:
        return np.moveaxis(result, -1, -3) if self._turned and result.ndim >= 4 else result


@pytest.fixture(params=FRAMEWORKS)
def framework(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def conv(servers: dict[str, Server], framework: str) -> Net:
    return Net(servers[framework].estimator(f"{framework}-conv"), nets(framework))


@pytest.fixture
def dense(servers: dict[str, Server], framework: str) -> Net:
    return Net(servers[framework].estimator(f"{framework}-dense"), nets(framework))


@pytest.fixture(scope="module")
def torch_of(servers: dict[str, Server]) -> dict[str, Net]:
    return {net: Net(servers["torch"].estimator(f"torch-{net}"), nets("torch")) for net in ("conv", "dense")}


def images(seed: int, n: int = N) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, (n, *weights.CONV_INPUT_SHAPE)).astype(np.float32)


def vectors(seed: int, n: int = N) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, (n, *weights.DENSE_INPUT_SHAPE)).astype(np.float32)


def test_outputs_are_those_of_the_weights(conv: Net, dense: Net) -> None:
    x, v = images(0), vectors(0)
    np.testing.assert_allclose(conv.predict(x), weights.conv_forward(x)["logits"], **CLOSE)
    np.testing.assert_allclose(dense.predict(v), weights.dense_forward(v)["logits"], **CLOSE)


def test_activations_are_those_of_the_weights(conv: Net, dense: Net) -> None:
    x, v = images(1), vectors(1)
    expected = weights.conv_forward(x)
    for layer in ("conv", "hidden", "logits"):
        np.testing.assert_allclose(conv.layer(x, layer), expected[layer], **CLOSE)
    np.testing.assert_allclose(dense.layer(v, "hidden"), weights.dense_forward(v)["hidden"], **CLOSE)


@pytest.mark.parametrize("soft", [False, True])
def test_losses_and_their_gradients_agree_with_torch(conv: Net, dense: Net, torch_of: dict[str, Net], soft: bool) -> None:
    for net, ours, x, classes in (
        ("conv", conv, images(2), weights.CONV_CLASSES),
        ("dense", dense, vectors(2), weights.DENSE_CLASSES),
    ):
        generator = np.random.default_rng(3)
        y = generator.dirichlet(np.ones(classes), N).astype(np.float32) if soft else generator.integers(0, classes, N)
        np.testing.assert_allclose(ours.compute_loss(x, y), torch_of[net].compute_loss(x, y), **CLOSE)
        assert ours.remote.card.loss_reduction == "mean"
        gradient = ours.loss_gradient(x, y)
        assert gradient.shape == x.shape
        np.testing.assert_allclose(gradient, torch_of[net].loss_gradient(x, y), **CLOSE)
        assert np.abs(gradient).max() > 1e-2


def test_class_gradients_agree_with_torch(conv: Net, dense: Net, torch_of: dict[str, Net]) -> None:
    for net, ours, x, classes in (
        ("conv", conv, images(4), weights.CONV_CLASSES),
        ("dense", dense, vectors(4), weights.DENSE_CLASSES),
    ):
        for label in (None, 2, np.random.default_rng(5).integers(0, classes, N)):
            expected = torch_of[net].class_gradient(x, label=label)
            np.testing.assert_allclose(ours.class_gradient(x, label=label), expected, **CLOSE)
            assert np.abs(expected).max() > 1e-2


def test_a_cotangent_comes_back_as_in_torch(conv: Net, dense: Net, torch_of: dict[str, Net]) -> None:
    for net, ours, x, classes in (
        ("conv", conv, images(6), weights.CONV_CLASSES),
        ("dense", dense, vectors(6), weights.DENSE_CLASSES),
    ):
        cotangent = np.random.default_rng(7).normal(size=(N, classes)).astype(np.float32)
        np.testing.assert_allclose(ours.vjp(x, cotangent), torch_of[net].vjp(x, cotangent), **CLOSE)


def test_a_step_of_plain_gradient_descent_is_the_same_step(servers: dict[str, Server], framework: str) -> None:
    x, y = vectors(8, 32), np.random.default_rng(9).integers(0, weights.DENSE_CLASSES, 32)

    def fitted(of: str) -> Any:
        remote = servers[of].estimator(f"{of}-dense")
        try:
            remote.fit(x, y, batch_size=32, nb_epochs=3)
            return remote.predict(x)
        finally:
            remote.reset()

    before = servers[framework].estimator(f"{framework}-dense").predict(x)
    after = fitted(framework)
    np.testing.assert_allclose(after, fitted("torch"), **CLOSE)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_array_equal(servers[framework].estimator(f"{framework}-dense").predict(x), before)
