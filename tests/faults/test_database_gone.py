"""The database is gone for a while: what has been taken of budgets is served, then nobody is, then everybody is again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from postgres import Postgres

from gradwire.client.errors import Unavailable
from gradwire.v1.errors_pb2 import ERROR_REASON_STORE_UNAVAILABLE

from .background import Background
from .site import ONCE, PATIENT, ROW, Site, black_box, check_consistency

BUDGET = 1000


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_calls_go_on_from_memory_and_then_again_when_the_database_is_back(mode: str, tmp_path: Path, postgres: Postgres) -> None:
    site = Site(tmp_path, [black_box("sums", "sums")], {("alice", "sums"): {"forward": BUDGET}, ("bob", "sums"): {"forward": 9}},
                postgres.new(), {"lease_rows": 10})  # fmt: skip
    with (
        site.serve() as server,
        site.connect(server.address, "alice", retry=ONCE) as alice,
        site.connect(server.address, "bob", retry=PATIENT) as bob,
        site.connect(server.address, retry=ONCE) as ops,
    ):
        remote, unlimited, patient = alice.estimator("sums"), ops.estimator("sums"), bob.estimator("sums")
        remote.predict(ROW)
        ops.usage("sums")
        asked = 1
        postgres.stop(mode)
        try:
            answered, refused = _until_refused(lambda: remote.predict(ROW))
            asked += answered + 1
            # What had been taken ahead: nine rows.
            assert answered == 9
            assert refused.reason == ERROR_REASON_STORE_UNAVAILABLE
            assert refused.retry_after_s
            assert "127.0.0.1" not in str(refused).removeprefix(server.address)
            for _ in range(20):
                unlimited.predict(ROW)
            # Who comes again as the server says is answered when the database is back.
            waiting = Background(lambda: patient.predict(ROW))
            time.sleep(0.5)
        finally:
            postgres.start()
        assert waiting.end().error is None
        for _ in range(15):
            remote.predict(ROW)
        asked += 15
        check_consistency(site, server.address)
        usage = {u.principal: u for u in ops.usage("sums", everybody=True)}
        assert (usage["alice"].forward, usage["alice"].left_forward) == (25, BUDGET - 25)
        assert (usage["bob"].forward, usage["bob"].left_forward) == (1, 8)
        calls = site.calls()
    by_alice = [call.outcome for call in calls if call.principal == "alice"]
    assert by_alice == ["OK"] * 10 + ["STORE_UNAVAILABLE"] + ["OK"] * 15
    assert len(by_alice) == asked
    by_bob = [call for call in calls if call.principal == "bob" and call.operation == "predict"]
    assert [call.outcome for call in by_bob] == ["STORE_UNAVAILABLE"] * (len(by_bob) - 1) + ["OK"]
    assert len({call.request_id for call in by_bob}) == 1
    assert sum(call.principal == "ops" for call in calls) >= 20


def _until_refused(call: Callable[[], object]) -> tuple[int, Unavailable]:
    for answered in range(100):
        try:
            call()
        except Unavailable as e:
            return answered, e
    raise AssertionError("it is never refused")
