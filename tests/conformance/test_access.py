"""Access levels: every operation at each level; card and server agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conformance.cases import CASES

from gradwire.client import RemoteEstimator, Server
from gradwire.client.errors import LayerError, NotGranted, ShapeError

CASE = CASES["torch-cnn"]
GRADIENTS = frozenset({"predict", "loss", "loss_gradient", "class_gradient", "vjp", "get_activations"})
GRANTED = {
    "labels": frozenset({"predict"}),
    "scores": frozenset({"predict"}),
    "gradients": GRADIENTS,
    "trainer": CASE.operations,
}


def calls(remote: RemoteEstimator) -> dict[str, Any]:
    x, y = CASE.rows(3, 0), CASE.labels(3)
    return {
        "predict": lambda: remote.predict(x),
        "loss": lambda: remote.compute_loss(x, y),
        "loss of predictions": lambda: remote.compute_loss_from_predictions(np.zeros((3, 10)), y),
        "loss_gradient": lambda: remote.loss_gradient(x, y),
        "class_gradient": lambda: remote.class_gradient(x),
        "get_activations": lambda: remote.get_activations(x, 0),
        "vjp": lambda: remote.vjp(x, np.zeros((3, 10))),
        "fit": lambda: remote.fit(x, y, nb_epochs=1),
        "fit_generator": lambda: remote.fit_generator([(x, y)], nb_epochs=1),
        "save": lambda: remote.save("access", overwrite=True),
        "restore": lambda: remote.restore("access"),
        "versions": remote.versions,
        "reset": remote.reset,
        "clone_for_refitting": lambda: remote.clone_for_refitting().delete(),
    }


OPERATION = {"loss of predictions": "loss", "restore": "save", "versions": "save", "reset": "save"}


@pytest.mark.parametrize("access", GRANTED)
def test_an_access_gives_its_operations_and_no_other(server: Server, access: str) -> None:
    remote = server.estimator("torch-cnn" if access == "trainer" else f"torch-cnn-{access}")
    assert remote.card.access == access
    assert remote.card.operations == GRANTED[access]
    for name, call in calls(remote).items():
        if OPERATION.get(name, name) in GRANTED[access]:
            call()
        else:
            with pytest.raises(NotGranted, match=access):
                call()


def test_labels_are_one_hot_rows_of_the_top_class(server: Server) -> None:
    x = CASE.rows(300, 1)
    labels = server.estimator("torch-cnn-labels")
    answered = labels.predict(x)
    assert set(np.unique(answered)) == {0.0, 1.0}
    np.testing.assert_array_equal(answered.argmax(1), server.estimator("torch-cnn-scores").predict(x).argmax(1))
    np.testing.assert_array_equal(answered.sum(1), 1)
    assert labels.card.output_kind == "labels"


def test_labels_do_not_change_with_the_learning_phase(server: Server) -> None:
    x = CASE.rows(50, 2)
    labels = server.estimator("torch-cnn-labels")
    np.testing.assert_array_equal(labels.predict(x, training_mode=True), labels.predict(x))


def test_a_card_tells_a_black_box_caller_nothing_of_the_inside(server: Server) -> None:
    for access in ("labels", "scores"):
        card = server.estimator(f"torch-cnn-{access}").card
        assert (card.layer_names, card.loss, card.notes, card.preprocessing, card.preprocessing_defences) == ((), "", (), None, ())


def test_rows_are_counted_forward_and_backward_by_served_name(server: Server) -> None:
    remote = server.estimator("torch-cnn-gradients")
    x, y = CASE.rows(200, 3), CASE.labels(200)
    counted = []
    for call in (
        lambda: remote.predict(x),
        lambda: remote.compute_loss(x, y),
        lambda: remote.loss_gradient(x, y),
        lambda: remote.class_gradient(x[:5]),
        lambda: remote.class_gradient(x, label=3),
        lambda: remote.get_activations(x, 0),
        lambda: remote.vjp(x, np.zeros((200, 10))),
        lambda: remote.compute_loss_from_predictions(np.zeros((200, 10)), y),
    ):
        before = remote.usage()
        call()
        after = remote.usage()
        counted.append((after.forward - before.forward, after.backward - before.backward))
    assert counted == [(200, 0), (200, 0), (200, 200), (5, 50), (200, 200), (200, 0), (200, 200), (0, 0)]


def test_what_is_refused_is_not_counted(server: Server) -> None:
    remote = server.estimator("torch-cnn-gradients")
    before = remote.usage()
    with pytest.raises(ShapeError):
        remote.predict(np.zeros((3, 2)))
    with pytest.raises(LayerError):
        remote.get_activations(CASE.rows(2, 0), "nowhere")
    assert remote.usage() == before
