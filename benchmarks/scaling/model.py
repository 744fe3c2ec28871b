"""The simulation: clients call; a front end reads, queues and merges; GPUs compute; answers go back.

Each client has one call under way. A front end is one interpreter, which does one thing at a time. A batch holds blocks of one
front end that wait when a device is free, never more rows than ``max_batch_rows``. There is no batching timer.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import simpy

from benchmarks.scaling import accounts
from benchmarks.scaling.accounts import Account, Database, Desk, Writer
from benchmarks.scaling.costs import ARRIVING_SHARE, AT_A_REPLICA, GPUS_PER_NODE, MEASURED, RETRY_S, STORE_RETRY_S, SWITCH_S
from benchmarks.scaling.parts import Block, Call, Device, Front, Node
from benchmarks.scaling.site import Outcome, Site
from benchmarks.scaling.station import Station, Steps
from benchmarks.scaling.workload import Kind

_MOST_EVENTS = 2_900_000
"""Limit of SimPy's events; only sites with a full ledger reach it, because many calls are refused and come back."""


class Simulation:
    """One kind of client at one site.

    Args:
        kind: The work of each client.
        clients: Number of clients.
        site: The servers, their network and their database.
        seed: Seed of all random choices: the server of each client, and the time of its first call.
        ledger_full: True if the site's ledgers have no room left at the beginning; see `accounts.Writer`.
    """

    def __init__(self, kind: Kind, clients: int, site: Site, seed: int = 0, ledger_full: bool = False) -> None:
        self._kind, self._site = kind, site
        self._random = random.Random(seed)
        self._env = env = simpy.Environment()
        self._events = 0
        self._database = Database(env, site)
        self._cores = None if site.cores is None else Station(env, site.cores)
        nodes = [Node(env) for _ in range(-(-site.gpus // GPUS_PER_NODE))]
        self._devices = [Device(nodes[number // GPUS_PER_NODE], Station(env)) for number in range(site.gpus)]
        self._nodes = [nodes]
        if site.fronts is None:
            self._fronts = [self._front(device.node, self._idle([device])) for device in self._devices]
        else:
            self._nodes.append([Node(env) for _ in range(site.fronts)])
            shared = self._idle(self._devices * AT_A_REPLICA)
            self._fronts = [self._front(node, shared) for node in self._nodes[-1]]
        self._opening_s = MEASURED["calls"]["query, grpc"]["loop_us"] * 1e-6 * ARRIVING_SHARE
        self._refusal_s = MEASURED["refusal_us"] * 1e-6
        self._latencies_s: list[float] = []
        self._answered = self._refused = self._attempts = 0
        self._batches: list[int] = []
        self._under_way, self._under_way_s, self._changed_s = 0, 0.0, 0.0
        spread_s = kind.attack_s + kind.client_s + clients / len(self._fronts) * kind.loop_s
        chosen = [self._random.choice(self._fronts) for _ in range(clients)]
        if ledger_full:
            # Front ends without clients have nothing to write.
            spread_s = max(spread_s, STORE_RETRY_S)
            called = list(dict.fromkeys(chosen))
            for front in called:
                front.writer = Writer(env, self._database, True, len(called))
        for client, front in enumerate(chosen):
            env.process(self._client(Call(client, front), self._random.uniform(0, spread_s)))

    def _idle(self, devices: list[Device]) -> simpy.Store:
        store = simpy.Store(self._env)
        store.items += devices
        return store

    def _front(self, node: Node, devices: simpy.Store) -> Front:
        interpreter = Station(self._env)
        writer = Writer(self._env, self._database, False, 1)
        return Front(node, interpreter, devices, writer, Desk(self._env, self._database, interpreter))

    def run(self, warm_calls: int, calls: int, most_s: float = float("inf")) -> Outcome:
        """Simulates a warm-up, and then the time that counts.

        Args:
            warm_calls: Calls answered before those that count.
            calls: Calls that count.
            most_s: Longest time that counts, and longest warm-up.
        """
        env = self._env
        self._step_until(lambda: self._answered >= warm_calls or env.now >= most_s, _MOST_EVENTS // 3)
        began_s, first, before = env.now, self._answered, self._busy_s()
        attempts, refused, batch = self._attempts, self._refused, len(self._batches)
        self._note(0)
        under_way_s = self._under_way_s
        self._latencies_s = []
        self._step_until(lambda: self._answered >= first + calls or env.now >= began_s + most_s, _MOST_EVENTS)
        self._note(0)
        seconds, answered = env.now - began_s, self._answered - first
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

    def _step_until(self, ended: Callable[[], bool], most_events: int) -> None:
        while self._events < most_events and not ended():
            self._env.step()
            self._events += 1

    def _busy_s(self) -> dict[str, float]:
        """Sums the seconds of service up to now, by resource and per place."""
        network = [
            sum(wire.served_s for wire in wires) / len(wires)
            for nodes in self._nodes
            for wires in ([node.into for node in nodes], [node.out for node in nodes])
        ]
        leases = self._database.leases
        return {
            "GPU": sum(device.computed_s for device in self._devices) / len(self._devices),
            "way": sum(device.under_way_s for device in self._devices) / len(self._devices) / AT_A_REPLICA,
            "front end": sum(front.interpreter.served_s for front in self._fronts) / len(self._fronts),
            "network": max(network),
            "leases": leases.served_s / leases.capacity,
        }

    # A client.

    def _client(self, call: Call, first_s: float) -> Steps:
        """Makes one call after the other, from the time ``first_s`` on."""
        kind, env = self._kind, self._env
        yield env.timeout(first_s)
        while True:
            self._note(1)
            began_s = env.now
            yield from self._compute_s(kind.client_s / 2)
            yield from self._admitted(call)
            yield from self._served(call)
            yield from self._compute_s(kind.client_s / 2)
            self._note(-1)
            self._answered += 1
            self._latencies_s.append(env.now - began_s)
            # A little more or less each time, so that clients do not march in step.
            yield env.timeout(kind.attack_s * self._random.uniform(0.5, 1.5))

    def _note(self, change: int) -> None:
        now_s = self._env.now
        self._under_way_s += self._under_way * (now_s - self._changed_s)
        self._changed_s = now_s
        self._under_way += change

    def _compute_s(self, service_s: float) -> Steps:
        """Takes processor time: of a core of the host if the site has a limited number, else without waiting."""
        if self._cores is None:
            yield self._env.timeout(service_s)
        else:
            yield from self._cores.serve(service_s)

    def _interpret(self, front: Front, service_s: float) -> Steps:
        """Waits for a front end's interpreter and takes processor time while holding it."""
        interpreter = front.interpreter.request()
        if not interpreter.triggered:
            yield interpreter
        yield from self._compute_s(service_s)
        yield front.interpreter.release(interpreter)

    def _nbits_s(self, nbytes: float) -> float:
        return 8 * nbytes / self._site.network_bits_per_s

    # The way there.

    def _admitted(self, call: Call) -> Steps:
        """Sends a call, again after each refusal, until the front end admits it and has read its first part."""
        kind, site, front, env = self._kind, self._site, call.front, self._env
        request_s = self._nbits_s(kind.request_nbytes if kind.blocks == 1 else 0.0)
        refusals = 0
        while True:
            yield env.timeout(site.rtt_s / 2)
            yield front.node.into.carry(request_s)
            interpreter = front.interpreter.request()
            if not interpreter.triggered:
                yield interpreter
            # The server checks for room when it reads the call.
            self._attempts += 1
            if front.calls < site.max_calls and not front.writer.full:
                break
            delay_s = STORE_RETRY_S if front.writer.full else RETRY_S[min(refusals, len(RETRY_S) - 1)]
            refusals += 1
            self._refused += 1
            yield from self._compute_s(self._refusal_s)
            yield front.interpreter.release(interpreter)
            yield env.timeout(site.rtt_s / 2 + delay_s)
        front.calls += 1
        front.writer.begin()
        yield from self._compute_s(kind.loop_s * ARRIVING_SHARE if kind.blocks == 1 else self._opening_s)
        yield front.interpreter.release(interpreter)

    def _served(self, call: Call) -> Steps:
        """Charges an admitted call, computes its blocks and sends the answer."""
        kind, front = self._kind, call.front
        yield from self._account(call).take(kind.rows)
        if kind.blocks == 1:
            yield from self._computed(call, kind.rows)
        else:
            # The number that the mean is divided by is asked first, and passes the queue too.
            yield self._put(call, 0)
            blocks = []
            for index in range(kind.blocks):
                yield front.node.into.carry(self._nbits_s(kind.request_nbytes / kind.blocks))
                rows = kind.rows * (index + 1) // kind.blocks - kind.rows * index // kind.blocks
                blocks.append(self._env.process(self._read_and_computed(call, rows)))
            yield self._env.all_of(blocks)
        front.calls -= 1
        front.writer.append()
        yield self._env.timeout(self._site.rtt_s / 2)

    def _account(self, call: Call) -> Account:
        front, principal = call.front, call.client % self._site.principals
        account = front.accounts.get(principal)
        if account is None:
            # Somewhere in the middle of a lease, as after a long time.
            left = self._random.randrange(self._site.lease_rows)
            account = front.accounts[principal] = Account(self._env, front.desk, self._site.lease_rows, left)
        return account

    def _read_and_computed(self, call: Call, rows: int) -> Steps:
        """Reads a block of a large call, computes it and sends its answer, while the next block arrives."""
        kind = self._kind
        yield from self._interpret(call.front, max(0.0, kind.loop_s * ARRIVING_SHARE - self._opening_s) / kind.blocks)
        yield from self._computed(call, rows)

    def _computed(self, call: Call, rows: int) -> Steps:
        """Computes a block that has been read, and sends its answer."""
        kind, front = self._kind, call.front
        yield self._put(call, rows)
        yield from self._interpret(front, kind.loop_s * (1 - ARRIVING_SHARE) / kind.blocks)
        yield front.node.out.carry(self._nbits_s(kind.answer_nbytes / kind.blocks))

    # The device.

    def _put(self, call: Call, rows: int) -> simpy.Event:
        """Queues a block; the event is triggered when a device has computed it."""
        block = Block(call, rows, self._env.event())
        call.front.queue.append(block)
        self._ask(call.front)
        return block.computed

    def _ask(self, front: Front) -> None:
        """Starts a batch for the blocks that wait at a front end, unless one waits for them already."""
        if front.queue and not front.asked:
            front.asked = True
            self._env.process(self._batch(front))

    def _batch(self, front: Front) -> Steps:
        """Waits for a device and computes there the blocks that wait when the front end gets to it."""
        kind, site, env = self._kind, self._site, self._env
        device: Device = yield front.devices.get()
        began_s = env.now
        interpreter = yield from front.interpreter.request_within(SWITCH_S)
        batch = self._taken(front)
        front.asked = False
        self._ask(front)
        rows = sum(block.rows for block in batch)
        self._batches.append(rows)
        nbytes = rows * kind.row_nbytes
        back_nbytes = nbytes if kind.gradients else 40 * rows
        compute_s = kind.gpu.seconds(rows, nbytes + back_nbytes) / site.gpu_speed
        runner_s = kind.batch_s + kind.batch_block_s * (len(batch) - 1)
        if self._cores is not None:
            yield from self._compute_s(runner_s)
            yield front.interpreter.release(interpreter)
            yield from self._compute_s(compute_s)
        elif site.fronts is None:
            launch_s = kind.gpu.launch_share * kind.gpu.floor_s if rows else 0.0
            yield env.timeout(runner_s + launch_s)
            yield front.interpreter.release(interpreter)
            yield env.timeout(max(0.0, compute_s - launch_s))
        else:
            hop_s = site.hop.seconds(nbytes + back_nbytes) if rows else 0.0
            yield env.timeout(runner_s + hop_s * site.hop.front_share)
            yield front.interpreter.release(interpreter)
            way_s = hop_s * (1 - site.hop.front_share) / 2
            yield from self._carried(front.node, device.node, nbytes)
            yield env.timeout(way_s)
            device.under_way_s += env.now - began_s
            yield from device.gpu.serve(compute_s)
            computed_s = env.now
            yield env.timeout(way_s)
            yield from self._carried(device.node, front.node, back_nbytes)
            device.under_way_s += env.now - computed_s
        device.computed_s += compute_s
        # Answers get in line for the interpreter before the next batch does.
        for block in batch:
            block.computed.succeed()
        front.devices.put(device)

    def _carried(self, source: Node, target: Node, nbytes: float) -> Steps:
        """Carries bytes from one node to another."""
        yield source.out.carry(self._nbits_s(nbytes))
        yield target.into.carry(self._nbits_s(nbytes))

    def _taken(self, front: Front) -> list[Block]:
        """Takes the first block that waits, and blocks of other calls while there is room."""
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
