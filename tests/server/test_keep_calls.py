"""``keep_calls_days``: a server forgets calls of its ledger that are too old, and nothing that was used."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import torch_owners

from gradwire.client import connect
from gradwire.server import ConfigError, serving
from gradwire.server.store import CallRecord, Store
from gradwire.server.store.records import microseconds

MODEL = {"backend": "torch", "factory": torch_owners.linear, "input_shape": [64], "nb_classes": 10}


def old(number: int) -> CallRecord:
    at_us = microseconds(datetime.now(timezone.utc) - timedelta(days=2)) + number
    return CallRecord(at_us, "before", "anonymous", "m", "v1", "predict", 1, 1, 0, "OK", 1, f"old-{number}")


def test_a_server_forgets_calls_that_are_too_old_and_not_what_they_used(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with Store.open(url) as store:
        # More than go in three transactions.
        store.write_calls([old(number) for number in range(3100)], [], writer="before", number=1)
        with serving({"m": MODEL}, store=url, keep_calls_days=1.0) as address, connect(address) as server:
            server.estimator("m").predict(np.zeros((5, 64), np.float32))
            end_s = time.monotonic() + 30
            while store.count_calls() > 1:
                assert time.monotonic() < end_s, store.count_calls()
                time.sleep(0.05)
            usage = server.usage("m")[0]
            assert (usage.forward, usage.backward) == (3105, 0)
        (left,) = store.last_calls(10)
        assert left.rows == 5


def test_a_server_that_is_not_told_to_keeps_all(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with Store.open(url) as store:
        store.write_calls([old(0)], [], writer="before", number=1)
        with serving({"m": MODEL}, store=url) as address, connect(address) as server:
            server.estimator("m").predict(np.zeros((5, 64), np.float32))
        assert store.count_calls() == 2


def test_days_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="keep_calls_days"), serving({"m": MODEL}, keep_calls_days=0):
        pass
