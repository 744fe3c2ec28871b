"""Fit is a transaction over a socket: whatever ends it early, the model is what it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conformance.cases import CASES, Case, with_operation
from conformance.nets.torch import recurrent
from sklearn.datasets import load_digits
from torch import nn

from gradwire.client import Progress, RemoteEstimator, Server, connect
from gradwire.client.errors import (
    InvalidCall,
    ModelFailed,
    TooManyClones,
    UnknownModel,
    UnknownVersion,
    Unsupported,
    VersionExists,
)
from gradwire.server import serving

TRAINED = [name for name, case in CASES.items() if "fit" in case.operations]


@pytest.fixture(params=TRAINED)
def name(request: Any) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _as_it_was(request: Any) -> Iterator[None]:
    remote = request.getfixturevalue("remote") if "remote" in request.fixturenames else None
    yield
    if remote is not None:
        remote.reset()


def data(case: Case, n: int = 60) -> tuple[Any, Any]:
    # Every class is there, so that a scikit-learn model keeps its classes.
    return case.rows(n, 0), np.arange(n) % case.nb_classes if case.task == "classification" else case.labels(n, 0)


def impossible(case: Case, y: Any) -> Any:
    """Labels that no model of the case's kind takes, as many as there are."""
    return y + case.nb_classes if case.task == "classification" else np.full(y.shape, np.nan)


class Enough(Exception):
    """Of a caller who has seen enough."""


def stop(progress: Progress) -> None:
    raise Enough


def test_fit_changes_the_model_and_makes_a_version(remote: RemoteEstimator, case: Case) -> None:
    x, y = data(case)
    before, version = remote.predict(x), remote.card.version
    seen: list[Progress] = []
    remote.fit(x, y, batch_size=20, nb_epochs=2, seed=1, on_progress=seen.append)
    assert not np.allclose(remote.predict(x), before)
    assert remote.card.version.startswith("fit-")
    assert remote.card.version != version
    assert seen[-1].epoch == seen[-1].nb_epochs
    assert seen[-1].batch == seen[-1].nb_batches
    if "fit_generator" in case.operations:
        assert (seen[-1].nb_epochs, seen[-1].nb_batches) == (2, 3)
        assert seen[-1].loss is not None


@with_operation("fit", where=lambda case: case.repeatable)
def test_the_same_seed_gives_the_same_fit(remote: RemoteEstimator, case: Case) -> None:
    x, y = data(case)
    remote.fit(x, y, batch_size=16, nb_epochs=2, seed=3)
    first = remote.predict(x)
    remote.reset()
    remote.fit(x, y, batch_size=16, nb_epochs=2, seed=3)
    np.testing.assert_array_equal(remote.predict(x), first)


def test_a_fit_that_is_cancelled_changes_nothing(remote: RemoteEstimator, case: Case) -> None:
    # scikit-learn fits in one go: rows enough that it is still at it when the cancel comes.
    x, y = data(case, 60 if "fit_generator" in case.operations else case.long_fit_rows)
    before, version = remote.predict(x), remote.refresh().version

    with pytest.raises(Enough):
        remote.fit(x, y, batch_size=1, nb_epochs=1000, on_progress=stop)
    np.testing.assert_array_equal(remote.predict(x), before)
    assert remote.refresh().version == version


def test_wrong_training_data_changes_nothing(remote: RemoteEstimator, case: Case) -> None:
    x, y = data(case)
    before = remote.predict(x)
    for wrong_x, wrong_y in ((x[..., :1], y), (x, y[:-1]), (x, impossible(case, y)), (x[:0], y[:0])):
        with pytest.raises(InvalidCall):
            remote.fit(wrong_x, wrong_y)
    with pytest.raises(InvalidCall):
        remote.fit(x, y, nb_epochs=0)
    np.testing.assert_array_equal(remote.predict(x), before)


@with_operation("fit_generator")
def test_rows_that_make_no_whole_batch_change_nothing(remote: RemoteEstimator, case: Case) -> None:
    x, y = data(case)
    before = remote.predict(x)
    with pytest.raises(InvalidCall, match="drop_last"):
        remote.fit(x[:3], y[:3], batch_size=8, drop_last=True, nb_epochs=1)
    np.testing.assert_array_equal(remote.predict(x), before)


@with_operation("fit_generator")
def test_batches_are_trained_on_as_they_come(remote: RemoteEstimator, case: Case) -> None:
    x, y = data(case)
    before = remote.predict(x)
    remote.fit_generator([(x[:30], y[:30]), (x[30:], y[30:])], nb_epochs=3)
    assert not np.allclose(remote.predict(x), before)


@with_operation("fit_generator")
def test_batches_that_end_in_an_error_change_nothing(remote: RemoteEstimator, case: Case) -> None:
    x, y = data(case)
    before = remote.predict(x)

    def failing() -> Iterator[Any]:
        yield x[:30], y[:30]
        raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="own"):
        remote.fit_generator(failing(), nb_epochs=1)

    def wrong() -> Iterator[Any]:
        yield x[:30], y[:30]
        yield x[:30], impossible(case, y[:30])

    with pytest.raises(InvalidCall):
        remote.fit_generator(wrong(), nb_epochs=1)
    np.testing.assert_array_equal(remote.predict(x), before)


