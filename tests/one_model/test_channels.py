"""An image net is the same net whether its rows have channels first or last: in every framework, over the wire.

The net is that of `weights`, in both layouts and both precisions. In float32, 1e-5 is some hundred roundings of values
between 0.1 and 10; float64 has room for 1e-12.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import differences
import numpy as np
import pytest
from environments import MXNET, python_of
from one_model import weights
from processes import server_process

from gradwire.client import RemoteEstimator, Server, connect
from gradwire.client.art import art_estimator
from gradwire.server import serving

HERE = ("torch", "tensorflow", "keras", "tensorflow_v1", "jax")
FRAMEWORKS = (*HERE, "mxnet")
LAYOUTS = {"first": True, "last": False}
CLOSE: dict[str, dict[str, float]] = {"float32": {"rtol": 1e-5, "atol": 1e-5}, "float64": {"rtol": 1e-12, "atol": 1e-12}}
N = 5
CHANNELS, HEIGHT, WIDTH = weights.CONV_INPUT_SHAPE
# Of each channel its own: rows whose axes are mistaken for others are standardised wrongly.
STANDARDISED = {"mean": [0.1, -0.3], "std": [0.5, 2.0]}


def model(framework: str, layout: str, dtype: str, **keys: Any) -> dict[str, Any]:
    nets = importlib.import_module(f"one_model.{framework}_nets")
    base, first = nets.CONV, LAYOUTS[layout]
    return {
        **base,
        **(getattr(nets, "FLOAT64", {}) if dtype == "float64" else {}),
        "factory": {"path": base["factory"], "args": {"channels_first": first, "dtype": dtype}},
        "input_shape": [CHANNELS, HEIGHT, WIDTH] if first else [HEIGHT, WIDTH, CHANNELS],
        "channels_first": first,
        "preprocessing": STANDARDISED,
        "access": "gradients",
        **keys,
    }


def models(*frameworks: str) -> dict[str, dict[str, Any]]:
    return {
        f"{framework}-{layout}-{dtype}": model(framework, layout, dtype)
        for framework in frameworks
        for layout in LAYOUTS
        for dtype in CLOSE
    }


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(models(*HERE)) as address, connect(address) as connection:
        yield connection


@pytest.fixture(scope="module")
def mxnet_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    served = [{"name": name, **model} for name, model in models("mxnet").items()]
    with server_process(tmp_path_factory.mktemp(MXNET), served, python=python_of(MXNET)) as process:
        with connect(process.address) as connection:
            yield connection


class Both(NamedTuple):
    """One net in both layouts."""

    first: RemoteEstimator
    last: RemoteEstimator

    def of(self, layout: str) -> RemoteEstimator:
        return self.first if layout == "first" else self.last


@pytest.fixture(params=FRAMEWORKS)
def framework(request: Any) -> str:
    return str(request.param)


def both(request: Any, framework: str, dtype: str) -> Both:
    server: Server = request.getfixturevalue("mxnet_server" if framework == "mxnet" else "server")
    return Both(*(server.estimator(f"{framework}-{layout}-{dtype}") for layout in LAYOUTS))


def images(seed: int, dtype: str, n: int = N) -> Any:
    """Channels first."""
    return np.random.default_rng(seed).uniform(-1, 1, (n, CHANNELS, HEIGHT, WIDTH)).astype(dtype)


def to_last(x: Any) -> Any:
    return np.ascontiguousarray(np.moveaxis(x, -3, -1))


def to_first(x: Any) -> Any:
    return np.moveaxis(x, -1, -3)


def standardised(x: Any) -> Any:
    mean, std = (np.reshape(STANDARDISED[key], (-1, 1, 1)) for key in ("mean", "std"))
    return (x - mean) / std


@pytest.mark.parametrize("dtype", CLOSE)
def test_outputs_and_losses_are_those_of_the_weights_in_both_layouts(request: Any, framework: str, dtype: str) -> None:
    net, x, y = both(request, framework, dtype), images(0, dtype), np.arange(N) % weights.CONV_CLASSES
    logits = weights.conv_forward(standardised(x))["logits"]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(N), y]
    for remote, rows in ((net.first, x), (net.last, to_last(x))):
        outputs = remote.predict(rows)
        assert (remote.card.input_dtype, outputs.dtype) == (dtype, dtype)
        np.testing.assert_allclose(outputs, logits, **CLOSE[dtype])
        np.testing.assert_allclose(remote.compute_loss(rows, y), losses, **CLOSE[dtype])


@pytest.mark.parametrize("dtype", CLOSE)
def test_gradients_differ_by_the_order_of_their_axes_alone(request: Any, framework: str, dtype: str) -> None:
    net, x = both(request, framework, dtype), images(1, dtype)
    rows = to_last(x)
    random = np.random.default_rng(2)
    y = random.integers(0, weights.CONV_CLASSES, N)
    cotangent = random.normal(size=(N, weights.CONV_CLASSES)).astype(dtype)
    pairs = {
        "loss gradient": (net.first.loss_gradient(x, y), net.last.loss_gradient(rows, y)),
        "class gradients": (net.first.class_gradient(x), net.last.class_gradient(rows)),
        "class gradients of labels": (net.first.class_gradient(x, label=y), net.last.class_gradient(rows, label=y)),
        "vector-Jacobian product": (net.first.vjp(x, cotangent), net.last.vjp(rows, cotangent)),
    }
    for name, (first, last) in pairs.items():
        assert last.shape[-3:] == (HEIGHT, WIDTH, CHANNELS)
        np.testing.assert_allclose(to_first(last), first, **CLOSE[dtype], err_msg=name)
        assert np.abs(first).max() > 1e-2, name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_hold_against_central_differences(request: Any, framework: str, layout: str) -> None:
    remote, x = both(request, framework, "float64").of(layout), images(3, "float64", 2)
    rows, y = x if LAYOUTS[layout] else to_last(x), np.array([1, 4])
    # In float64 a step of 1e-5 leaves errors of order 1e-10 of cutting the series off, and of 1e-11 of rounding.
    close = {"rtol": 1e-6, "atol": 1e-8}
    numeric = differences.gradient(lambda x: remote.compute_loss(x, y), rows)
    np.testing.assert_allclose(remote.loss_gradient(rows, y) * len(rows), numeric, **close)
    np.testing.assert_allclose(remote.class_gradient(rows), differences.gradient(remote.predict, rows), **close)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_card_and_arts_estimator_tell_where_channels_are(request: Any, framework: str, layout: str) -> None:
    remote = both(request, framework, "float32").of(layout)
    first = LAYOUTS[layout]
    estimator = art_estimator(remote)
    assert remote.card.channels_first is remote.channels_first is estimator.channels_first is first
    assert remote.channel_index == (1 if first else 3)
    assert estimator.input_shape == ((CHANNELS, HEIGHT, WIDTH) if first else (HEIGHT, WIDTH, CHANNELS))
    assert estimator.get_params()["channels_first"] is first


def smoothing(layout: str) -> dict[str, Any]:
    return {
        "path": "art.defences.preprocessor.SpatialSmoothing",
        "args": {"window_size": 3, "channels_first": LAYOUTS[layout]},
    }


@pytest.fixture(scope="module")
def smoothed_server() -> Iterator[Server]:
    """A torch net behind ART's median filter in each layout, and one whose filter takes channels last for channels first."""
    smoothed = {layout: model("torch", layout, "float32", preprocessing_defences=[smoothing(layout)]) for layout in LAYOUTS}
    mistaken = model("torch", "last", "float32", preprocessing_defences=[smoothing("first")])
    with serving({**smoothed, "mistaken": mistaken}) as address, connect(address) as connection:
        yield connection


