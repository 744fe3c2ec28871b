"""A process that appends calls until it is killed: ``append_calls.py URL``. A line on stdout each 100 calls."""

from __future__ import annotations

import os
import sys
import time

from gradwire.server.store import CallRecord, CallWriter, Store

if __name__ == "__main__":
    store = Store.open(sys.argv[1])
    writer = CallWriter(store, period_s=0.02)
    for number in range(10**9):
        principal = f"p{number % 5}"
        writer.append(CallRecord(number, "s", principal, "digits", "v1", "predict", 1, 1, number % 3, "OK", 1, str(number)))
        if number % 100 == 0:
            os.write(1, b"%d\n" % writer.flushed)
            time.sleep(0.002)