def test_versions_are_kept_listed_and_brought_back(remote: RemoteEstimator, case: Case) -> None:
    x, y = data(case)
    first = remote.predict(x)
    saved = remote.save("first")
    assert saved.nbytes > 0
    remote.fit(x, y, nb_epochs=1, seed=0)
    second = remote.predict(x)
    remote.save("second")
    assert [version.name for version in remote.versions()][-2:] == ["first", "second"]
    remote.restore("first")
    np.testing.assert_array_equal(remote.predict(x), first)
    assert remote.card.version == "first"
    remote.restore("second")
    np.testing.assert_array_equal(remote.predict(x), second)
    remote.reset()
    np.testing.assert_array_equal(remote.predict(x), first)
    assert remote.card.version == "initial"


def test_a_version_is_a_name_and_never_a_path(remote: RemoteEstimator) -> None:
    for wrong in ("../escape", "/etc/passwd", "", "a/b", ".hidden", "x" * 65, "nul\0"):
        with pytest.raises(InvalidCall):
            remote.save(wrong)
        with pytest.raises(InvalidCall):
            remote.restore(wrong)
    with pytest.raises(Unsupported, match="path"):
        remote.save("name", path="/tmp")
    with pytest.raises(UnknownVersion, match="there are"):
        remote.restore("never-saved")


def test_a_version_is_not_overwritten_unless_asked(remote: RemoteEstimator) -> None:
    remote.save("once", overwrite=True)
    with pytest.raises(VersionExists, match="overwrite"):
        remote.save("once")
    remote.save("once", overwrite=True)


@with_operation("clone_for_refitting")
def test_a_clone_is_fitted_without_the_original_noticing(remote: RemoteEstimator, case: Case) -> None:
    x, y = data(case)
    before = remote.predict(x)
    clone = remote.clone_for_refitting()
    assert clone.card.clone_of == remote.card.name
    assert clone.card.operations == remote.card.operations
    clone.fit(x, y, nb_epochs=1)
    assert clone.predict(x).shape == before.shape
    np.testing.assert_array_equal(remote.predict(x), before)
    clone.delete()
    with pytest.raises(UnknownModel):
        clone.predict(x)


def test_clones_are_bounded(server: Server) -> None:
    remote = server.estimator("sklearn-logistic")
    clones = [remote.clone_for_refitting() for _ in range(4)]
    with pytest.raises(TooManyClones):
        remote.clone_for_refitting()
    for clone in clones:
        clone.delete()
    remote.clone_for_refitting().delete()


class FailsLater(nn.Module):
    """Raises in its fifth training step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)
        self.steps = 0

    def forward(self, x: Any) -> Any:
        if self.training:
            self.steps += 1
            if self.steps == 5:
                raise RuntimeError("out of ideas")
        return self.inner(x)


def torch_model(factory: Any, **more: Any) -> dict[str, Any]:
    return dict(backend="torch", factory=factory, loss="torch.nn.CrossEntropyLoss", access="trainer",
                optimizer={"path": "torch.optim.SGD", "args": {"lr": 0.1, "momentum": 0.9}}, **more)  # fmt: skip


def test_a_fit_that_fails_in_the_middle_changes_nothing() -> None:
    x, y = np.random.default_rng(0).normal(size=(64, 3)).astype("f4"), np.arange(64) % 2
    with serving({"m": torch_model(FailsLater, input_shape=[3], nb_classes=2)}) as address, connect(address) as server:
        remote = server.estimator("m")
        before = remote.predict(x)
        with pytest.raises(ModelFailed, match="out of ideas"):
            remote.fit(x, y, batch_size=8, nb_epochs=2)
        np.testing.assert_array_equal(remote.predict(x), before)
        assert remote.refresh().version == "initial"
        remote.fit(x, y, batch_size=8, nb_epochs=1)
        assert not np.allclose(remote.predict(x), before)


def test_training_data_beyond_memory_is_spooled_and_fits_the_same() -> None:
    x, y = np.random.default_rng(0).normal(size=(4000, 7, 3)), np.arange(4000) % 4
    model = torch_model(recurrent, input_shape=[7, 3], nb_classes=4, preprocessing={"mean": 0.1, "std": 2.0})
    predictions = []
    for memory in (1 << 30, 0):
        with serving({"m": model}, limits={"fit_memory_bytes": memory}) as address, connect(address) as server:
            remote = server.estimator("m")
            remote.fit(x, y, nb_epochs=1, seed=5)
            predictions.append(remote.predict(x[:50]))
    np.testing.assert_array_equal(*predictions)


def digits_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def test_a_remote_fit_learns_real_digits_and_serves_others_meanwhile() -> None:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("f4").reshape(-1, 8, 8)
    models = {
        "digits": {**torch_model(digits_net, input_shape=[8, 8], nb_classes=10), "optimizer": "torch.optim.Adam"},
        "other": CASES["torch-cnn"].config,
    }
    answered = []
    with serving(models) as address, connect(address) as server:
        other = server.estimator("other")
        remote = server.estimator("digits")
        remote.fit(x[:1300], y[:1300], nb_epochs=30, batch_size=64, seed=0,
                   on_progress=lambda _: answered.append(other.predict(CASES["torch-cnn"].rows(2, 0))))  # fmt: skip
        assert (remote.predict(x[1300:]).argmax(1) == y[1300:]).mean() > 0.9
    assert answered