def test_a_spatial_defence_filters_height_and_width_in_both_layouts(smoothed_server: Server) -> None:
    x, y = images(4, "float32"), np.arange(N) % weights.CONV_CLASSES
    net = Both(*(smoothed_server.estimator(layout) for layout in LAYOUTS))
    close = CLOSE["float32"]
    np.testing.assert_allclose(net.last.predict(to_last(x)), net.first.predict(x), **close)
    np.testing.assert_allclose(to_first(net.last.loss_gradient(to_last(x), y)), net.first.loss_gradient(x, y), **close)
    mistaken = smoothed_server.estimator("mistaken").predict(to_last(x))
    assert np.abs(mistaken - net.first.predict(x)).max() > 0.1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_net_behind_a_spatial_defence_is_arts(smoothed_server: Server, layout: str) -> None:
    import torch
    from art.defences.preprocessor import SpatialSmoothing
    from art.estimators.classification import PyTorchClassifier
    from one_model import torch_nets

    first, x = LAYOUTS[layout], images(5, "float32")
    rows, y = x if first else to_last(x), np.eye(weights.CONV_CLASSES, dtype=np.float32)[np.arange(N) % weights.CONV_CLASSES]
    remote = smoothed_server.estimator(layout)
    local = PyTorchClassifier(
        torch_nets.conv(channels_first=first), torch.nn.CrossEntropyLoss(), remote.input_shape, weights.CONV_CLASSES,
        channels_first=first, preprocessing_defences=SpatialSmoothing(window_size=3, channels_first=first),
        preprocessing=(np.float32(STANDARDISED["mean"]), np.float32(STANDARDISED["std"])), device_type="cpu",
    )  # fmt: skip
    assert art_estimator(remote).channels_first is local.channels_first is first
    np.testing.assert_allclose(remote.predict(rows), local.predict(rows), **CLOSE["float32"])
    np.testing.assert_allclose(remote.loss_gradient(rows, y), local.loss_gradient(rows, y), **CLOSE["float32"])
    np.testing.assert_allclose(remote.class_gradient(rows), local.class_gradient(rows), **CLOSE["float32"])
