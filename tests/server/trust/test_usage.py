"""Rows used and left, to the row: of every operation, of calls that fail, are cancelled or refused, and of everybody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server.trust.sites import ADMIN, MLP, SUMS, Site, in_a_day, site

from gradwire.client import RemoteEstimator, Server, Usage
from gradwire.client.errors import BudgetSpent, CallTimeout, GradwireError, ModelFailed, NotGranted, RateLimited, ShapeError
from gradwire.client.grants import Budget, Grant
from gradwire.server.store import Store

BIG = 10_000_000
LIMITED = {"forward": BIG, "backward": BIG}
SLOW = {**SUMS, "name": "slow", "factory": {"path": "owners:slow", "args": {"seconds": 0.3}}, "max_batch_rows": 10}
FAILS = {"name": "fails", "backend": "torch", "factory": MLP["factory"], "input_shape": [-1], "nb_classes": 4, "access": "scores"}
MODELS = [MLP, SLOW, FAILS]


@pytest.fixture(scope="module", params=[100, 1], ids=["leases", "exact"])
def served(request: Any, tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[Site]:
    grants: list[dict[str, Any]] = [
        {"principal": "alice", "model": "mlp", "access": "trainer", "activations": True, "budget": LIMITED},
        {"principal": "bob", "model": "mlp", "access": "gradients"},
        *({"principal": "alice", "model": model, "access": "scores", "budget": LIMITED} for model in ("slow", "fails")),
    ]
    with site(
        tmp_path_factory.mktemp("usage"), MODELS, grants, ["carol", "dan", "eve", "fay"], lease_rows=request.param
    ) as started:
        yield started


@pytest.fixture
def alice(served: Site) -> Iterator[Server]:
    with served.connect("alice") as connected:
        yield connected


@pytest.fixture
def admin(served: Site) -> Iterator[Server]:
    with served.connect(ADMIN) as connected:
        yield connected


X, Y = np.linspace(-1, 1, 42, dtype=np.float32).reshape(7, 6), np.array([0, 1, 2, 3, 0, 1, 2])
MANY = np.tile(X, (40, 1))
CALLS: dict[str, tuple[Callable[[RemoteEstimator], Any], tuple[int, int]]] = {
    "predict": (lambda r: r.predict(X), (7, 0)),
    "predict in blocks": (lambda r: r.predict(MANY), (280, 0)),
    "compute_loss": (lambda r: r.compute_loss(X, Y), (7, 0)),
    "mean loss in blocks": (lambda r: r.compute_loss(MANY, np.tile(Y, 40), "mean"), (280, 0)),
    "loss of predictions": (lambda r: r.compute_loss_from_predictions(np.zeros((7, 4)), Y), (0, 0)),
    "loss_gradient": (lambda r: r.loss_gradient(X, Y), (7, 7)),
    "loss_gradient in blocks": (lambda r: r.loss_gradient(MANY, np.tile(Y, 40)), (280, 280)),
    "class_gradient of all 4": (lambda r: r.class_gradient(X), (7, 28)),
    "class_gradient of one": (lambda r: r.class_gradient(X, 2), (7, 7)),
    "class_gradient of one a row": (lambda r: r.class_gradient(X, Y), (7, 7)),
    "get_activations": (lambda r: r.get_activations(X, 0), (7, 0)),
    "vjp": (lambda r: r.vjp(X, np.ones((7, 4))), (7, 7)),
    "vjp of a layer": (lambda r: r.vjp(X, np.ones((7, 8)), 0), (7, 7)),
    "custom_loss_gradient": (lambda r: r.custom_loss_gradient(np.ones_like, X), (14, 7)),
    "fit": (lambda r: r.fit(X, Y, nb_epochs=2), (0, 0)),
    "fit_generator": (lambda r: r.fit_generator([(X, Y)], nb_epochs=2), (0, 0)),
    "save": (lambda r: r.save("usage", overwrite=True), (0, 0)),
    "reset": (lambda r: r.reset(), (0, 0)),
}


def spent(before: Usage, after: Usage) -> tuple[int, int]:
    """Forward and backward rows; what was used is what is less."""
    used = (after.forward - before.forward, after.backward - before.backward)
    assert used == (
        (before.left_forward or 0) - (after.left_forward or 0),
        (before.left_backward or 0) - (after.left_backward or 0),
    )
    return used


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_charged_its_rows(alice: Server, call: str) -> None:
    remote = alice.estimator("mlp")
    before = remote.usage()
    CALLS[call][0](remote)
    assert spent(before, remote.usage()) == CALLS[call][1]


def test_a_call_that_fails_costs_nothing(alice: Server) -> None:
    remote = alice.estimator("fails")
    before = remote.usage()
    with pytest.raises(ModelFailed):
        remote.predict(np.zeros((9, 5), np.float32))
    with suppress(GradwireError):
        remote.predict(np.zeros((600, 5), np.float32))
    mlp = alice.estimator("mlp")
    before_mlp = mlp.usage()
    with pytest.raises(ShapeError):
        mlp.predict(np.zeros((3, 5)))
    assert spent(before, remote.usage()) == (0, 0)
    assert spent(before_mlp, mlp.usage()) == (0, 0)


def test_a_call_that_is_cancelled_costs_what_was_computed(served: Site) -> None:
    with served.connect("alice") as asking, served.connect("alice", timeout_s=0.8) as impatient:
        remote = asking.estimator("slow")
        before = remote.usage()
        with pytest.raises(CallTimeout):
            RemoteEstimator(impatient, remote.card).predict(np.ones((100, 6), np.float32))
        # Ten blocks of ten, 0.3 s each: two or three were done, and one was on the device.
        end_s = time.monotonic() + 15
        while (found := remote.usage()).forward + (found.left_forward or 0) != BIG or found == before:
            assert time.monotonic() < end_s
            time.sleep(0.1)
        used, _ = spent(before, found)
        assert used % 10 == 0
        assert 10 <= used < 100


def test_a_block_that_is_on_the_device_when_its_call_is_cancelled_is_used_and_one_that_waits_is_not(served: Site) -> None:
    """Otherwise a caller has all computed for nothing whose answer it can do without, as often as it likes."""
    with served.connect("alice") as asking, served.connect("alice", timeout_s=0.15) as impatient:
        remote = asking.estimator("slow")
        before = remote.usage()
        at_work = threading.Thread(target=remote.predict, args=(np.ones((10, 6), np.float32),))
        at_work.start()
        time.sleep(0.05)
        with pytest.raises(CallTimeout):
            RemoteEstimator(impatient, remote.card).predict(np.ones((7, 6), np.float32))
        at_work.join()
        assert spent(before, remote.usage())[0] == 10
        with pytest.raises(CallTimeout):
            RemoteEstimator(impatient, remote.card).predict(np.ones((5, 6), np.float32))
        end_s = time.monotonic() + 15
        while spent(before, remote.usage())[0] == 10:
            assert time.monotonic() < end_s
            time.sleep(0.1)
        assert spent(before, remote.usage())[0] == 15


def test_usage_is_of_the_caller_or_for_admins_of_others(served: Site, alice: Server, admin: Server) -> None:
    with served.connect("bob") as bob:
        bob.estimator("mlp").predict(X)
        own = bob.usage()
        assert [(one.principal, one.model, one.access) for one in own] == [("bob", "mlp", "gradients")]
        assert (own[0].left_forward, own[0].left_backward, own[0].refills, own[0].expires) == (None, None, None, None)
        with pytest.raises(NotGranted, match="'bob' is not an admin"):
            bob.usage(principal="alice")
        assert bob.usage(principal="bob")[0] == own[0]
    everybody = [(one.principal, one.model) for one in admin.usage(everybody=True)]
    assert everybody[:4] == [("alice", "mlp"), ("alice", "slow"), ("alice", "fails"), ("bob", "mlp")]
    assert {one.principal for one in admin.usage("mlp", everybody=True)} >= {"alice", "bob"}
    assert {one.model for one in admin.usage("slow", everybody=True)} == {"slow"}
    assert admin.usage("mlp", principal="alice") == alice.usage("mlp")
    assert admin.usage() == []


def test_the_last_row_can_be_had_and_the_error_says_that_nothing_refills(served: Site, admin: Server) -> None:
    admin.grants.put(Grant("carol", "mlp", "gradients", budget=Budget(forward=10, backward=3), expires=in_a_day()))
    with served.connect("carol") as carol:
        remote = carol.estimator("mlp")
        remote.predict(X)
        with pytest.raises(
            BudgetSpent, match=r"carol's budget for 'mlp' has 3 forward rows left of 10, and the call needs 7"
        ) as caught:
            remote.predict(X)
        assert "it does not refill; ask the server's operator for more" in str(caught.value)
        assert (caught.value.quota, caught.value.retry_after_s) == ("carol/mlp/forward", None)
        remote.loss_gradient(X[:3], Y[:3])
        assert (remote.usage().left_forward, remote.usage().left_backward) == (0, 0)
        with pytest.raises(BudgetSpent, match="0 forward rows left"):
            remote.predict(X[:1])
        assert abs((remote.usage().expires or datetime.now(timezone.utc)) - in_a_day()) < timedelta(minutes=2)
        # More is given; what is used stays used.
        admin.grants.put(Grant("carol", "mlp", "gradients", budget=Budget(forward=15)))
        assert remote.usage().left_forward == 5
        remote.predict(X[:5])
        admin.grants.revoke("carol", "mlp")


def test_a_budget_that_is_lowered_holds_from_the_next_call_on(served: Site, admin: Server) -> None:
    """The server may hold rows that it took when there were more."""
    admin.grants.put(Grant("dan", "slow", "scores", budget=Budget(forward=BIG)))
    with served.connect("dan") as dan:
        remote = dan.estimator("slow")
        remote.predict(X)
        base = remote.usage().forward
        admin.grants.put(Grant("dan", "slow", "scores", budget=Budget(forward=base + 3)))
        with pytest.raises(BudgetSpent, match="3 forward rows left"):
            remote.predict(X[:4])
        remote.predict(X[:3])
        assert remote.usage().left_forward == 0
        admin.grants.revoke("dan", "slow")


def test_a_window_refills_and_the_error_says_when(served: Site, admin: Server) -> None:
    admin.grants.put(Grant("eve", "slow", "scores", budget=Budget(window_s=4, window_forward=6)))
    with served.connect("eve") as eve:
        remote = eve.estimator("slow")
        remote.predict(X[:1])
        refills = remote.usage().refills
        assert refills is not None
        assert refills.timestamp() % 4 == 0
        with pytest.raises(
            BudgetSpent, match=r"of 6 in each 4 s, and the call needs 7; it refills at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
        ):
            remote.predict(X)
        while datetime.now(timezone.utc) < refills:
            time.sleep(0.1)
        assert remote.usage().left_forward == 6
        remote.predict(X[:6])
        admin.grants.revoke("eve", "slow")


def test_a_pace_tells_when_to_come_back(served: Site, admin: Server) -> None:
    from gradwire.client.settings import Retry

    admin.grants.put(Grant("fay", "slow", "scores", budget=Budget(rows_per_s=0.1)))
    with served.connect("fay", retry=Retry(attempts=1)) as fay:
        remote = fay.estimator("slow")
        assert remote.usage().rows_per_s == 0.1
        remote.predict(X[:1])
        with pytest.raises(RateLimited, match="0.1 rows a second") as caught:
            remote.predict(X[:1])
        assert 0 < (caught.value.retry_after_s or 0) <= 10
        admin.grants.revoke("fay", "slow")


def test_usage_outlives_the_server(tmp_path: Path) -> None:
    grants = [{"principal": "alice", "model": "sums", "access": "labels", "budget": {"forward": 100}}]
    with site(tmp_path, [SUMS], grants) as first, first.connect("alice") as alice:
        alice.estimator("sums").predict(X)
        first.server.signal(15)
        first.server.process.wait(20)
    (tmp_path / "tokens.yaml").unlink()
    with site(tmp_path, [SUMS], grants) as second, second.connect("alice") as alice:
        found = alice.usage("sums")[0]
        assert (found.forward, found.left_forward) == (7, 93)


def test_a_kill_loses_at_most_a_lease_and_with_lease_rows_1_nothing(tmp_path: Path) -> None:
    grants = [{"principal": "alice", "model": "sums", "access": "labels", "budget": {"forward": 100}}]
    for lease_rows, least in ((10, 83), (1, 93)):
        folder = tmp_path / str(lease_rows)
        folder.mkdir()
        with site(folder, [SUMS], grants, lease_rows=lease_rows) as first, first.connect("alice") as alice:
            alice.estimator("sums").predict(X)
            first.server.signal(9)
            first.server.process.wait()
        (folder / "tokens.yaml").unlink()
        with site(folder, [SUMS], grants, lease_rows=lease_rows) as second, second.connect("alice") as alice:
            assert least <= (alice.usage("sums")[0].left_forward or 0) <= 93


def test_a_refused_call_of_a_clone_is_recorded_under_its_origin_with_its_version(tmp_path: Path) -> None:
    """The name of a clone is the caller's; what it was refused is looked for under the model."""
    everything: dict[str, Any] = {"principal": "alice", "model": "mlp", "access": "trainer"}
    with site(tmp_path, [MLP], [everything]) as served, served.connect("alice") as alice:
        clone = alice.estimator("mlp").clone_for_refitting()
        served.write_grants([everything | {"operations": ["predict", "clone_for_refitting"]}])
        end_s = time.monotonic() + 30
        # The client still has the card from before.
        with pytest.raises(NotGranted):
            while time.monotonic() < end_s:
                clone.loss_gradient(X, Y)
                time.sleep(0.1)
        with pytest.raises(NotGranted):
            clone.save("hers")
        served.server.signal(15)
        served.server.process.wait(20)
    with Store.open(f"sqlite:///{tmp_path / '.gradwire' / 'gradwire.db'}", create=False) as store:
        refused = [call for batch in store.calls() for call in batch if call.outcome == "NOT_GRANTED"]
    assert {call.operation for call in refused} == {"loss_gradient", "save"}
    assert {(call.model, bool(call.version), call.forward) for call in refused} == {("mlp", True, 0)}
