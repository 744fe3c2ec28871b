"""Answers of predict besides outputs: those on the card are given, all others refused on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conformance.cases import CASES, Case

from gradwire.client import RemoteEstimator, Server
from gradwire.client.art import art_estimator
from gradwire.client.errors import InvalidCall, NotGranted, Unsupported
from gradwire.v1 import estimator_pb2 as pb
from gradwire.wire.frames import open_field
from gradwire.wire.names import ANSWER_NAMES

N = 7


def asking(remote: RemoteEstimator) -> dict[str, Callable[..., Any]]:
    return {
        "logits": lambda x, **options: remote.predict(x, logits=True, **options),
        "uncertainty": remote.predict_uncertainty,
        "members": lambda x, **options: remote.predict(x, raw=True, **options),
    }


def of_backend(backend: str) -> list[str]:
    return [name for name, case in CASES.items() if case.config["backend"] == backend]


def test_what_the_card_lists_is_answered_and_all_else_refused_on_both_sides(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 20)
    assert "outputs" in remote.card.answers
    everything = RemoteEstimator(remote.server, replace(remote.card, answers=frozenset(ANSWER_NAMES.values())))
    for answer, ask in asking(remote).items():
        if answer in remote.card.answers:
            assert np.isfinite(ask(x)).all()
            continue
        with pytest.raises(Unsupported, match=f"{remote.card.name}.*{answer}"):
            ask(x)
        with pytest.raises(Unsupported, match=f"has no {answer}"):
            asking(everything)[answer](x)


@pytest.mark.parametrize("name", of_backend("gpy"))
def test_logits_and_uncertainty_of_a_process_make_its_probabilities(remote: RemoteEstimator, case: Case) -> None:
    from scipy.stats import norm

    x = case.rows(300, 21)
    logits, variance = remote.predict(x, logits=True), remote.predict_uncertainty(x)
    assert (logits.shape, variance.shape, logits.dtype, variance.dtype) == ((300, 2), (300, 1), np.float64, np.float64)
    np.testing.assert_array_equal(logits[:, 0], -logits[:, 1])
    np.testing.assert_allclose(norm.cdf(logits / np.sqrt(1 + variance)), remote.predict(x), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(remote.predict(x, logits=True, batch_size=11), logits, rtol=1e-9)


@pytest.mark.parametrize("name", of_backend("ensemble"))
def test_members_add_up_to_the_outputs(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(300, 22)
    members = remote.predict(x, raw=True)
    assert members.shape == (len(case.config["members"]), 300, *remote.card.output_shape)
    assert members.flags.c_contiguous
    np.testing.assert_allclose(members.sum(axis=0), remote.predict(x), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(remote.predict(x, raw=True, batch_size=7), members, rtol=1e-6, atol=1e-9)


def test_art_asks_by_the_same_keywords(server: Server) -> None:
    process, x = server.estimator("gpy-rbf"), CASES["gpy-rbf"].rows(N, 23)
    estimator = art_estimator(process)
    np.testing.assert_array_equal(estimator.predict(x, logits=True), process.predict(x, logits=True))
    np.testing.assert_array_equal(estimator.predict_uncertainty(x), process.predict_uncertainty(x))
    ensemble = of_backend("ensemble")[0]
    x = CASES[ensemble].rows(N, 23)
    np.testing.assert_array_equal(
        art_estimator(server.estimator(ensemble)).predict(x, raw=True), server.estimator(ensemble).predict(x, raw=True)
    )


def test_two_answers_at_once_are_refused(server: Server) -> None:
    with pytest.raises(InvalidCall, match="logits and raw"):
        server.estimator("gpy-rbf").predict(CASES["gpy-rbf"].rows(N, 24), logits=True, raw=True)


@pytest.mark.parametrize("number", [99, -1, 1 << 30])
def test_an_answer_that_is_not_in_the_contract_is_named(server: Server, number: int) -> None:
    opened = pb.PredictOpen(call=pb.CallHeader(model="gpy-rbf"), answer=number)  # type: ignore[arg-type]
    with pytest.raises(InvalidCall, match=f"answer number {number} .* logits, outputs, uncertainty"):
        server.connection.call("Predict", open_field(opened.SerializeToString()), [("x", CASES["gpy-rbf"].rows(N, 25))])


def test_outputs_may_be_asked_for_by_name(server: Server) -> None:
    x = CASES["gpy-rbf"].rows(N, 26)
    opened = pb.PredictOpen(call=pb.CallHeader(model="gpy-rbf"), answer=pb.ANSWER_OUTPUTS)
    answered = server.connection.call("Predict", open_field(opened.SerializeToString()), [("x", x)])
    np.testing.assert_array_equal(answered, server.estimator("gpy-rbf").predict(x))


def test_a_row_of_another_answer_is_counted_as_one_of_outputs(server: Server) -> None:
    remote = server.estimator("gpy-rbf")
    before = remote.usage()
    remote.predict_uncertainty(CASES["gpy-rbf"].rows(200, 27))
    after = remote.usage()
    assert (after.forward - before.forward, after.backward - before.backward) == (200, 0)


def test_labels_get_outputs_alone_and_say_so_on_both_sides(server: Server) -> None:
    labels, x = server.estimator("torch-cnn-labels"), CASES["torch-cnn"].rows(N, 28)
    assert labels.card.answers == {"outputs"}
    for ask in asking(labels).values():
        with pytest.raises(NotGranted, match="access 'labels'"):
            ask(x)
    everything = RemoteEstimator(server, replace(labels.card, answers=frozenset(ANSWER_NAMES.values())))
    for ask in asking(everything).values():
        with pytest.raises(NotGranted, match="needs 'scores'"):
            ask(x)
