"""Slow link in user space: a process that delays TCP and limits its rate.

All connections share the link, as they would share a wire. Each direction sends one byte after the other at the link's rate, and
every byte arrives half a round trip after it has been sent; bytes that do not fit on the wire yet wait at the sender, whose
socket is not read meanwhile. It replaces ``tc netem`` where the kernel has none. TCP itself sees loopback on both sides, so that
nothing is lost, and no connection begins slowly.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE_NBYTES = 8 << 10
"""Bytes that are sent together: 3 ms at 20 Mbit/s."""

_WAITING_NBYTES = 128 << 10
"""Bytes that a router on the way would queue."""


class Direction:
    """One direction of the link.

    Args:
        rate: Its rate in bytes a second.
        delay_s: Time from the end of sending to arrival.
    """

    def __init__(self, rate: float, delay_s: float) -> None:
        self._rate = rate
        self._delay_s = delay_s
        self._free_at_s = 0.0

    async def carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Carries all bytes of one connection."""
        clock = asyncio.get_running_loop().time
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(
            max(2, int((self._rate * self._delay_s + _WAITING_NBYTES) / _PIECE_NBYTES))
        )

        async def arrive() -> None:
            while True:
                due_s, piece = await under_way.get()
                await asyncio.sleep(due_s - clock())
                if not piece:
                    return
                target.write(piece)
                await target.drain()

        arriving = asyncio.create_task(arrive())
        with suppress(ConnectionError):
            while piece := await source.read(_PIECE_NBYTES):
                self._free_at_s = max(clock(), self._free_at_s) + len(piece) / self._rate
                await under_way.put((self._free_at_s + self._delay_s, piece))
        await under_way.put((clock() + self._delay_s, b""))
        with suppress(ConnectionError):
            await arriving
        target.close()


async def relay(host: str, port: int, mbit_per_s: float, rtt_ms: float) -> None:
    """Relays connections to a server until the process is ended; prints its own address first."""
    there, back = (Direction(mbit_per_s * 1e6 / 8, rtt_ms / 2e3) for _ in range(2))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(there.carry(reader, far_writer), back.carry(far_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    own_port = server.sockets[0].getsockname()[1]
    print(f"relaying on 127.0.0.1:{own_port}", flush=True)
    await server.serve_forever()


@contextmanager
def slow_link(address: str, mbit_per_s: float, rtt_ms: float) -> Iterator[str]:
    """Runs a link to a server during the context; yields the address of its near end."""
    command = [sys.executable, "-m", "benchmarks.link.relay", *address.rsplit(":", 1), str(mbit_per_s), str(rtt_ms)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("mbit_per_s", type=float)
    parser.add_argument("rtt_ms", type=float)
    asyncio.run(relay(**vars(parser.parse_args())))
