"""Answers behind postprocessed outputs, which only callers with gradients may see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import GPy
import numpy as np
import pytest

from gradwire.client import RemoteEstimator, Server, connect
from gradwire.client.errors import NotGranted, Unsupported
from gradwire.server import serving

X = np.random.default_rng(0).uniform(size=(20, 3))


class Rounded:
    """A defence that hides all but the first digit."""

    apply_fit = False
    apply_predict = True

    def __call__(self, preds: Any) -> Any:
        return np.round(preds, 1)


# One for all: GPy visits rows in a random order, so that two models of the same rows differ in their last digits.
PROCESS = GPy.models.GPClassification(X, (X[:, :1] > 0.5).astype(float))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    model = {"backend": "gpy", "factory": lambda: PROCESS, "input_shape": [3], "nb_classes": 2}
    models = {
        "defended": {**model, "postprocessing_defences": [Rounded]},
        "defended-scores": {"same_as": "defended", "access": "scores"},
        "plain": model,
        "plain-scores": {"same_as": "plain", "access": "scores"},
    }
    with serving(models) as address, connect(address) as server:
        yield server


def test_scores_tell_logits_and_uncertainty_of_outputs_that_nothing_is_done_to(server: Server) -> None:
    assert server.estimator("plain-scores").card.answers == {"outputs", "logits", "uncertainty"}
    for ask in (lambda remote: remote.predict(X, logits=True), lambda remote: remote.predict_uncertainty(X)):
        np.testing.assert_array_equal(ask(server.estimator("plain-scores")), ask(server.estimator("plain")))


def test_scores_do_not_tell_what_postprocessing_hides(server: Server) -> None:
    remote = server.estimator("defended-scores")
    assert remote.card.answers == {"outputs"}
    with pytest.raises(Unsupported, match="'defended-scores' does not answer logits .* it answers: outputs"):
        remote.predict(X, logits=True)
    lying = RemoteEstimator(server, replace(remote.card, answers=frozenset({"outputs", "logits", "uncertainty"})))
    for ask in (lambda: lying.predict(X, logits=True), lambda: lying.predict_uncertainty(X)):
        with pytest.raises(NotGranted, match="needs 'gradients', because outputs are rounded or postprocessed"):
            ask()
    np.testing.assert_array_equal(remote.predict(X), np.round(server.estimator("plain").predict(X), 1))


def test_postprocessing_is_of_outputs_alone(server: Server) -> None:
    defended, plain = server.estimator("defended"), server.estimator("plain")
    np.testing.assert_array_equal(defended.predict(X, logits=True), plain.predict(X, logits=True))
    np.testing.assert_array_equal(defended.predict_uncertainty(X), plain.predict_uncertainty(X))
    assert (defended.predict(X) != plain.predict(X)).any()
