"""nginx in front of server processes: calls find the servers of their models, and a restart behind it goes unnoticed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import trustme
import yaml
from commands import gradwire
from deploy.descent import pgd
from deploy.nginx import free_ports, gateway, needs_nginx
from processes import ServerProcess, gradwire_serve

from gradwire.client import connect
from gradwire.client.demo.digits import held_out
from gradwire.client.errors import Unauthenticated, Unavailable, UnknownModel
from gradwire.client.estimator import RemoteEstimator
from gradwire.client.settings import Retry
from gradwire.server import serving

HERE = Path(__file__).parent


DIGITS = {
    "backend": "sklearn",
    "factory": "digits_mlp:digits_mlp",
    "input_shape": [1, 8, 8],
    "nb_classes": 10,
    "clip_values": [0.0, 1.0],
}
MODELS = """
map $http_gradwire_model $group {{
    default digits;
    labels  second;
    gone    gone;
}}
upstream digits {{ server 127.0.0.1:{0} max_fails=0; server 127.0.0.1:{1} max_fails=0; }}
upstream second {{ server 127.0.0.1:{1}; }}
upstream gone   {{ server 127.0.0.1:{2}; }}
"""
"""Two servers behind a gateway: both serve "digits", the second also "labels"; "gone" has no server."""

PATIENT = Retry(attempts=8, first_delay_s=0.02)


class Replica:
    """A server process on a port of its own that can be started again."""

    def __init__(self, folder: Path, port: int, models: list[dict[str, Any]]) -> None:
        folder.mkdir()
        copy(HERE / "digits_mlp.py", folder)
        self.config = folder / "serve.yaml"
        # Every call is charged in the store that both share, by itself: no lease hides what was charged twice.
        settings = {"listen": f"127.0.0.1:{port}", "store": "sqlite:///../shared.db", "lease_rows": 1}
        # The gateway's connections grow old too.
        settings["limits"] = {"max_connection_age_s": 2.0}
        self.config.write_text(yaml.safe_dump({**settings, "models": models}))
        self._running = ExitStack()
        self._process: ServerProcess | None = None

    def start(self) -> None:
        self._process = self._running.enter_context(gradwire_serve(self.config))

    def stop(self) -> int:
        """Ends it by SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.signal(signal.SIGTERM)
        code = self._process.process.wait(60)
        self._running.close()
        return code

    def kill(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGKILL)
        self._process.process.wait()
        self._running.close()

    def close(self) -> None:
        self._running.close()


@dataclass(frozen=True)
class Site:
    address: str
    direct: str
    first: Replica
    second: Replica
    log: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    needs_nginx()
    folder = tmp_path_factory.mktemp("gateway")
    ports = free_ports(3)
    digits = {"name": "digits", **DIGITS}
    first = Replica(folder / "first", ports[0], [digits])
    second = Replica(folder / "second", ports[1], [digits, {"name": "labels", "same_as": "digits", "access": "labels"}])
    try:
        for replica in (first, second):
            replica.start()
        with gateway(folder / "nginx", MODELS.format(*ports)) as address:
            yield Site(address, f"127.0.0.1:{ports[0]}", first, second, folder / "nginx" / "calls.log")
    finally:
        first.close()
        second.close()


def settled(model: RemoteEstimator) -> tuple[int, int]:
    """Rows forward and backward, after both servers have written their charges to the store."""
    seen: list[tuple[int, int]] = []
    while len(seen) < 2 or seen[-1] != seen[-2]:
        time.sleep(1.5)
        usage = model.usage()
        seen.append((usage.forward, usage.backward))
    return seen[-1]


def test_calls_go_to_the_servers_of_their_models(site: Site) -> None:
    x, _ = held_out()
    with connect(site.address) as server:
        for _ in range(4):
            np.testing.assert_array_equal(
                server.estimator("labels").predict(x[:5]).argmax(1), server.estimator("digits").predict(x[:5]).argmax(1)
            )
        # What names no model is the default group's, and so is a name that only the gateway's map does not know.
        assert "digits" in [card.name for card in server.models()]
        with pytest.raises(UnknownModel):
            server.estimator("nobodys")


def test_a_group_that_is_not_there_is_unavailable_and_the_others_go_on(site: Site) -> None:
    with connect(site.address) as server:
        with pytest.raises(Unavailable, match="no server of this group answers"):
            server.estimator("gone")
        assert server.estimator("digits").predict(np.zeros((1, 1, 8, 8), np.float32)).shape == (1, 10)


