"""Rolling replacement of servers, and connections with a greatest age: callers move on without a lost bit or row."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_owners
from deploy.descent import pgd
from deploy.names import name_server
from deploy.nginx import free_ports
from faults.proxy import cutting
from faults.site import ROW, Site, black_box
from processes import ServerProcess, server_process

from gradwire.client import Retry, connect
from gradwire.client.demo.digits import held_out
from gradwire.client.errors import Unavailable
from gradwire.server import serving
from gradwire.server.store import Store
from gradwire.server.store.records import CallFilter, CallRecord
from gradwire.server.values.rows import Rows

ONCE = Retry(attempts=1)
NEVER_CUT = (10**9, 10**9)
DIGITS = {
    "name": "digits", "backend": "sklearn", "factory": "deploy.digits_mlp:digits_mlp", "input_shape": [1, 8, 8], "nb_classes": 10,
    "clip_values": [0.0, 1.0], "access": "trainer",
}  # fmt: skip


def calls_of(store: str, principal: str | None = None) -> list[CallRecord]:
    """Answered calls in the ledger."""
    with Store.open(store, create=False) as opened:
        return [call for batch in opened.calls(CallFilter(principal=principal, outcome="OK")) for call in batch]


class Rolling:
    """Servers of which each takes the place of another: it serves before the other is told to end.

    Args:
        start: Makes a server on an address, as a context.
        store: That all of them share.
    """

    def __init__(self, start: Callable[[str], Any], store: str) -> None:
        self._start = start
        self._store = store
        self._running: dict[str, tuple[ServerProcess, ExitStack]] = {}

    def start(self, address: str) -> None:
        stack = ExitStack()
        self._running[address] = stack.enter_context(self._start(address)), stack

    def end(self, address: str) -> None:
        server, stack = self._running.pop(address)
        server.signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        stack.close()

    def wait_until_called(self) -> None:
        """Until every server that runs stands in the ledger."""
        running = {server.process.pid for server, _ in self._running.values()}
        end_s = time.monotonic() + 30
        while missing := running - {int(call.server.rpartition(":")[2]) for call in calls_of(self._store)}:
            assert time.monotonic() < end_s, f"nobody calls {missing}"
            time.sleep(0.2)

    def end_all(self) -> None:
        for address in list(self._running):
            self.end(address)

    def __enter__(self) -> Rolling:
        return self

    def __exit__(self, *_: object) -> None:
        for _, stack in self._running.values():
            stack.close()


@contextmanager
def in_background(change: Callable[[], None]) -> Iterator[threading.Event]:
    """Changes servers in the background; the event is set when the change is done. Raises its exception."""
    done = threading.Event()
    with futures.ThreadPoolExecutor(1) as pool:
        changed = pool.submit(change)
        changed.add_done_callback(lambda _: done.set())
        yield done
        changed.result()


@pytest.mark.timeout(240)
def test_an_attack_does_not_notice_that_every_server_is_replaced_and_pays_for_each_row_once(tmp_path: Path) -> None:
    budget = {"forward": 10_000_000, "backward": 10_000_000}
    site = Site(tmp_path, [DIGITS], {("red", "digits"): budget})
    ports = free_ports(3)
    one, two, three = (f"127.0.0.1:{port}" for port in ports)
    numbers = iter(range(100))

    def start(address: str) -> Any:
        return site.serve(f"server-{next(numbers)}", listen=address, limits={"max_connection_age_s": 1.0})

    (x, y), parts = held_out(), (slice(0, 4), slice(4, 7))
    assert site.store is not None
    with Rolling(start, site.store) as servers:
        servers.start(one)
        servers.start(two)

        def replace() -> None:
            for new, old in ((three, one), (one, two)):
                servers.wait_until_called()
                servers.start(new)
                servers.wait_until_called()
                servers.end(old)

        def going_on(steps: int) -> bool:
            time.sleep(0.01)  # what is found is found again below
            return not done.is_set() or steps < 100

        with site.connect(f"{one},{two},{three}", "red") as server, in_background(replace) as done:
            digits = server.estimator("digits")
            with futures.ThreadPoolExecutor(2) as pool:
                attacks = [pool.submit(pgd, digits, x[part], y[part], going_on) for part in parts]
                found = [attack.result() for attack in attacks]
        rows = sum(len(adversarial) * steps for adversarial, steps in found)
        with site.connect(one) as server:
            digits = server.estimator("digits")
            for part, (adversarial, steps) in zip(parts, found, strict=True):
                expected, _ = pgd(digits, x[part], y[part], lambda done, steps=steps: done < steps)  # type: ignore[misc]
                np.testing.assert_array_equal(adversarial, expected)
                assert not np.array_equal(adversarial, x[part])
        servers.end_all()
    with site.opened() as store:
        [used] = store.usage("red")
        assert used.rows == Rows(rows, rows)
        # What the servers had taken for later they have given back.
        assert store.taken("red", "digits", None, 0.0).total == Rows(rows, rows)
    calls = calls_of(site.store, "red")
    assert len(calls) == sum(steps for _, steps in found)
    assert len({call.server for call in calls}) == 4


@pytest.mark.timeout(240)
def test_a_client_finds_the_servers_that_a_name_leads_to_as_they_change(tmp_path: Path) -> None:
    """As behind a headless service: the client is never started again, and none of the first servers is left."""
    [port] = free_ports(1)
    hosts = [f"127.0.0.{number}" for number in (11, 12, 13, 14)]
    store = f"sqlite:///{tmp_path}/shared.db"

    def start(host: str) -> Any:
        folder = tmp_path / host
        folder.mkdir()
        limits = {"max_connection_age_s": 1.0}
        return server_process(folder, [black_box("sums", "sums")], listen=f"{host}:{port}", store=store, limits=limits)

    known = {"gradwire.test": hosts[:2]}
    with name_server(known) as names, Rolling(start, store) as servers:
        servers.start(hosts[0])
        servers.start(hosts[1])

        def replace() -> None:
            for new, old in ((hosts[2], hosts[0]), (hosts[3], hosts[1])):
                servers.wait_until_called()
                servers.start(new)
                known["gradwire.test"] = [host for host in known["gradwire.test"] if host != old] + [new]
                servers.wait_until_called()
                servers.end(old)

        count = 0
        with connect(f"dns://{names}/gradwire.test:{port}") as server, in_background(replace) as done:
            remote = server.estimator("sums")
            while not done.is_set() or count < 100:
                assert remote.predict(ROW).tolist() == [[6, -6]]
                count += 1
                time.sleep(0.002)
        servers.end_all()
    calls = calls_of(store)
    assert sum(call.forward for call in calls) == len(calls) == count
    assert len({call.server for call in calls}) == 4


def test_connections_that_grow_old_lead_to_another_server_without_an_error(tmp_path: Path) -> None:
    site = Site(tmp_path, [black_box("sums", "sums")], {("red", "sums"): {"forward": 10_000_000}})
    limits = {"max_connection_age_s": 0.5}
    with site.serve("one", limits=limits) as one, site.serve("two", limits=limits) as two:
        # A balancer of connections.
        with cutting([one.address, two.address], seed=0, pieces=NEVER_CUT) as balancer:
            end_s = time.monotonic() + 8
            with site.connect(balancer.address, "red", same_host=False, retry=ONCE) as server:
                remote = server.estimator("sums")

                def call(_: int) -> int:
                    count = 0
                    while time.monotonic() < end_s:
                        assert remote.predict(ROW).tolist() == [[6, -6]]
                        count += 1
                    return count

                with futures.ThreadPoolExecutor(4) as pool:
                    count = sum(pool.map(call, range(4)))
        for process in (one, two):
            process.signal(signal.SIGTERM)
            assert process.process.wait(30) == 0
    with site.opened() as store:
        assert store.usage("red")[0].rows == store.taken("red", "sums", None, 0.0).total == Rows(count)
    calls = calls_of(str(site.store), "red")
    assert len(calls) == count
    # One connection would have led to one of them alone.
    assert min(Counter(call.server for call in calls).values()) > count / 5
    assert len({call.server for call in calls}) == 2


FITTED = {
    "backend": "torch", "factory": torch_owners.SlowSteps, "loss": "torch.nn.CrossEntropyLoss", "optimizer": "torch.optim.SGD",
    "input_shape": [4], "nb_classes": 2, "access": "trainer",
}  # fmt: skip


def test_a_fit_that_takes_longer_than_connections_do_is_finished() -> None:
    with serving({"m": FITTED}, limits={"max_connection_age_s": 0.3}) as address, connect(address, same_host=False) as server:
        remote = server.estimator("m")
        began_s = time.monotonic()
        remote.fit(np.ones((40, 4), np.float32), np.zeros(40, int), batch_size=1, nb_epochs=1)
        assert time.monotonic() - began_s > 1.5
        assert remote.refresh().version != "initial"


def test_a_fit_that_takes_longer_than_the_grace_is_broken_off_with_an_error_and_taken_back() -> None:
    limits = {"max_connection_age_s": 0.3, "max_connection_age_grace_s": 0.3}
    with serving({"m": FITTED}, limits=limits) as address, connect(address, same_host=False) as server:
        remote = server.estimator("m")
        before = remote.predict(ROW[:, :4])
        with pytest.raises(Unavailable):
            remote.fit(np.ones((400, 4), np.float32), np.zeros(400, int), batch_size=1, nb_epochs=1)
        np.testing.assert_array_equal(remote.predict(ROW[:, :4]), before)
        assert remote.refresh().version == "initial"
