"""A fit over the wire learns digits as well as the framework's own loop, reports progress, and can be cancelled.

`digits` has the models, and beside each of them its fit in plain framework code.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conformance.servers import SERVERS, servers
from digits import data

from gradwire.client import Progress, RemoteEstimator, Server

BACKENDS = {
    "torch": "torch",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "tensorflow_v1": "tensorflow_v1",
    "jax": "jax",
    "jax-flax": "jax",
    "mxnet": "mxnet",
    **dict.fromkeys(("sklearn-logistic", "sklearn-network", "sklearn-svc", "sklearn-bayes", "sklearn-forest"), "sklearn"),
}
"""Of every model its backend, which is imported when the model is served."""


def models_of(backend: str) -> dict[str, tuple[dict[str, Any], Callable[[Any, Any, Any], Any]]]:
    """Configurations, and beside each the same fit in plain framework code."""
    found = importlib.import_module(f"digits.{backend}_digits").MODELS
    assert list(found) == [name for name, of in BACKENDS.items() if of == backend]
    return dict(found)


def served_digits(server: str) -> dict[str, dict[str, Any]]:
    backends = [backend for backend in SERVERS[server] if backend in BACKENDS.values()]
    configs = {name: config for backend in backends for name, (config, _) in models_of(backend).items()}
    return {name: {**config, "nb_classes": 10, "access": "trainer"} for name, config in configs.items()}


# Plain steps are taken in the same order on the same rows. They differ in roundings alone, which may change some of 497 classes.
CLOSE = 0.01


@pytest.fixture(scope="module")
def server_with_digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    with servers(tmp_path_factory.mktemp("digits"), served_digits) as connected:
        yield connected


@pytest.fixture(params=list(BACKENDS))
def name(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def remote(server_with_digits: Callable[[str], Server], name: str) -> Iterator[RemoteEstimator]:
    remote = server_with_digits(BACKENDS[name]).estimator(name)
    yield remote
    remote.reset()


def split(remote: RemoteEstimator) -> tuple[Any, Any, Any, Any]:
    """Rows and classes to train on, and those that are held out."""
    x, n = data.X.reshape(-1, *remote.input_shape), data.NB_TRAINED
    return x[:n], data.Y[:n], x[n:], data.Y[n:]


def test_a_fit_of_digits_is_as_good_as_the_frameworks_own(remote: RemoteEstimator, name: str) -> None:
    x, y, held_out, expected = split(remote)
    seen: list[Progress] = []
    remote.fit(x, y, **data.SETTINGS, on_progress=seen.append)
    found = remote.predict(held_out).argmax(1)
    plain = models_of(BACKENDS[name])[name][1](x, y, held_out)
    ours, theirs = (found == expected).mean(), (plain == expected).mean()
    assert theirs > 0.85

    places = [(progress.epoch, progress.batch) for progress in seen]
    assert places == sorted(places)
    last = seen[-1]
    assert (last.epoch, last.batch) == (last.nb_epochs, last.nb_batches)
    if remote.card.backend == "sklearn":
        # One fit of all rows: the same one.
        np.testing.assert_array_equal(found, plain)
        assert places == [(1, 0), (1, 1)]
    else:
        assert ours == pytest.approx(theirs, abs=CLOSE)
        assert (last.nb_epochs, last.nb_batches) == (data.SETTINGS["nb_epochs"], -(-len(x) // data.SETTINGS["batch_size"]))
        losses = [progress.loss for progress in seen if progress.loss is not None]
        assert len(losses) > 1
        assert losses[-1] < losses[0] / 4


class Enough(Exception):
    """Of a caller who has seen enough."""


def test_a_cancelled_fit_of_digits_leaves_what_was_learnt_before(remote: RemoteEstimator) -> None:
    x, y, held_out, expected = split(remote)
    remote.fit(x, y, **{**data.SETTINGS, "nb_epochs": 3})
    learnt, version = remote.predict(held_out), remote.card.version
    assert (learnt.argmax(1) == expected).mean() > 0.5
    whole = remote.card.backend == "sklearn"

    def stop(progress: Progress) -> None:
        if whole or progress.epoch > 1:
            raise Enough

    # With other labels, so that whatever this fit left behind would show.
    with pytest.raises(Enough):
        remote.fit(x, (y * 3 + 1) % 10, batch_size=64, nb_epochs=10_000, on_progress=stop)
    np.testing.assert_array_equal(remote.predict(held_out), learnt)
    assert remote.refresh().version == version
