"""The model of many servers keeps the laws that every such system keeps, whatever it is fed with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import simpy

from benchmarks.scaling.costs import GPUS_PER_NODE, MAX_BATCH_ROWS, Gpu, Hop, Store
from benchmarks.scaling.model import Simulation
from benchmarks.scaling.site import CLIENTS, Outcome, Site
from benchmarks.scaling.station import Station, Steps
from benchmarks.scaling.workload import Kind

STORE = Store(
    "a database", batch_s=0.01, call_s=1e-4, lease_s=1e-3, leases_at_once=2, one_writer=False, lease_loop_s=2e-4
)  # fmt: skip
ENDLESS = 1 << 40
SMALL = Kind(
    name="small", title="", rows=1, row_nbytes=4000, blocks=1, request_nbytes=4000, answer_nbytes=100, gradients=False,
    attack_s=1e-3, client_s=2e-4, loop_s=3e-4, batch_s=1e-4, batch_block_s=5e-6, gpu=Gpu(2e-3, 50_000),
)  # fmt: skip
MIDDLE = replace(
    SMALL, name="middle", rows=96, request_nbytes=96 * 4000, answer_nbytes=96 * 4000, gradients=True, loop_s=2e-3,
)  # fmt: skip
LARGE = replace(
    SMALL, name="large", rows=64, row_nbytes=600_000, blocks=2, request_nbytes=38e6, answer_nbytes=38e6, gradients=True,
    loop_s=4e-2, gpu=Gpu(8e-3, 3_000),
)  # fmt: skip
KINDS = {kind.name: kind for kind in (SMALL, MIDDLE, LARGE)}
SITES = {
    "one server": Site(1, STORE),
    "16 servers": Site(16, STORE),
    "16 replicas, one front": Site(16, STORE, fronts=1),
    "16 replicas, 3 fronts": Site(16, STORE, fronts=3),
}


def run(kind: Kind, clients: int, site: Site, calls: int = 600, seed: int = 0) -> Outcome:
    return Simulation(kind, clients, site, seed).run(max(200, clients), max(calls, 4 * clients), 600.0)


@pytest.mark.parametrize("fronts", [None, 1])
def test_one_client_alone_has_the_sum_of_service_times(fronts: int | None) -> None:
    site = Site(1, STORE, fronts=fronts, lease_rows=ENDLESS)
    alone = run(SMALL, 1, site, 50)
    bits_s = 8 * (SMALL.request_nbytes + SMALL.answer_nbytes) / site.network_bits_per_s
    expected_s = SMALL.client_s + site.rtt_s + bits_s + SMALL.loop_s + SMALL.batch_s
    copied = SMALL.row_nbytes + 40
    expected_s += SMALL.gpu.floor_s + copied / SMALL.gpu.copy_bytes_per_s
    if fronts:
        # Through two more networks, each way, and the hop.
        expected_s += site.hop.seconds(copied) + 2 * 8 * copied / site.network_bits_per_s
    assert alone.p50_s == pytest.approx(expected_s)
    assert alone.calls_per_s == pytest.approx(1 / (expected_s + SMALL.attack_s), rel=0.05)
    assert alone.bottleneck == CLIENTS or fronts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("site", SITES)
def test_littles_law_holds(kind: str, site: str) -> None:
    found = run(KINDS[kind], 40, SITES[site])
    assert found.calls_per_s * found.mean_s == pytest.approx(found.under_way, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clients", [1, 150])
@pytest.mark.parametrize("site", SITES)
def test_no_resource_gives_more_than_it_has(kind: str, clients: int, site: str) -> None:
    of, at = KINDS[kind], SITES[site]
    found = run(of, clients, at)
    # What was begun before the time that counts may end in it.
    more = 1.05
    assert all(0 <= busy <= more for name, busy in found.utilisation.items() if name != "ledger")
    assert found.calls_per_s * of.loop_s <= at.processes * more
    assert found.rows_per_s <= at.gpus * of.gpu.rows_per_s * more
    nodes = -(-at.gpus // GPUS_PER_NODE) if at.fronts is None else at.fronts
    assert found.calls_per_s * of.request_nbytes * 8 <= nodes * at.network_bits_per_s * more
    assert found.most_batch_rows <= MAX_BATCH_ROWS


def test_what_waits_is_merged_as_far_as_there_is_room() -> None:
    slow = replace(SMALL, loop_s=1e-6, batch_s=0.0, batch_block_s=0.0, gpu=Gpu(0.5, 1e9))
    for most in (1, 8, 128):
        found = run(slow, 300, Site(1, STORE, max_batch_rows=most, lease_rows=ENDLESS))
        assert found.most_batch_rows == most
        assert found.calls_per_s == pytest.approx(most / 0.5, rel=0.1)


def test_calls_that_do_not_fit_together_are_computed_apart() -> None:
    assert run(MIDDLE, 50, Site(1, STORE)).most_batch_rows == MIDDLE.rows


def test_blocks_of_one_call_are_not_merged_with_each_other() -> None:
    assert run(LARGE, 1, Site(1, STORE), 30).most_batch_rows == LARGE.rows // LARGE.blocks
    slow = replace(LARGE, request_nbytes=1e3, answer_nbytes=1e3, loop_s=1e-3)
    assert run(slow, 60, Site(1, STORE)).most_batch_rows == MAX_BATCH_ROWS


def test_leases_that_are_smaller_than_a_call_hold_up_all_calls() -> None:
    quick = replace(MIDDLE, loop_s=1e-5, batch_s=0.0, batch_block_s=0.0, gpu=Gpu(1e-5, 1e9), request_nbytes=1e3, answer_nbytes=1e3)
    held_up = run(quick, 200, Site(16, STORE, lease_rows=quick.rows))
    assert held_up.bottleneck == "leases"
    assert held_up.calls_per_s == pytest.approx(STORE.leases_at_once / STORE.lease_s, rel=0.05)
    assert run(quick, 200, Site(16, STORE, lease_rows=100 * quick.rows)).calls_per_s > 5 * held_up.calls_per_s
    assert run(quick, 200, Site(16, STORE, lease_rows=quick.rows, principals=1)).calls_per_s < 0.6 * held_up.calls_per_s


def test_a_full_ledger_lets_begin_what_its_database_writes() -> None:
    store = replace(STORE, call_s=2e-3)
    found = Simulation(SMALL, 200, Site(4, store, lease_rows=ENDLESS), ledger_full=True).run(1 << 60, 1 << 60, 17.0)
    assert found.calls_per_s == pytest.approx(store.most_calls_per_s, rel=0.15)
    assert found.bottleneck == "ledger"
    assert found.refused > 0


def test_more_calls_than_there_are_places_for_are_refused_and_come_back() -> None:
    found = run(SMALL, 60, Site(1, STORE, max_calls=8))
    assert 0 < found.refused < 1
    assert run(SMALL, 8, Site(1, STORE, max_calls=8)).refused == 0


def test_a_longer_hop_leaves_replicas_idle() -> None:
    quick = replace(MIDDLE, loop_s=1e-4)
    near = run(quick, 60, Site(4, STORE, fronts=1, hop=Hop(1e-4, 1e12, 0.001), lease_rows=ENDLESS))
    far = run(quick, 60, Site(4, STORE, fronts=1, hop=Hop(2e-2, 1e12, 0.001), lease_rows=ENDLESS))
    assert far.bottleneck == "way to replicas"
    assert far.utilisation["GPU"] < near.utilisation["GPU"]


def test_the_same_seed_gives_the_same_figures_and_another_one_nearly_the_same() -> None:
    one, again, other = (run(SMALL, 100, SITES["16 servers"], 4000, seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert one.calls_per_s == pytest.approx(other.calls_per_s, rel=0.2)


def test_a_station_serves_in_turn_and_counts_its_seconds() -> None:
    env = simpy.Environment()
    station = Station(env, capacity=2)
    ended: list[tuple[str, float]] = []

    def job(name: str, service_s: float) -> Steps:
        yield from station.serve(service_s)
        ended.append((name, env.now))

    def impatient(patience_s: float, service_s: float) -> Steps:
        place = yield from station.request_within(patience_s)
        yield env.timeout(service_s)
        ended.append(("impatient", env.now))
        yield station.release(place)

    for name, service_s in (("a", 3.0), ("b", 1.0), ("c", 1.0)):
        env.process(job(name, service_s))
    env.process(impatient(0.25, 0.5))
    env.run()
    assert ended == [("b", 1.0), ("impatient", 1.5), ("c", 2.5), ("a", 3.0)]
    assert station.served_s == 5.5
