"""Clients are killed in the middle of every operation: the call ends, what was not computed is not charged, the model is free."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from commands import TESTS, environment
from processes import ServerProcess

from .owners import Gate
from .site import ROW, Site, check_consistency, torch_net

BUDGET = 10_000_000

CLIENT = """
import os, sys
import numpy as np
from gradwire.client import connect
operation, address, token, same_host = sys.argv[1:]
with connect(address, token=token, same_host=same_host == "True") as server:
    remote = server.estimator("net")
    rows = 400_000 if operation == "predict" else 100
    x, y = np.full((rows, 6), 0.5, np.float32), np.zeros(rows, np.int64)
    print("ready", flush=True)
    sys.stdin.readline()
    calls = {
        "predict": lambda: remote.predict(x, batch_size=100_000),
        "loss_gradient": lambda: remote.loss_gradient(x, y),
        "class_gradient": lambda: remote.class_gradient(x),
        "get_activations": lambda: remote.get_activations(x, "body"),
        "vjp": lambda: remote.vjp(x, np.ones((rows, 3), np.float32)),
        "fit": lambda: remote.fit(x, y, nb_epochs=1000),
        "fit_generator": lambda: remote.fit_generator(iter(lambda: (x, y), None), nb_epochs=1),
        "save": lambda: remote.save("theirs"),
    }
    calls[operation]()
    print("answered", flush=True)
"""


@pytest.fixture(scope="module", params=[1, 100], ids=["exact", "leases"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("gone")
    settings = {"lease_rows": request.param}
    limits = {"forward": BUDGET, "backward": BUDGET}
    return Site(folder, [torch_net("net", folder)], {("alice", "net"): limits}, settings=settings)


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[ServerProcess]:
    with site.serve() as server:
        yield server


@pytest.mark.parametrize(
    "operation", ["predict", "loss_gradient", "class_gradient", "get_activations", "vjp", "fit", "fit_generator", "save"]
)
def test_a_client_that_is_killed_leaves_a_model_that_is_free_and_pays_for_what_was_computed(
    operation: str, site: Site, server: ServerProcess
) -> None:
    gate = Gate(site.folder)
    # One of two ways, so that both are taken by each half of the operations, and all by one or the other in either module.
    same_host = (len(operation) + site.settings["lease_rows"]) % 2 == 0
    arguments = [operation, server.address, site.tokens["alice"], str(same_host)]
    with site.connect(server.address) as ops:
        remote = ops.estimator("net")
        version, outputs = remote.refresh().version, remote.predict(ROW)
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), cwd=TESTS,
        )  # fmt: skip
        try:
            assert client.stdin is not None
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
            gate.close()
            client.stdin.write("go\n")
            client.stdin.flush()
            gate.wait()
            client.kill()
            assert client.communicate()[0] == ""
            # What the model is in the middle of is finished; the server learns meanwhile that nobody waits for it.
            time.sleep(0.1)
        finally:
            client.kill()
            gate.open()
        began_s = time.monotonic()
        np.testing.assert_array_equal(remote.predict(ROW), outputs)
        assert remote.refresh().version == version
        assert time.monotonic() - began_s < 10
        check_consistency(site, server.address)
        call = [call for call in site.calls() if call.principal == "alice"][-1]
        assert call.operation == ("fit" if operation == "fit_generator" else operation)
        assert call.outcome == "CANCELLED"
        # What the device was in the middle of is used, whoever is left to read it: of a long call the first block.
        assert call.forward == {"predict": 128, "fit": 0, "fit_generator": 0, "save": 0}.get(operation, 100)
