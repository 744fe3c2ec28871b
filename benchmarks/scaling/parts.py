"""What a site is made of while it is simulated: nodes, devices, front ends, and the calls and row blocks that pass through."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.scaling.accounts import Account, Desk, Writer
from benchmarks.scaling.events import Action, Clock, Station


class Node:
    """A machine's network."""

    def __init__(self, clock: Clock) -> None:
        self.into = Station(clock)
        self.out = Station(clock)


@dataclass(eq=False)
class Device:
    """A GPU, with how long it has computed, and how long blocks were on their way to it and back."""

    node: Node
    gpu: Station
    computed_s: float = 0.0
    under_way_s: float = 0.0


@dataclass(eq=False)
class Front:
    """A process that takes calls; ``asked``: it waits for a device, or for its interpreter to say what a device should compute."""

    node: Node
    interpreter: Station
    pool: Pool
    writer: Writer
    desk: Desk
    calls: int = 0
    asked: bool = False
    accounts: dict[int, Account] = field(default_factory=dict)
    queue: deque[Block] = field(default_factory=deque)


@dataclass(eq=False)
class Call:
    """What a client waits for."""

    client: int
    front: Front
    began_s: float
    refusals: int = 0
    blocks_left: int = 0


@dataclass(eq=False)
class Block:
    """Rows of a call; of no rows: something else that has to pass the queue. ``then`` is what follows the device."""

    call: Call
    rows: int
    then: Action


class Pool:
    """Devices, and the fronts that they compute for.

    Args:
        devices: All of them.
        begin: Has one compute what waits at a front.
        blocks: That each has at once: one is computed, others are on their way.
    """

    def __init__(self, devices: list[Device], begin: Callable[[Device, Front], None], blocks: int = 1) -> None:
        self._idle = deque(devices * blocks)
        self._waiting: deque[Front] = deque()
        self._begin = begin

    def put(self, front: Front, block: Block) -> None:
        """Queues a block."""
        front.queue.append(block)
        self.ask(front)

    def ask(self, front: Front) -> None:
        """Has a device for what waits at a front, once one is free; if that has not been asked for already."""
        if front.queue and not front.asked:
            front.asked = True
            self._waiting.append(front)
            self.match()

    def give_back(self, device: Device) -> None:
        """A device is free."""
        self._idle.append(device)

    def match(self) -> None:
        """Has all free devices compute what waits; fronts take turns."""
        while self._idle and self._waiting:
            self._begin(self._idle.popleft(), self._waiting.popleft())
