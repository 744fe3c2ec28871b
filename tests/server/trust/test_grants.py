"""Grants from a file and from admins: their validity, expiry and revocation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from server.trust.sites import ADMIN, LONG_AGO, MLP, SUMS, Site, in_a_day, site, write_grants

from gradwire.client import Server
from gradwire.client.errors import GradwireError, InvalidCall, NotGranted, UnknownModel
from gradwire.client.grants import Budget, Grant
from gradwire.v1 import grants_pb2, grants_pb2_grpc, model_pb2

X = np.ones((2, 6), np.float32)
ALICE: dict[str, Any] = {"principal": "alice", "model": "sums", "access": "labels"}
VALUE = {**SUMS, "name": "value", "task": "regression", "factory": "owners:sums"}
MODELS = [
    SUMS,
    VALUE,
    {"name": "more", "same_as": "sums", "access": "scores"},
    {"name": "open", "same_as": "sums", "access": "trainer"},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[Site]:
    everybody = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"]
    with site(tmp_path_factory.mktemp("grants"), MODELS, [ALICE], everybody) as started:
        yield started


@pytest.fixture
def admin(served: Site) -> Iterator[Server]:
    with served.connect(ADMIN) as connected:
        yield connected


def may(server: Server, model: str = "sums") -> bool:
    try:
        server.estimator(model).predict(X)
    except UnknownModel:
        return False
    return True


def eventually(holds: Callable[[], bool], timeout_s: float = 15.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come to hold"
        time.sleep(0.05)


# The file.


def test_a_file_that_changes_is_read_again_and_a_broken_one_keeps_the_old(served: Site) -> None:
    with served.connect("alice") as alice, served.connect("bob") as bob:
        assert (may(alice), may(bob)) == (True, False)
        served.write_grants([ALICE, {**ALICE, "principal": "bob", "access": "scores"}])
        eventually(lambda: may(bob))
        for broken in ("- {principal: alice", "", "- {principal: alice, model: gone, access: labels}\n"):
            (served.folder / "grants.yaml").write_text(broken)
            refused = served.server.log.read_text().count("last valid content stays in force")
            eventually(lambda refused=refused: served.server.log.read_text().count("last valid content stays in force") > refused)
            assert may(alice)
            assert may(bob)
        assert "grants[0]: model: 'gone' is not served here" in served.server.log.read_text()
        served.write_grants([ALICE])
        eventually(lambda: not may(bob))
        assert may(alice)


# The store.


def test_a_grant_from_afar_holds_at_once_and_wins_over_the_files(served: Site, admin: Server) -> None:
    with served.connect("alice") as alice:
        assert alice.card("sums").access == "labels"
        given = admin.grants.put(Grant("alice", "sums", "scores", decimals=1, budget=Budget(forward=1000)))
        assert given == Grant("alice", "sums", "scores", decimals=1, budget=Budget(forward=1000))
        assert alice.card("sums").access == "scores"
        # The file cannot take it back.
        served.write_grants([])
        time.sleep(1.5)
        assert alice.card("sums").access == "scores"
        served.write_grants([ALICE])


def test_to_revoke_ends_what_the_file_gives_until_it_is_granted_anew(served: Site, admin: Server) -> None:
    served.write_grants([ALICE, {**ALICE, "principal": "carol"}])
    with served.connect("carol") as carol:
        eventually(lambda: may(carol))
        admin.grants.revoke("carol", "sums")
        assert not may(carol)
        served.write_grants([ALICE, {**ALICE, "principal": "carol", "access": "scores"}])
        time.sleep(1.5)
        assert not may(carol)
        with pytest.raises(InvalidCall, match="'carol' has no grant for 'sums'"):
            admin.grants.revoke("carol", "sums")
        admin.grants.put(Grant("carol", "sums", "labels"))
        assert may(carol)


def test_to_revoke_ends_the_next_call_on_an_open_stream(served: Site, admin: Server) -> None:
    admin.grants.put(Grant("dave", "sums", "labels"))
    with served.connect("dave") as dave:
        remote = dave.estimator("sums")
        remote.predict(X)
        (stream,) = dave.connection._idle["Predict", "sums"]
        admin.grants.revoke("dave", "sums")
        with pytest.raises(UnknownModel, match="'sums' is not served here; there are: none"):
            remote.predict(X)
        assert stream not in dave.connection._idle["Predict", "sums"]


def test_a_grant_ends_when_it_expires_on_an_open_stream_too(served: Site, admin: Server) -> None:
    soon = datetime.now(timezone.utc) + timedelta(seconds=4)
    admin.grants.put(Grant("erin", "sums", "labels", expires=soon))
    with served.connect("erin") as erin:
        remote = erin.estimator("sums")
        remote.predict(X)
        assert abs(erin.usage("sums")[0].expires - soon) < timedelta(milliseconds=1)
        eventually(lambda: datetime.now(timezone.utc) > soon)
        with pytest.raises(UnknownModel):
            remote.predict(X)
    assert admin.grants.list("erin") == []


REFUSED: dict[str, tuple[grants_pb2.Grant, str]] = {
    "access": (grants_pb2.Grant(principal="a", model="sums", access=77), "access number 77 is not in the contract"),  # type: ignore[arg-type]
    "ceiling": (
        grants_pb2.Grant(principal="a", model="sums", access=model_pb2.ACCESS_TRAINER),
        "exceeds the access of 'sums'",
    ),
    "model": (grants_pb2.Grant(principal="a", model="gone", access=model_pb2.ACCESS_LABELS), "'gone' is not served here"),
    "labels of a regression": (grants_pb2.Grant(principal="a", model="value", access=1), "is a regression without classes"),
    "principal": (grants_pb2.Grant(principal="a b", model="sums", access=model_pb2.ACCESS_LABELS), "principal: "),
    "window": (
        grants_pb2.Grant(
            principal="a", model="sums", access=1, budget=grants_pb2.GrantBudget(window_s=float("nan"), window_forward=1)
        ),
        "window_s is nan; expected whole seconds",
    ),
    "pace": (grants_pb2.Grant(principal="a", model="sums", access=1, budget=grants_pb2.GrantBudget(rows_per_s=-1.0)), "rows_per_s"),
    "operation": (grants_pb2.Grant(principal="a", model="sums", access=1, operations=[99]), "operation number 99"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_grant_that_cannot_be_given_is_refused(admin: Server, what: str) -> None:
    grant, expected = REFUSED[what]
    with pytest.raises(grpc.RpcError) as caught:
        grants_pb2_grpc.GrantServiceStub(admin.connection.channel()).PutGrant(
            grants_pb2.PutGrantRequest(grant=grant), metadata=admin.connection._metadata
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert expected in caught.value.details()


def test_a_time_beyond_all_years_is_refused(admin: Server) -> None:
    grant = grants_pb2.Grant(principal="a", model="sums", access=model_pb2.ACCESS_LABELS)
    grant.expires.seconds = 1 << 60
    with pytest.raises(grpc.RpcError) as caught:
        grants_pb2_grpc.GrantServiceStub(admin.connection.channel()).PutGrant(
            grants_pb2.PutGrantRequest(grant=grant), metadata=admin.connection._metadata
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_client_refuses_what_cannot_be_sent(admin: Server) -> None:
    for wrong in (
        {"budget": Budget(forward=-1)}, {"budget": Budget(window_forward=1 << 70)}, {"decimals": -1}, {"top_k": 0},
        {"access": "all"}, {"expires": datetime(2027, 1, 1)}, {"operations": ("guess",)},
    ):  # fmt: skip
        with pytest.raises(InvalidCall):
            admin.grants.put(replace(Grant("alice", "sums", "scores"), **wrong))


def test_only_admins_grant_revoke_and_list(served: Site) -> None:
    with served.connect("frank") as frank:
        for call in (
            lambda: frank.grants.put(Grant("frank", "sums", "scores")),
            lambda: frank.grants.revoke("alice", "sums"),
            lambda: frank.grants.list(),
            lambda: frank.grants.list("frank"),
        ):
            with pytest.raises(NotGranted, match="'frank' is not an admin of this server"):
                call()
        assert not may(frank)


def test_two_servers_of_one_store_see_each_others_grants_within_two_seconds(tmp_path: Path) -> None:
    with site(tmp_path, MODELS, [ALICE], ["grace"]) as first:
        other = tmp_path / "other"
        other.mkdir()
        for file in ("tokens.yaml", "grants.yaml"):
            (other / file).write_bytes((tmp_path / file).read_bytes())
        from processes import server_process

        store = f"sqlite:///{tmp_path / '.gradwire' / 'gradwire.db'}"
        identity = {"tokens": "tokens.yaml", "admins": [ADMIN]}
        with server_process(other, MODELS, identity=identity, grants="grants.yaml", store=store) as started:
            second = Site(other, started, first.tokens)
            with first.connect(ADMIN) as admin, second.connect("grace") as grace:
                assert not may(grace)
                admin.grants.put(Grant("grace", "sums", "labels"))
                eventually(lambda: may(grace), 2.0)
                admin.grants.put(Grant("grace", "sums", "scores"))
                eventually(lambda: grace.card("sums").access == "scores", 2.0)
                admin.grants.revoke("grace", "sums")
                eventually(lambda: not may(grace), 2.0)
                # Rows that the first was charged count at the second.
                admin.grants.put(Grant("grace", "sums", "labels", budget=Budget(forward=10)))
                with first.connect("grace") as elsewhere:
                    elsewhere.estimator("sums").predict(np.ones((4, 6), np.float32))
                    assert elsewhere.usage("sums")[0].left_forward == 6
                eventually(lambda: may(grace), 2.0)
                eventually(lambda: (grace.usage("sums")[0].forward, grace.usage("sums")[0].left_forward) >= (6, 0), 8.0)


def test_what_is_under_way_ends_as_it_would_have(tmp_path: Path) -> None:
    slow = {**SUMS, "factory": {"path": "owners:slow", "args": {"seconds": 1.0}}}
    with site(tmp_path, [slow], [ALICE]) as started, started.connect(ADMIN) as admin, started.connect("alice") as alice:
        remote = alice.estimator("sums")
        answered: list[Any] = []
        thread = threading.Thread(target=lambda: answered.append(remote.predict(X)))
        thread.start()
        time.sleep(0.3)
        admin.grants.revoke("alice", "sums")
        thread.join()
        assert answered[0].shape == (2, 2)
        with pytest.raises(UnknownModel):
            remote.predict(X)


# What follows from a grant.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    grants = [
        {"principal": "alice", "model": "mlp", "access": "trainer", "budget": {"forward": 10_000, "backward": 10_000}},
        {"principal": "bob", "model": "mlp", "access": "trainer"},
        {"principal": "carol", "model": "mlp", "access": "labels"},
        {"principal": "dave", "model": "mlp", "access": "gradients", "operations": ["predict", "class_gradient"]},
    ]
    with site(tmp_path_factory.mktemp("trained"), [MLP], grants) as started:
        yield started


def test_an_art_estimator_has_what_the_grant_gives(trained: Site) -> None:
    from art.attacks.evasion import DeepFool, ProjectedGradientDescent
    from art.estimators.classification.classifier import ClassGradientsMixin
    from art.estimators.estimator import LossGradientsMixin
    from art.exceptions import EstimatorError

    from gradwire.client.art import art_estimator

    def of(who: str) -> Any:
        return art_estimator(trained.connect(who).estimator("mlp"))

    alice, carol, dave = of("alice"), of("carol"), of("dave")
    assert isinstance(alice, LossGradientsMixin)
    assert isinstance(alice, ClassGradientsMixin)
    for estimator in (carol, dave):
        assert not isinstance(estimator, LossGradientsMixin)
        assert not hasattr(estimator, "loss_gradient")
        with pytest.raises(EstimatorError):
            ProjectedGradientDescent(estimator)
    assert not hasattr(carol, "class_gradient")
    assert isinstance(dave, ClassGradientsMixin)
    DeepFool(dave, verbose=False)
    for estimator in (alice, carol, dave):
        estimator.model.server.close()


def test_only_the_operations_that_a_grant_names_are_given(trained: Site) -> None:
    with trained.connect("dave") as dave:
        remote = dave.estimator("mlp")
        assert remote.card.operations == {"predict", "class_gradient"}
        remote.class_gradient(X)
        with pytest.raises(NotGranted, match="loss needs to be among its operations: class_gradient, predict"):
            remote.compute_loss(X, [0, 1])


def test_a_clone_belongs_to_who_made_it_and_is_charged_to_the_origins_account(trained: Site) -> None:
    with trained.connect("alice") as alice, trained.connect("bob") as bob, trained.connect(ADMIN) as admin:
        clone = alice.estimator("mlp").clone_for_refitting()
        assert (clone.card.clone_of, clone.card.access) == ("mlp", "trainer")
        name = clone.card.name
        assert name in {card.name for card in alice.models()}
        assert {card.name for card in bob.models()} == {"mlp"}
        for call in (lambda: bob.card(name), lambda: bob.usage(name), lambda: bob.estimator(name)):
            with pytest.raises(UnknownModel):
                call()
        before = alice.usage("mlp")[0]
        clone.predict(np.ones((7, 6), np.float32))
        clone.loss_gradient(X, [0, 1])
        after = alice.usage("mlp")[0]
        assert (after.forward - before.forward, after.backward - before.backward) == (9, 2)
        assert after.left_forward == (before.left_forward or 0) - 9
        # Asked for by its name it shows the account that it is charged to, and otherwise is not listed beside it.
        assert (clone.usage().forward, [one.model for one in alice.usage()]) == (after.forward, ["mlp"])
        assert bob.usage("mlp")[0].forward == 0
        with pytest.raises(NotGranted, match="'mlp' is not a clone"):
            alice.estimator("mlp").delete()
        admin.grants.put(Grant("alice", "mlp", "labels"))
        assert alice.card(name).access == "labels"
        admin.grants.revoke("alice", "mlp")
        with pytest.raises(UnknownModel):
            clone.predict(X)
        admin.grants.put(Grant("alice", "mlp", "trainer"))
        clone.delete()


def test_without_identity_nobody_is_an_admin(tmp_path: Path) -> None:
    from processes import server_process

    from gradwire.client import connect

    with server_process(tmp_path, [SUMS]) as server, connect(server.address) as anybody:
        assert may(anybody)
        assert anybody.usage()[0].principal == "anonymous"
        for call in (anybody.grants.list, lambda: anybody.usage(everybody=True)):
            with pytest.raises(GradwireError, match="is not an admin"):
                call()


def test_without_identity_a_grants_file_says_what_anonymous_callers_get(tmp_path: Path) -> None:
    from processes import server_process

    from gradwire.client import connect

    write_grants(tmp_path, [{"principal": "anonymous", "model": "sums", "access": "labels", "expires": in_a_day()},
                            {"principal": "anonymous", "model": "more", "access": "labels", "expires": LONG_AGO}])  # fmt: skip
    with server_process(tmp_path, MODELS, grants="grants.yaml") as server, connect(server.address) as anybody:
        assert [(card.name, card.access) for card in anybody.models()] == [("sums", "labels")]
