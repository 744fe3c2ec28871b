"""Several servers share one budget: it is spent to the last row and never beyond, and nobody pays twice for one call."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from commands import environment
from postgres import Postgres
from processes import ServerProcess

from gradwire.client import Retry
from gradwire.server.values.rows import Rows

from .proxy import cutting
from .site import ROW, Site, black_box, check_consistency

CALLS, CLIENTS, PROCESSES = 10_000, 32, 4
BUDGET = 5_000
CUT_CALLS, CUT_THREADS = 500, 5
CROWD = Path(__file__).with_name("crowd.py")
BUDGETS = {("crowd", "sums"): {"forward": BUDGET}, ("cut", "sums"): {"forward": 10_000}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Site:
    return Site(tmp_path_factory.mktemp("replicas"), [black_box("sums", "sums")], BUDGETS, postgres.new())


@pytest.fixture(scope="module")
def replicas(site: Site) -> Iterator[list[ServerProcess]]:
    """Two servers with leases of the usual size."""
    with ExitStack() as running:
        yield [running.enter_context(site.serve(name)) for name in ("one", "other")]


@pytest.mark.timeout(240)
def test_a_crowd_at_two_servers_is_served_every_row_of_the_budget_and_no_more(site: Site, replicas: list[ServerProcess]) -> None:
    addresses = [server.address for server in replicas]
    command = [sys.executable, str(CROWD), site.tokens["crowd"], str(CALLS // PROCESSES), str(CLIENTS // PROCESSES), *addresses]
    crowd = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) for _ in range(PROCESSES)]
    counts = [json.loads(process.communicate()[0]) for process in crowd]
    assert sum(count["served"] for count in counts) == BUDGET
    assert sum(count["refused"] for count in counts) == CALLS - BUDGET
    check_consistency(site, *addresses)
    calls = [call for call in site.calls() if call.principal == "crowd"]
    assert len(calls) == CALLS
    assert sum(call.forward for call in calls) == BUDGET
    assert sum(call.outcome == "OK" for call in calls) == BUDGET
    assert sum(call.outcome == "BUDGET_SPENT" for call in calls) == CALLS - BUDGET
    with site.connect(addresses[0]) as ops:
        [usage] = ops.usage("sums", principal="crowd")
        assert (usage.forward, usage.left_forward) == (BUDGET, 0)


def cut_calls(site: Site, addresses: list[str], seed: int) -> None:
    """Calls of one row each through connections that are cut, and what they must have cost."""
    failed: list[Exception] = []
    with cutting(addresses, seed=seed, pieces=(6, 60)) as proxy:

        def call() -> None:
            retry = Retry(attempts=50, first_delay_s=0.02, factor=1.0)
            try:
                with site.connect(proxy.address, "cut", retry=retry, same_host=False) as server:
                    remote = server.estimator("sums")
                    for _ in range(CUT_CALLS // CUT_THREADS):
                        assert remote.predict(ROW).tolist() == [[6, -6]]
            except Exception as e:
                failed.append(e)

        threads = [threading.Thread(target=call) for _ in range(CUT_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert proxy.cuts > 20
    check_consistency(site, *addresses)
    with site.opened() as store:
        [used] = store.usage("cut")
        assert used.rows == Rows(CUT_CALLS)


def test_a_call_is_charged_once_however_often_its_connection_is_cut_at_two_servers(
    site: Site, replicas: list[ServerProcess]
) -> None:
    cut_calls(site, [server.address for server in replicas], seed=1)


def test_a_call_is_charged_once_at_two_servers_that_charge_each_call_in_the_store(tmp_path: Path, postgres: Postgres) -> None:
    site = Site(tmp_path, [black_box("sums", "sums")], BUDGETS, postgres.new(), {"lease_rows": 1})
    with site.serve("one") as one, site.serve("other") as other:
        cut_calls(site, [one.address, other.address], seed=2)


@pytest.mark.parametrize("lease_rows", [1, 100])
def test_a_call_is_charged_once_however_often_its_connection_is_cut(lease_rows: int, tmp_path: Path) -> None:
    site = Site(tmp_path, [black_box("sums", "sums")], BUDGETS, settings={"lease_rows": lease_rows})
    with site.serve() as server:
        cut_calls(site, [server.address], seed=3)


@pytest.mark.parametrize("lease_rows", [1, 100])
def test_of_two_servers_the_one_that_is_killed_loses_its_lease_and_the_one_that_is_drained_gives_it_back(
    lease_rows: int, tmp_path: Path
) -> None:
    site = Site(tmp_path, [black_box("sums", "sums")], BUDGETS, settings={"lease_rows": lease_rows})
    key = ("crowd", "sums")
    with site.serve("one") as one, site.serve("other") as other:
        for server in (one, other):
            with site.connect(server.address, "crowd") as crowd:
                crowd.estimator("sums").predict(ROW)
                crowd.usage("sums")
        with site.opened() as store:
            assert store.taken(*key, None, 0.0).total == Rows(2 * lease_rows)
        one.signal(signal.SIGKILL)
        other.signal(signal.SIGTERM)
        assert other.process.wait(20) == 0
    with site.opened() as store:
        # The killed one's lease; the drained one's row.
        assert store.taken(*key, None, 0.0).total == Rows(lease_rows + 1)
    with site.serve("third") as third:
        check_consistency(site, third.address, lost=lease_rows - 1)
