"""A process that takes rows of a budget in several threads: ``take_rows.py URL LIMIT THREADS SEED``.

It says 0 when it is ready, and begins at a line on stdin. Each lease is a line on stdout once it is the holder's; what is given
back is a negative one.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time

from gradwire.server.store import BudgetLimits, BudgetShort, Store
from gradwire.server.values.rows import Rows


def take(store: Store, limits: BudgetLimits, draw: random.Random) -> None:
    most = 20
    while True:
        least = draw.randint(1, most)
        try:
            lease = store.take("alice", "digits", Rows(least, 0), Rows(draw.randint(1, 50), 0), limits, time.time())
        except BudgetShort as e:
            if e.left == 0:
                return
            most = e.left
            continue
        tell(lease.rows.forward)
        if draw.random() < 0.2:
            back = draw.randint(0, lease.rows.forward)
            store.give_back(lease, Rows(back, 0))
            tell(-back)


def tell(rows: int) -> None:
    # One write: lines of threads do not mix.
    os.write(1, f"{rows}\n".encode())


if __name__ == "__main__":
    url, limit, threads, seed = sys.argv[1], *map(int, sys.argv[2:])
    with Store.open(url) as opened:
        takers = [
            threading.Thread(target=take, args=(opened, BudgetLimits(max_forward=limit), random.Random(seed * 100 + number)))
            for number in range(threads)
        ]
        tell(0)
        sys.stdin.readline()
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
