"""The machine's clock is set back: no window opens twice, nothing that has expired comes back, here or in the next process."""

from __future__ import annotations

import signal
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
import yaml

from gradwire.client.errors import BudgetSpent, UnknownModel
from gradwire.server.values.clock import SteadyClock

from .site import ROW, Site, black_box, check_consistency

WINDOW_S = 60
NOON_S = 1_795_262_400
"""The beginning of a window."""
DAY = {"window_s": WINDOW_S, "window_forward": 5}


def test_time_stands_still_until_the_clock_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = SteadyClock(), iter([100.0, 40.0, 99.0, 101.0])
    monkeypatch.setattr(time, "time", lambda: next(told))
    assert [clock.now_s() for _ in range(4)] == [100.0, 100.0, 100.0, 101.0]


@pytest.mark.parametrize("lease_rows", [1, 100])
def test_a_clock_that_steps_back_opens_no_window_again(lease_rows: int, tmp_path: Path) -> None:
    clock = tmp_path / "clock"

    def stands_at(seconds: float) -> None:
        fresh = clock.with_suffix(".new")
        fresh.write_text(str(NOON_S + seconds))
        fresh.replace(clock)

    stands_at(30)
    site = Site(tmp_path, [black_box("sums", "with_clock", file=str(clock))], {("alice", "sums"): DAY},
                settings={"lease_rows": lease_rows})  # fmt: skip
    _expiring(site, NOON_S + 120)
    with site.serve("first") as server, site.connect(server.address, "alice") as alice:
        remote, brief = alice.estimator("sums"), site.connect(server.address, "brief").estimator("sums")
        brief.predict(ROW)
        for _ in range(5):
            remote.predict(ROW)
        for seconds in (30, -40, -3600, 59):
            stands_at(seconds)
            with pytest.raises(BudgetSpent, match="5 in each 60 s"):
                remote.predict(ROW)
        stands_at(60)
        for _ in range(5):
            remote.predict(ROW)
        # The window before is over, and stays so.
        stands_at(30)
        with pytest.raises(BudgetSpent):
            remote.predict(ROW)
        stands_at(130)
        with pytest.raises(UnknownModel):
            brief.predict(ROW)
        remote.predict(ROW)
        stands_at(30)
        with pytest.raises(UnknownModel):
            brief.predict(ROW)
        check_consistency(site, server.address)
        server.signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    # What the next process is told by the clock, the store knows better.
    with site.serve("second") as server, site.connect(server.address, "alice") as alice:
        remote = alice.estimator("sums")
        for _ in range(4):
            remote.predict(ROW)
        with pytest.raises(BudgetSpent):
            remote.predict(ROW)
        check_consistency(site, server.address)


def _expiring(site: Site, until_s: float) -> None:
    """Grants somebody else something until then."""
    from .site import _new_token

    site.tokens["brief"] = _new_token(site.folder / "tokens.yaml", "brief")
    grants = yaml.safe_load((site.folder / "grants.yaml").read_text())
    expires = datetime.fromtimestamp(until_s, timezone.utc).isoformat()
    grants.append({"principal": "brief", "model": "sums", "access": "scores", "expires": expires})
    (site.folder / "grants.yaml").write_text(yaml.safe_dump(grants))
