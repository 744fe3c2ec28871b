"""Eight threads call models of every framework, and one of them is fitted meanwhile; GRADWIRE_SOAK_S says for how many seconds.

No row may be another row's, nothing may fail, and the server's memory stays what it was when everything was warm.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_model import jax_nets, keras_nets, tensorflow_nets, tensorflow_v1_nets, torch_nets, weights
from processes import server_process

from gradwire.client import RemoteEstimator, connect

SECONDS = int(os.environ.get("GRADWIRE_SOAK_S", "15"))
WARM_SECONDS = 35
THREADS = 8
POOL = 96
GROWTH_BYTES = 64 << 20
NETS = {
    "torch": torch_nets,
    "tensorflow": tensorflow_nets,
    "keras": keras_nets,
    "tensorflow_v1": tensorflow_v1_nets,
    "jax": jax_nets,
}
"""With batch sizes at random from 1 to 64, which nothing may be compiled for."""


def calls(remote: RemoteEstimator, x: Any, y: Any) -> dict[str, tuple[Callable[[Any], Any], Any]]:
    """Operations as functions of the rows' numbers, and what they answer for all rows: rows do not depend on each other."""
    layer = remote.layer_names[0]
    functions: dict[str, Callable[[Any], Any]] = {
        "predict": lambda rows: remote.predict(x[rows]),
        "loss": lambda rows: remote.compute_loss(x[rows], y[rows]),
        # Of a mean over the call's rows.
        "loss_gradient": lambda rows: remote.loss_gradient(x[rows], y[rows]) * len(rows),
        "class_gradient": lambda rows: remote.class_gradient(x[rows], label=y[rows]),
        "all_class_gradients": lambda rows: remote.class_gradient(x[rows]),
        "activations": lambda rows: remote.get_activations(x[rows], layer),
    }
    for function in functions.values():
        for rows in (1, 2, 4, 8, 16, 32, 64):
            # Whatever is compiled for a number of rows is now.
            function(np.arange(rows))
    return {name: (function, function(np.arange(POOL))) for name, function in functions.items()}


@pytest.mark.timeout(SECONDS + 180)
def test_mixed_calls_of_many_threads_never_mix_rows_and_memory_stays_flat(tmp_path: Path) -> None:
    models: list[dict[str, Any]] = [{"name": name, **module.DENSE} for name, module in NETS.items()]
    models += [{"name": f"{name}-conv", **module.CONV} for name, module in NETS.items()]
    models.append({"name": "fitted", "access": "trainer", **torch_nets.DENSE})
    generator = np.random.default_rng(0)
    with server_process(tmp_path, models) as process, connect(process.address) as server:
        expected = {}
        for name in [model["name"] for model in models if model["name"] != "fitted"]:
            remote = server.estimator(name)
            x = generator.uniform(-1, 1, (POOL, *remote.input_shape)).astype(np.float32)
            expected[name] = calls(remote, x, generator.integers(0, remote.nb_classes, POOL))
        choices = [(name, operation) for name, of in expected.items() for operation in of]
        wrong: list[str] = []
        done = [0] * THREADS
        stop = threading.Event()

        def call(thread: int) -> None:
            random = np.random.default_rng(thread)
            try:
                while not stop.is_set() and not wrong:
                    name, operation = choices[random.integers(len(choices))]
                    function, of_all = expected[name][operation]
                    rows = random.permutation(POOL)[: random.integers(1, 65)]
                    answer = function(rows)
                    if not np.allclose(answer, of_all[rows], rtol=1e-3, atol=1e-5):
                        wrong.append(f"{name} {operation} {len(rows)} rows: {np.abs(answer - of_all[rows]).max()}")
                    done[thread] += 1
            except Exception as e:
                wrong.append(f"{type(e).__name__}: {e}")

        def fit() -> None:
            remote = server.estimator("fitted")
            x = generator.uniform(-1, 1, (256, *weights.DENSE_INPUT_SHAPE)).astype(np.float32)
            y = generator.integers(0, weights.DENSE_CLASSES, 256)
            try:
                while not stop.is_set() and not wrong:
                    remote.fit(x, y, batch_size=64, nb_epochs=2)
                    remote.reset()
            except Exception as e:
                wrong.append(f"fit: {type(e).__name__}: {e}")

        threads = [threading.Thread(target=call, args=(i,)) for i in range(THREADS)] + [threading.Thread(target=fit)]
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        time.sleep(WARM_SECONDS)
        warm = process.rss_bytes()
        while time.monotonic() - begin < SECONDS and not wrong:
            time.sleep(0.5)
        end = process.rss_bytes()
        stop.set()
        for thread in threads:
            thread.join(60)
        assert not wrong
        assert not any(thread.is_alive() for thread in threads)
        assert min(done) > 100, done
        assert end - warm < GROWTH_BYTES, (warm, end)
