"""Clients of both transports are killed in the middle of whatever they do, over and over.

The server's memory, descriptors, mappings and threads stay what they were, and who lives gets right answers. The short form is
part of the tests; ``python -m test_soak_kills --minutes 30`` in ``tests`` is the long one.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import TESTS, environment
from one_model import torch_nets, weights
from processes import ServerProcess, server_process

from gradwire.client import Retry, connect

SECONDS = 20
CLIENTS = 3
GROWTH_BYTES = 48 << 20
OPENED_LATER = 4


def served() -> list[dict[str, Any]]:
    return [{"name": name, "access": "trainer", **torch_nets.DENSE} for name in ("m", "fitted")]


CLIENT = """
import sys
import numpy as np
from gradwire.client import connect
from gradwire.client.errors import GradwireError
seed, address, same_host = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
generator = np.random.default_rng(seed)
with connect(address, same_host=same_host) as server:
    remote, fitted = server.estimator("m"), server.estimator("fitted")
    print("ready", flush=True)
    while True:
        # Some calls fit one message, some take many; of shared memory both ways.
        rows = int(generator.choice([1, 8, 64, 3_000, 100_000]))
        x = generator.uniform(-1, 1, (rows, 6)).astype(np.float32)
        y = generator.integers(0, 4, rows)
        kind = generator.integers(5)
        try:
            if kind == 0:
                remote.predict(x)
            elif kind == 1:
                remote.loss_gradient(x, y)
            elif kind == 2:
                remote.class_gradient(x[:3_000])
            elif kind == 3:
                fitted.fit(x[:3_000], y[:3_000], batch_size=64, nb_epochs=3)
            else:
                clone = remote.clone_for_refitting()
                clone.save("kept")
                clone.delete()
        except GradwireError as e:
            # Clones of those who were killed stay, up to max_clones.
            if type(e).__name__ not in ("TooManyClones", "QueueFull", "Unavailable"):
                raise
"""


@dataclass
class Holdings:
    """Memory, descriptors and mappings of a process."""

    rss_bytes: int
    files: int
    mappings: int
    threads: int

    @classmethod
    def of(cls, process: ServerProcess) -> Holdings:
        folder = Path(f"/proc/{process.process.pid}")
        maps = (folder / "maps").read_text()
        threads = len(os.listdir(folder / "task"))
        return cls(process.rss_bytes(), len(os.listdir(folder / "fd")), maps.count("memfd:gradwire"), threads)


class Client:
    """A process that calls, until it is killed: some time after it has begun to, or before.

    Args:
        address: Of the server.
        seed: Of what it does; every other one takes the socket of this host.
        lives_s: From when it is at work; None: it never gets there.
    """

    def __init__(self, address: str, seed: int, lives_s: float | None) -> None:
        command = [sys.executable, "-c", CLIENT, str(seed), address, str(seed % 2 == 0)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=TESTS
        )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._lives_s = lives_s
        self._due_s = time.monotonic() + 0.5 if lives_s is None else None

    @property
    def due(self) -> bool:
        """True when the client should be killed."""
        assert self.process.poll() is None, self.process.communicate()[1][-2000:]
        if self._due_s is None and self.process.stdout.readline():  # type: ignore[union-attr]
            self._due_s = time.monotonic() + (self._lives_s or 0.0)
        return self._due_s is not None and time.monotonic() >= self._due_s

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def settled(process: ServerProcess, files: int) -> Holdings:
    """Holdings of the server once it has noticed that all clients are gone."""
    end_s = time.monotonic() + 5
    while (now := Holdings.of(process)).files > files or now.mappings:
        if time.monotonic() > end_s:
            break
        time.sleep(0.1)
    return now


def soak(folder: Path, seconds: float, report: Any = lambda text: None) -> None:
    """Kills clients for a while, and raises AssertionError for whatever the server has kept of them."""
    chance = random.Random(0)
    x = np.random.default_rng(0).uniform(-1, 1, (50, *weights.DENSE_INPUT_SHAPE)).astype(np.float32)
    killed = 0
    with server_process(folder, served(), limits={"max_clones": 4}) as process:
        with connect(process.address, retry=Retry(attempts=5)) as server:
            expected = server.estimator("m").predict(x)
        clients = [Client(process.address, seed, 4.0) for seed in range(CLIENTS)]
        first: Holdings | None = None
        warm: Holdings | None = None
        begin_s = time.monotonic()
        try:
            while (passed_s := time.monotonic() - begin_s) < seconds:
                time.sleep(0.02)
                for one in [one for one in clients if one.due]:
                    one.kill()
                    clients.remove(one)
                    killed += 1
                    if killed >= CLIENTS and first is None:
                        # Everybody has done everything once, and is gone: what there is now, there may be at the end.
                        first = settled(process, 0)
                    if first is None:
                        continue
                    while len(clients) < CLIENTS:
                        killed_at_s = chance.choice([None, 0.0, 0.1, 0.3, 1.0, 2.0])
                        clients.append(Client(process.address, chance.randrange(1000), killed_at_s))
                    report(f"{passed_s:.0f} s, {killed} killed, {Holdings.of(process)}")
                if warm is None and passed_s > seconds / 2:
                    warm = Holdings.of(process)
        finally:
            for one in clients:
                one.kill()
        with connect(process.address, retry=Retry(attempts=5)) as server:
            np.testing.assert_allclose(server.estimator("m").predict(x), expected, rtol=1e-5)
        assert first is not None
        assert warm is not None
        last = settled(process, first.files + OPENED_LATER)
        report(f"first {first}, half time {warm}, last {last}, {killed} killed")
        assert killed >= 2 * CLIENTS
        # Some are opened once, when they are first needed; a leak would have one for each client that was killed.
        assert last.files <= first.files + OPENED_LATER, (first, last)
        assert not last.mappings, last
        assert last.threads <= first.threads + 8, (first, last)
        assert last.rss_bytes - warm.rss_bytes < GROWTH_BYTES, (warm, last)


@pytest.mark.timeout(SECONDS + 120)
def test_clients_that_are_killed_leave_nothing_behind(tmp_path: Path) -> None:
    soak(tmp_path, SECONDS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m test_soak_kills", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    with tempfile.TemporaryDirectory() as scratch:
        soak(Path(scratch), 60 * parser.parse_args().minutes, lambda text: print(text, flush=True))