def test_health_of_a_model_is_that_of_its_own_server(site: Site) -> None:
    assert gradwire("health", site.address, "--service", "labels").returncode == 0
    assert gradwire("health", site.address, "--service", "gone").returncode == 3


def test_large_calls_go_through_whole(site: Site) -> None:
    x = np.tile(held_out()[0], (200, 1, 1, 1))  # 23 MB
    with connect(site.address) as through, connect(site.direct) as direct:
        np.testing.assert_array_equal(through.estimator("digits").predict(x), direct.estimator("digits").predict(x))


@pytest.mark.timeout(240)
def test_an_attack_does_not_notice_that_its_servers_are_restarted_and_nothing_is_charged_twice(site: Site) -> None:
    x, y = (part[:4] for part in held_out())
    restarted, failed = threading.Event(), []

    def restart() -> None:
        try:
            for replica in (site.first, site.second):
                assert replica.stop() == 0
                replica.start()
        except BaseException as e:
            failed.append(e)
            raise
        finally:
            restarted.set()

    with connect(site.address, retry=PATIENT) as server:
        digits = server.estimator("digits")
        before = settled(digits)
        thread = threading.Thread(target=restart)
        thread.start()
        found, steps = pgd(digits, x, y, lambda done: not restarted.is_set() or done < 100)
        thread.join()
        used = settled(digits)
    assert not failed
    assert used == (before[0] + 4 * steps, before[1] + 4 * steps)
    with connect(site.direct, same_host=False) as direct:
        expected, _ = pgd(direct.estimator("digits"), x, y, lambda done: done < steps)
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, x)
    # Both servers have been asked, one where the other was gone: then both stand in the line.
    asked = [line.split(" -> ")[1].split()[0] for line in site.log.read_text().splitlines() if "/LossGradient" in line]
    assert len({server.rstrip(",") for server in asked}) == 2


@pytest.mark.timeout(240)
def test_an_attack_does_not_notice_that_its_servers_are_killed(site: Site) -> None:
    """Calls that a killed server had not written are missing from the ledger; the caller misses nothing."""
    x, y = (part[:4] for part in held_out())
    back, failed = threading.Event(), []

    def kill() -> None:
        try:
            for replica in (site.first, site.second):
                replica.kill()
                replica.start()
        except BaseException as e:
            failed.append(e)
            raise
        finally:
            back.set()

    with connect(site.address, retry=PATIENT) as server:
        thread = threading.Thread(target=kill)
        thread.start()
        found, steps = pgd(server.estimator("digits"), x, y, lambda done: not back.is_set() or done < 100)
        thread.join()
    assert not failed
    with connect(site.direct, same_host=False) as direct:
        expected, _ = pgd(direct.estimator("digits"), x, y, lambda done: done < steps)
    np.testing.assert_array_equal(found, expected)


def test_the_gateway_ends_tls_and_tokens_go_through(tmp_path: Path) -> None:
    needs_nginx()
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    own = ca.issue_cert("127.0.0.1", "localhost")
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "certificate"))
    own.private_key_pem.write_to_path(str(tmp_path / "key"))
    tokens = tmp_path / "tokens.yaml"
    alice = gradwire("token", "new", "alice", "--file", str(tokens)).stdout.strip()
    model = {"backend": "blackbox", "factory": lambda: lambda x: x[:, :2], "input_shape": [3], "nb_classes": 2}
    grant = {"principal": "alice", "model": "two", "access": "scores"}
    (tmp_path / "grants.yaml").write_text(yaml.safe_dump([grant]))
    settings = {"identity": {"tokens": str(tokens)}, "grants": str(tmp_path / "grants.yaml")}
    x = np.ones((1, 3), np.float32)
    with serving({"two": model}, **settings) as direct:
        models = f"map $http_gradwire_model $group {{ default {direct}; }}\n"
        with gateway(tmp_path / "nginx", models, secrets=tmp_path) as address:
            with connect(address, tls=tmp_path / "ca.pem", token=alice) as server:
                assert server.estimator("two").predict(x).tolist() == [[1, 1]]
                assert server.usage("two")[0].principal == "alice"
            for token in (None, "gradwire_" + "A" * 43):
                with connect(address, tls=tmp_path / "ca.pem", token=token) as server, pytest.raises(Unauthenticated):
                    server.models()
            with connect(address) as server, pytest.raises(Unavailable):
                server.models()
