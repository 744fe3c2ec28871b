"""A process full of clients: ``crowd.py TOKEN CALLS THREADS ADDRESS...``, which prints how many calls were served and refused.

Each thread has a connection of its own, to one of the addresses in turn, and makes its part of the calls, a row each.
"""

from __future__ import annotations

import json
import sys
import threading

import numpy as np

from gradwire.client import connect
from gradwire.client.errors import BudgetSpent


def main(token: str, calls: int, threads: int, addresses: list[str]) -> None:
    counts = [[0, 0] for _ in range(threads)]
    failed: list[BaseException] = []

    def call(number: int) -> None:
        try:
            x = np.ones((1, 6), np.float32)
            with connect(addresses[number % len(addresses)], token=token) as server:
                remote = server.estimator("sums")
                for _ in range(calls // threads + (number < calls % threads)):
                    try:
                        remote.predict(x)
                        counts[number][0] += 1
                    except BudgetSpent:
                        counts[number][1] += 1
        except BaseException as e:
            failed.append(e)
            raise

    crowd = [threading.Thread(target=call, args=(number,)) for number in range(threads)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    if failed:
        raise SystemExit(1)
    print(json.dumps({"served": sum(c[0] for c in counts), "refused": sum(c[1] for c in counts)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
