"""The simulation: clients call, a front end reads, queues and merges, GPUs compute, answers go back.

What holds: each client has one call under way; a front end is one interpreter, which does one thing at a time; a batch is of
blocks of one front end that wait when a device is free, never more rows than ``max_batch_rows``; nothing waits for company.
"""

from __future__ import annotations

import random

import numpy as np

from benchmarks.scaling import accounts
from benchmarks.scaling.accounts import Account, Database, Desk, Writer
from benchmarks.scaling.costs import ARRIVING_SHARE, AT_A_REPLICA, GPUS_PER_NODE, MEASURED, RETRY_S, STORE_RETRY_S, SWITCH_S
from benchmarks.scaling.events import Action, Clock, Station
from benchmarks.scaling.parts import Block, Call, Device, Front, Node, Pool
from benchmarks.scaling.site import Outcome, Site
from benchmarks.scaling.workload import Kind

_MOST_EVENTS = 1_500_000


class Simulation:
    """One kind of client at one site.

    Args:
        kind: What clients do.
        clients: How many there are.
        site: What is set up.
        seed: Of all that is random: which server a client finds, and when it begins.
        ledger_full: Whether the site's ledgers have no more room at the beginning; see `accounts.Writer`.
    """

    def __init__(self, kind: Kind, clients: int, site: Site, seed: int = 0, ledger_full: bool = False) -> None:
        self._kind, self._site = kind, site
        self._random = random.Random(seed)
        self.clock = clock = Clock()
        self._database = Database(clock, site)
        self._cores = None if site.cores is None else Station(clock, site.cores)
        nodes = [Node(clock) for _ in range(-(-site.gpus // GPUS_PER_NODE))]
        self._devices = [Device(nodes[number // GPUS_PER_NODE], Station(clock)) for number in range(site.gpus)]
        self._nodes = [nodes]
        if site.fronts is None:
            self._fronts = [self._front(device.node, [device]) for device in self._devices]
        else:
            self._nodes.append([Node(clock) for _ in range(site.fronts)])
            pool = Pool(self._devices, self._compute, AT_A_REPLICA)
            self._fronts = [self._front(node, pool) for node in self._nodes[-1]]
        self._opening_s = MEASURED["calls"]["query, grpc"]["loop_us"] * 1e-6 * ARRIVING_SHARE
        self._refusal_s = MEASURED["refusal_us"] * 1e-6
        self._latencies_s: list[float] = []
        self._answered = self._refused = self._attempts = 0
        self._batches: list[int] = []
        self._under_way, self._under_way_s, self._changed_s = 0, 0.0, 0.0
        spread_s = kind.attack_s + kind.client_s + clients / len(self._fronts) * kind.loop_s
        chosen = [self._random.choice(self._fronts) for _ in range(clients)]
        if ledger_full:
            # Those whom nobody calls have nothing to write.
            spread_s = max(spread_s, STORE_RETRY_S)
            called = list(dict.fromkeys(chosen))
            for front in called:
                front.writer = Writer(clock, self._database, True, len(called))
        for client, front in enumerate(chosen):
            clock.after(self._random.uniform(0, spread_s), self._starter(client, front))

    def _front(self, node: Node, devices: list[Device] | Pool) -> Front:
        interpreter = Station(self.clock)
        pool = devices if isinstance(devices, Pool) else Pool(devices, self._compute)
        writer = Writer(self.clock, self._database, False, 1)
        return Front(node, interpreter, pool, writer, Desk(self.clock, self._database, interpreter))

    def run(self, warm_calls: int, calls: int, most_s: float = float("inf")) -> Outcome:
        """Lets clients call.

        Args:
            warm_calls: Answered before those that count.
            calls: That count.
            most_s: Of the time that counts, and before it.
        """
        clock = self.clock
        clock.run(lambda: self._answered >= warm_calls or clock.now_s >= most_s or clock.events >= _MOST_EVENTS // 3)
        began_s, first, before = clock.now_s, self._answered, self._busy_s()
        attempts, refused, batch = self._attempts, self._refused, len(self._batches)
        self._note(0)
        under_way_s = self._under_way_s
        self._latencies_s = []
        clock.run(lambda: self._answered >= first + calls or clock.now_s >= began_s + most_s or clock.events >= _MOST_EVENTS)
        self._note(0)
        seconds, answered = clock.now_s - began_s, self._answered - first
        p50_s, p99_s = np.percentile(self._latencies_s, (50, 99)) if self._latencies_s else (0.0, 0.0)
        after = self._busy_s()
        busy = {name: (after[name] - before[name]) / seconds for name in after}
        batches = [rows for rows in self._batches[batch:] if rows]
        utilisation = {name: busy[name] for name in ("GPU", "front end", "network", "leases")}
        utilisation["ledger"] = accounts.share(self._site, answered / seconds)
        if self._site.fronts is not None:
            utilisation["way to replicas"] = busy["way"]
        return Outcome(
            seconds=seconds,
            calls_per_s=answered / seconds,
            rows_per_s=answered * self._kind.rows / seconds,
            p50_s=float(p50_s),
            p99_s=float(p99_s),
            mean_s=float(np.mean(self._latencies_s)) if self._latencies_s else 0.0,
            under_way=(self._under_way_s - under_way_s) / seconds,
            utilisation=utilisation,
            batch_rows=float(np.mean(batches)) if batches else 0.0,
            most_batch_rows=max(batches, default=0),
            refused=(self._refused - refused) / max(1, self._attempts - attempts),
            late=answered < calls,
        )

    def _busy_s(self) -> dict[str, float]:
        """Seconds of service up to now, a resource's places together."""
        network = [
            sum(station.served_s for station in stations) / len(stations)
            for nodes in self._nodes
            for stations in ([node.into for node in nodes], [node.out for node in nodes])
        ]
        leases = self._database.leases
        return {
            "GPU": sum(device.computed_s for device in self._devices) / len(self._devices),
            "way": sum(device.under_way_s for device in self._devices) / len(self._devices) / AT_A_REPLICA,
            "front end": sum(front.interpreter.served_s for front in self._fronts) / len(self._fronts),
            "network": max(network),
            "leases": leases.served_s / leases.places,
        }

    # A client.

    def _starter(self, client: int, front: Front) -> Action:
        def start() -> None:
            self._note(1)
            call = Call(client, front, self.clock.now_s)
            self._work(None, self._kind.client_s / 2, lambda: self._send(call))

        return start

    def _returned(self, call: Call) -> None:
        self._note(-1)
        self._answered += 1
        self._latencies_s.append(self.clock.now_s - call.began_s)
        # A little more or less each time, so that clients do not march in step.
        attack_s = self._kind.attack_s * self._random.uniform(0.5, 1.5)
        again = Call(call.client, call.front, 0.0)

        def start() -> None:
            self._note(1)
            again.began_s = self.clock.now_s
            self._work(None, self._kind.client_s / 2, lambda: self._send(again))

        self.clock.after(attack_s, start)

    def _note(self, change: int) -> None:
        self._under_way_s += self._under_way * (self.clock.now_s - self._changed_s)
        self._changed_s = self.clock.now_s
        self._under_way += change

    def _work(self, station: Station | None, service_s: float, then: Action) -> None:
        """Work of a processor: of a station too where one is named."""
        if station is None:
            self._on_core(service_s, then)
            return
        chosen = station
        chosen.acquire(lambda: self._hold(chosen, service_s, then))

    def _hold(self, station: Station, service_s: float, then: Action) -> None:
        """The same, with a place of the station that is there already, and is given back."""

        def end() -> None:
            station.release()
            then()

        self._on_core(service_s, end)

    def _on_core(self, service_s: float, then: Action) -> None:
        if self._cores is None:
            self.clock.after(service_s, then)
        else:
            self._cores.serve(service_s, then)

    def _nbits_s(self, nbytes: float) -> float:
        return 8 * nbytes / self._site.network_bits_per_s

    # The way there.

    def _send(self, call: Call) -> None:
        kind = self._kind
        nbytes = kind.request_nbytes if kind.blocks == 1 else 0.0
        into = call.front.node.into
        self.clock.after(self._site.rtt_s / 2, lambda: into.serve(self._nbits_s(nbytes), lambda: self._opened(call)))

    def _opened(self, call: Call) -> None:
        """Whether there is room is seen when the call is read."""
        call.front.interpreter.acquire(lambda: self._admit(call))

    def _admit(self, call: Call) -> None:
        kind, front = self._kind, call.front
        self._attempts += 1
        if front.calls >= self._site.max_calls or front.writer.full:
            delay_s = STORE_RETRY_S if front.writer.full else RETRY_S[min(call.refusals, len(RETRY_S) - 1)]
            call.refusals += 1
            self._refused += 1
            delay_s += self._site.rtt_s / 2
            self._hold(front.interpreter, self._refusal_s, lambda: self.clock.after(delay_s, lambda: self._send(call)))
            return
        front.calls += 1
        front.writer.begin()
        call.blocks_left = kind.blocks
        arriving_s = kind.loop_s * ARRIVING_SHARE if kind.blocks == 1 else self._opening_s
        self._hold(front.interpreter, arriving_s, lambda: self._charge(call))

    def _charge(self, call: Call) -> None:
        front, principal = call.front, call.client % self._site.principals
        account = front.accounts.get(principal)
        if account is None:
            # Somewhere in the middle of a lease, as after a long time.
            left = self._random.randrange(self._site.lease_rows)
            account = front.accounts[principal] = Account(front.desk, self._site.lease_rows, left)
        account.take(self._kind.rows, lambda: self._charged(call))

    def _charged(self, call: Call) -> None:
        kind, front = self._kind, call.front
        if kind.blocks == 1:
            self._put(call, kind.rows)
            return
        # What the mean divides by is asked first, and passes the queue too.
        front.pool.put(front, Block(call, 0, lambda: self._read(call, 0)))

    def _read(self, call: Call, index: int) -> None:
        """A block of a large call arrives, and then the next."""
        kind, front = self._kind, call.front
        arriving_s = max(0.0, kind.loop_s * ARRIVING_SHARE - self._opening_s) / kind.blocks
        rows = kind.rows * (index + 1) // kind.blocks - kind.rows * index // kind.blocks

        def come() -> None:
            self._work(front.interpreter, arriving_s, lambda: self._put(call, rows))
            if index + 1 < kind.blocks:
                self._read(call, index + 1)

        front.node.into.serve(self._nbits_s(kind.request_nbytes / kind.blocks), come)

    def _put(self, call: Call, rows: int) -> None:
        call.front.pool.put(call.front, Block(call, rows, lambda: self._answer(call)))

    # The device.

    def _compute(self, device: Device, front: Front) -> None:
        """A device has been given to a front; what it computes is what waits when the front gets round to it."""
        began_s = self.clock.now_s
        front.interpreter.acquire(lambda: self._begin(device, front, self._taken(front), began_s), SWITCH_S)

    def _begin(self, device: Device, front: Front, batch: list[Block], began_s: float) -> None:
        kind, site = self._kind, self._site
        front.asked = False
        front.pool.ask(front)
        rows = sum(block.rows for block in batch)
        self._batches.append(rows)
        nbytes = rows * kind.row_nbytes
        back_nbytes = nbytes if kind.gradients else 40 * rows
        compute_s = kind.gpu.seconds(rows, nbytes + back_nbytes) / site.gpu_speed
        runner_s = kind.batch_s + kind.batch_block_s * (len(batch) - 1)

        def finished() -> None:
            device.computed_s += compute_s
            front.pool.give_back(device)
            for block in batch:
                block.then()
            front.pool.match()

        if self._cores is not None:
            cores = self._cores
            self._hold(front.interpreter, runner_s, lambda: cores.serve(compute_s, finished))
            return
        if site.fronts is None:
            launch_s = kind.gpu.launch_share * kind.gpu.floor_s if rows else 0.0
            rest_s = max(0.0, compute_s - launch_s)
            self._hold(front.interpreter, runner_s + launch_s, lambda: self.clock.after(rest_s, finished))
            return
        hop_s = site.hop.seconds(nbytes + back_nbytes) if rows else 0.0
        front_s, rest_s = hop_s * site.hop.front_share, hop_s * (1 - site.hop.front_share)
        there_s, back_s = self._nbits_s(nbytes), self._nbits_s(back_nbytes)

        def leave() -> None:
            front.node.out.serve(there_s, lambda: device.node.into.serve(there_s, arrive))

        def arrive() -> None:
            self.clock.after(rest_s / 2, queue)

        def queue() -> None:
            device.under_way_s += self.clock.now_s - began_s
            device.gpu.serve(compute_s, leave_again)

        def leave_again() -> None:
            computed_s = self.clock.now_s

            def come_back() -> None:
                front.node.into.serve(back_s, end)

            def end() -> None:
                device.under_way_s += self.clock.now_s - computed_s
                finished()

            self.clock.after(rest_s / 2, lambda: device.node.out.serve(back_s, come_back))

        self._hold(front.interpreter, runner_s + front_s, leave)

    def _taken(self, front: Front) -> list[Block]:
        """The first block that waits, and those of other calls, as far as there is room."""
        queue, most = front.queue, self._site.max_batch_rows
        first = queue.popleft()
        if not first.rows:
            return [first]
        batch, rows, kept = [first], first.rows, []
        while queue and rows < most:
            block = queue.popleft()
            if block.rows and block.call is not first.call and rows + block.rows <= most:
                batch.append(block)
                rows += block.rows
            else:
                kept.append(block)
                if block.rows and rows + block.rows > most:
                    break
        queue.extendleft(reversed(kept))
        return batch

    # The way back.

    def _answer(self, call: Call) -> None:
        kind, front = self._kind, call.front
        leaving_s = kind.loop_s * (1 - ARRIVING_SHARE) / kind.blocks

        def packed() -> None:
            front.node.out.serve(self._nbits_s(kind.answer_nbytes / kind.blocks), sent)

        def sent() -> None:
            call.blocks_left -= 1
            if not call.blocks_left:
                front.calls -= 1
                front.writer.append()
                self.clock.after(self._site.rtt_s / 2, lambda: self._work(None, kind.client_s / 2, lambda: self._returned(call)))

        self._work(front.interpreter, leaving_s, packed)
