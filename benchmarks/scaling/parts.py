"""Parts of a simulated site: nodes, devices and front ends, and the calls and row blocks that pass through them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import simpy

from benchmarks.scaling.accounts import Account, Desk, Writer
from benchmarks.scaling.station import Station, Wire


class Node:
    """A machine's network."""

    def __init__(self, env: simpy.Environment) -> None:
        self.into = Wire(env)
        self.out = Wire(env)


@dataclass(eq=False)
class Device:
    """A GPU.

    Attributes:
        node: The machine that it is in.
        gpu: The device itself.
        computed_s: Seconds that it has computed.
        under_way_s: Seconds that row blocks were on their way to it and back.
    """

    node: Node
    gpu: Station
    computed_s: float = 0.0
    under_way_s: float = 0.0


@dataclass(eq=False)
class Front:
    """A process that takes calls.

    Attributes:
        node: The machine that it is on.
        interpreter: Its Python interpreter, which does one thing at a time.
        devices: Idle devices; fronts that share them take turns.
        writer: Its thread that writes the ledger.
        desk: Its thread that fetches leases.
        calls: Calls that it has admitted and not answered yet.
        asked: True while a batch waits for a device, or for the interpreter.
        accounts: Its accounts, by principal.
        queue: Row blocks that wait for a device.
    """

    node: Node
    interpreter: Station
    devices: simpy.Store
    writer: Writer
    desk: Desk
    calls: int = 0
    asked: bool = False
    accounts: dict[int, Account] = field(default_factory=dict)
    queue: deque[Block] = field(default_factory=deque)


@dataclass(eq=False)
class Call:
    """A call of a client, under way at a front end."""

    client: int
    front: Front


@dataclass(eq=False)
class Block:
    """Rows of a call in the queue for a device; without rows, other work that must pass the queue.

    Attributes:
        call: The call that it belongs to.
        rows: Number of its rows.
        computed: Triggered when the device has computed it.
    """

    call: Call
    rows: int
    computed: simpy.Event
