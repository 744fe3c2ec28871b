"""Wrong arguments raise gradwire's errors, with the given value and the expected one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from gradwire.client import RemoteEstimator, connect
from gradwire.client.errors import DtypeError, InvalidCall, LayerError, ShapeError, TooLarge
from gradwire.server import serving

MODEL = {"backend": "torch", "factory": models.mlp, "loss": "torch.nn.CrossEntropyLoss", "optimizer": "torch.optim.SGD",
         "access": "trainer", "input_shape": [6], "nb_classes": 4}  # fmt: skip
X, Y = np.zeros((5, 6)), np.arange(5) % 4


@pytest.fixture(scope="module")
def remote() -> Iterator[RemoteEstimator]:
    with serving({"m": MODEL}) as address, connect(address) as server:
        yield server.estimator("m")


@pytest.mark.parametrize("wrong", ["a", 1 << 40, 1.5, True, None, -1, [2]])
def test_a_count_that_is_not_whole_or_out_of_range_is_refused(remote: RemoteEstimator, wrong: Any) -> None:
    with pytest.raises(InvalidCall, match="batch_size is .* expected a whole number from 0 to 2147483647"):
        remote.predict(X, batch_size=wrong)
    for option in ("batch_size", "nb_epochs"):
        with pytest.raises(InvalidCall, match=f"{option} is .* expected a whole number from 1 to"):
            remote.fit(X, Y, **{option: wrong})
    with pytest.raises(InvalidCall, match="nb_epochs is"):
        remote.fit_generator([(X, Y)], nb_epochs=wrong)
    if wrong not in (1 << 40, None):
        with pytest.raises(InvalidCall, match="seed is .* from 0 to 18446744073709551615"):
            remote.fit(X, Y, seed=wrong)


def test_a_count_may_be_numpys(remote: RemoteEstimator) -> None:
    assert remote.predict(X, batch_size=np.int64(2)).shape == (5, 4)  # type: ignore[arg-type]
    remote.fit(X, Y, batch_size=np.uint8(2), nb_epochs=np.int32(1), seed=np.uint64((1 << 64) - 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [3, "ab", ("0", "1"), (1,), (0, 1, 2), (0, "b"), ([0, 0], [1, 1, 1]), ([0, [1]], 1)])
@pytest.mark.parametrize("name", ["clip_values", "preprocessing"])
def test_what_is_no_pair_of_numbers_is_refused(remote: RemoteEstimator, name: str, wrong: Any) -> None:
    with pytest.raises(InvalidCall, match=rf"{name} is .* expected \(m"):
        remote.set_params(**{name: wrong})


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ([["a"] * 4] * 5, DtypeError),
        ([[1.0] * 4, [1.0]], ShapeError),
        (np.zeros((5, 3)), ShapeError),
        (np.zeros(4), ShapeError),
        (1.0, ShapeError),
        (np.zeros((0, 4)), ShapeError),
    ],
)
def test_predictions_that_are_none_are_refused(remote: RemoteEstimator, wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="pred .* expected"):
        remote.compute_loss_from_predictions(wrong, Y)


def test_ragged_and_unreadable_arguments_are_refused_by_their_names(remote: RemoteEstimator) -> None:
    ragged = [[1.0], [1.0, 2.0], [0.0], [0.0], [0.0]]

    class Elsewhere:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise TypeError("cannot convert a tensor of another device")

    with pytest.raises(ShapeError, match="cannot convert x to an array: .* one shape"):
        remote.predict(ragged)
    with pytest.raises(ShapeError, match="cannot convert y to an array"):
        remote.loss_gradient(X, ragged)
    with pytest.raises(ShapeError, match="cannot convert label to an array"):
        remote.class_gradient(X, ragged)
    with pytest.raises(ShapeError, match="cannot convert cotangent to an array"):
        remote.vjp(X, ragged)
    with pytest.raises(DtypeError, match="cannot convert x to an array: cannot convert"):
        remote.predict(Elsewhere())
    with pytest.raises(LayerError):
        remote.get_activations(X, 1 << 40)


def test_what_the_server_would_have_to_hold_beyond_its_limit_is_not_sent(remote: RemoteEstimator) -> None:
    limits = replace(remote.card.limits, max_held_bytes=100)
    small = RemoteEstimator(remote.server, replace(remote.card, limits=limits))
    rows = np.zeros((20, 6))
    for call in (
        lambda: small.loss_gradient(rows, np.zeros(20, int)),
        lambda: small.compute_loss_from_predictions(np.zeros((20, 4)), np.zeros(20, int)),
        lambda: small.class_gradient(rows, np.zeros(20, int)),
        lambda: small.vjp(rows, np.zeros((20, 4))),
        lambda: small.fit(rows, np.zeros(20, int)),
    ):
        with pytest.raises(TooLarge, match="max_held_bytes is 100"):
            call()
    assert small.predict(rows).shape == (20, 4)


def test_a_name_that_is_no_string_is_refused(remote: RemoteEstimator) -> None:
    for call in (remote.save, remote.restore, remote.server.estimator, remote.server.usage):
        with pytest.raises(InvalidCall, match="is 3; expected a name"):
            call(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0, -1.0, "a", True, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidCall, match="timeout_s is .* expected a number of seconds greater than 0"):
        connect("localhost:1", timeout_s=wrong)


def test_a_certificate_that_cannot_be_read_is_refused_at_once(tmp_path: Path) -> None:
    for wrong in (tmp_path / "nowhere.pem", tmp_path, 3.5):
        with pytest.raises(InvalidCall, match="tls is .* expected a file"):
            connect("localhost:1", tls=wrong)  # type: ignore[arg-type]
