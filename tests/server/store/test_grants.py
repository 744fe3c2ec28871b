"""Grants in the store, and the number by which servers notice that they changed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from gradwire.backends.capabilities import Operation
from gradwire.server.store import BudgetLimits, Store, StoredGrant

FULL = StoredGrant(
    "alice",
    "digits",
    "gradients",
    activations=False,
    operations=frozenset({Operation.PREDICT, Operation.LOSS_GRADIENT}),
    decimals=4,
    top_k=5,
    max_forward=10**12,
    max_backward=0,
    window_s=86_400,
    window_forward=1000,
    window_backward=0,
    rows_per_s=12.5,
    expires_at=datetime(2031, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2))),
)


def test_a_grant_comes_back_as_it_was_put(store):
    store.put_grant(FULL)
    (found,) = store.grants().grants
    assert found.updated_at is not None
    assert abs(found.updated_at - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert found == StoredGrant(**{**vars(FULL), "updated_at": found.updated_at})
    assert found.limits == BudgetLimits(10**12, 0, 86_400, 1000, 0)


def test_the_least_grant_has_no_limits(store):
    store.put_grant(StoredGrant("bob", "digits", "labels"))
    (found,) = store.grants().grants
    assert found.limits == BudgetLimits()
    assert found.expires_at is None
    assert not found.revoked


def test_a_later_grant_replaces_an_earlier_one(store):
    store.put_grant(FULL)
    store.put_grant(StoredGrant("alice", "digits", "labels"))
    (found,) = store.grants().grants
    assert (found.access, found.max_forward, found.expires_at) == ("labels", None, None)


def test_a_revoked_grant_stays_as_a_mark_also_where_there_was_none(store):
    store.put_grant(FULL)
    store.revoke_grant("alice", "digits")
    store.revoke_grant("mallory", "digits")
    assert [(grant.principal, grant.revoked) for grant in store.grants().grants] == [("alice", True), ("mallory", True)]
    store.put_grant(FULL)
    assert [grant.revoked for grant in store.grants().grants] == [False, True]


def test_a_forgotten_grant_leaves_no_mark(store):
    store.revoke_grant("alice", "digits")
    assert store.forget_grant("alice", "digits")
    assert not store.forget_grant("alice", "digits")
    assert store.grants().grants == ()


def test_every_change_raises_the_generation_and_another_server_sees_it(url, store):
    with Store.open(url) as other:
        seen = [other.grants_generation()]
        for change in (
            lambda: store.put_grant(FULL),
            lambda: store.revoke_grant("alice", "digits"),
            lambda: store.forget_grant("alice", "digits"),
        ):
            change()
            seen.append(other.grants_generation())
            assert other.grants().generation == seen[-1]
    assert seen == sorted(set(seen))
