"""Several processes behind one address: callers see one server, also while processes end and restart."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from commands import gradwire
from faults.background import Background
from faults.owners import Gate
from faults.site import PATIENT, ROW, Site, black_box, torch_net
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import ServerProcess

from gradwire.client.errors import Unsupported
from gradwire.server.errors import ConfigError
from gradwire.server.process.supervisor.device_process import Source
from gradwire.server.process.supervisor.restarts import RestartPolicy
from gradwire.server.process.supervisor.supervisor import EXIT_GIVEN_UP, SupervisionFailed, supervise
from gradwire.server.values.rows import Rows

from .child_processes import children, runs, until

STEPS = 6
X = np.random.default_rng(0).uniform(-1, 1, (5, 6)).astype(np.float32)
Y = np.arange(5) % 3
FIXED = "2 processes answer at this address, and a fit, version or clone would exist in one of them only"


def ports(count: int) -> int:
    """The first of so many free ports in a row, where no connection's own end takes one meanwhile."""
    for port in range(20_000 + os.getpid() * 7 % 10_000, 32_000, count):
        try:
            for number in range(count):
                with socket.socket() as tried:
                    tried.bind(("127.0.0.1", port + number))
            return port
        except OSError:
            continue
    pytest.fail("no ports are free")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("devices")
    budgets = {(name, "net"): {"forward": 1000, "backward": 1000} for name in ("alice", "bob", "carol")}
    port = ports(3)
    settings = {
        "devices": "cpu,cpu",
        "lease_rows": 1,
        "health_listen": f"127.0.0.1:{port}",
        "metrics_listen": f"127.0.0.1:{port + 1}",
        "log_format": "json",
    }
    return Site(folder, [torch_net("net", folder)], budgets, settings=settings)


@pytest.fixture(scope="module")
def pair(site: Site) -> Iterator[ServerProcess]:
    with site.serve() as server:
        yield server


def servers(site: Site, principal: str) -> list[int]:
    """The pids of the processes that have answered a principal, call by call."""
    return [int(call.server.rpartition(":")[2]) for call in site.calls() if call.principal == principal]


def call_until_answered_by(pid: int, site: Site, address: str) -> None:
    """Calls over new connections, until one has led to a process."""

    def answered() -> bool:
        for index in range(8):
            with site.connect(address, "bob", same_host=bool(index % 2), retry=PATIENT) as bob:
                bob.estimator("net").predict(ROW)
                bob.usage("net")  # the ledger is written before that is answered
        return pid in servers(site, "bob")

    until(answered)


def test_both_processes_answer_at_the_one_address_and_stand_in_the_ledger_by_their_names(site: Site, pair: ServerProcess) -> None:
    pids = children(pair.process.pid)
    assert len(pids) == 2
    for pid in pids:
        call_until_answered_by(pid, site, pair.address)
    assert set(servers(site, "bob")) == set(pids)


def test_a_connections_unix_socket_leads_to_the_process_that_it_was_asked_of(site: Site, pair: ServerProcess) -> None:
    for _ in range(6):
        with site.connect(pair.address) as ops:
            before = len(servers(site, "ops"))
            ops.estimator("net").predict(ROW)
            ops.usage("net")  # the ledger is written before that is answered
            [answered] = servers(site, "ops")[before:]
            assert listens(answered, ops.connection._same_host._name or "")


def listens(pid: int, socket_name: str) -> bool:
    """True if a process listens on an abstract Unix socket."""
    inodes = [line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith(f"@{socket_name}")]
    held = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    return any(f"socket:[{inode}]" in held for inode in inodes)


def test_the_supervisor_loads_no_framework_and_its_log_names_the_processes(site: Site, pair: ServerProcess) -> None:
    mapped = Path(f"/proc/{pair.process.pid}/maps").read_text()
    assert "torch" not in mapped
    lines = [json.loads(line) for line in pair.log.read_text().splitlines()]
    [serve] = [line for line in lines if line["message"] == "all processes serve"]
    assert serve["address"] == pair.address
    assert sorted(serve["pids"]) == ["0", "1"]
    assert {line["served_on"] for line in lines if line["message"] == "loaded"} == {"cpu"}


def test_what_changes_weights_is_not_offered_and_refused_with_what_to_do_instead(site: Site, pair: ServerProcess) -> None:
    with site.connect(pair.address) as ops:
        remote = ops.estimator("net")
        assert remote.card.operations == {"predict", "loss", "loss_gradient", "class_gradient", "get_activations", "vjp"}
        assert any(FIXED in note and "--engine ray" in note for note in remote.card.notes)
        for call in (
            lambda: remote.fit(X, Y, nb_epochs=1),
            lambda: remote.fit_generator(iter([(X, Y)]), nb_epochs=1),
            lambda: remote.save("kept"),
            remote.versions,
            lambda: remote.restore("kept"),
            remote.reset,
            remote.clone_for_refitting,
        ):
            with pytest.raises(Unsupported, match=f"'net' offers no .*: {FIXED}"):
                call()


def test_top_says_which_of_the_processes_it_shows(site: Site, pair: ServerProcess) -> None:
    (site.folder / "ops.token").write_text(site.tokens["ops"])
    ended = gradwire("top", pair.address, "--once", "--token-file", str(site.folder / "ops.token"))
    assert re.search(r"process [01] of 2, cpu, one of several at the address", ended.stdout), ended


def test_each_process_is_scraped_by_itself_and_says_which_it_is(site: Site, pair: ServerProcess) -> None:
    host, _, port = site.settings["metrics_listen"].rpartition(":")
    told = [urllib.request.urlopen(f"http://{host}:{int(port) + number}/metrics").read().decode() for number in range(2)]
    found = [re.findall(r'^gradwire_process_info{device="cpu",number="(\d)",server=".*:(\d+)"} 1.0$', text, re.M) for text in told]
    assert [number for ((number, _),) in found] == ["0", "1"]
    assert {int(pid) for ((_, pid),) in found} == set(children(pair.process.pid))


@pytest.mark.parametrize(("caller", "same_host"), [("alice", True), ("carol", False)], ids=["same host", "gRPC"])
def test_a_process_that_is_killed_in_an_attack_is_not_missed_nothing_is_charged_twice_and_it_comes_back(
    caller: str, same_host: bool, site: Site, pair: ServerProcess
) -> None:
    gate, before = Gate(site.folder), again(pair)
    gate.forget()
    with site.connect(pair.address, "bob", retry=PATIENT) as bob:
        undisturbed = attack(bob.estimator("net"))
    with site.connect(pair.address, caller, retry=PATIENT, same_host=same_host) as server:
        remote = server.estimator("net")
        first = remote.loss_gradient(X, Y)
        server.usage("net")
        [victim] = servers(site, caller)
        [other] = set(children(pair.process.pid)) - {victim}

        def half_way() -> None:
            server.usage("net")  # what the ledger has not written yet would be lost with the process; budgets would not
            gate.close()

        run = Background(lambda: attack(remote, half_way))
        gate.wait()
        os.kill(victim, signal.SIGKILL)
        until(lambda: not runs(victim))
        gate.open()
        np.testing.assert_array_equal(run.end().result, undisturbed)
        np.testing.assert_array_equal(remote.loss_gradient(X, Y), first)
        usage = server.usage("net")[0]
    rows = (STEPS + 2) * len(X)
    assert (usage.forward, usage.backward) == (rows, rows)
    with site.opened() as store:
        assert store.taken(caller, "net", None, 0.0).total == Rows(rows, rows)
        [used] = store.usage(caller)
        assert used.rows == Rows(rows, rows)
    assert set(servers(site, caller)) == {victim, other}
    until(lambda: again(pair) == before + 1)
    [new] = set(children(pair.process.pid)) - {other}
    call_until_answered_by(new, site, pair.address)
    assert healthy(site)


def again(pair: ServerProcess) -> int:
    """Number of processes that have been restarted, and serve."""
    return pair.log.read_text().count("a process serves again")


def attack(remote: Any, half_way: Callable[[], None] = lambda: None) -> Any:
    """Projected gradient descent within 0.3 of `X`."""
    x = X
    for step in range(STEPS):
        if step == STEPS // 2:
            half_way()
        x = np.clip(x + 0.1 * np.sign(remote.loss_gradient(x, Y)), X - 0.3, X + 0.3).astype(np.float32)
    return x


def healthy(site: Site) -> bool:
    """True if every process reports SERVING, as far as repeated probes reach them all."""
    for _ in range(16):
        with grpc.insecure_channel(site.settings["health_listen"], [("grpc.use_local_subchannel_pool", 1)]) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True)
            if answer.status != health_pb2.HealthCheckResponse.SERVING:
                return False
    return True


@pytest.fixture
def light(tmp_path: Path) -> Site:
    """Processes that load no framework."""
    return Site(tmp_path, [black_box("sums", "sums", gate=str(tmp_path))], {}, settings={"devices": ["cpu", "cpu"]})


def test_sigterm_lets_a_call_finish_and_all_processes_end_with_0(light: Site) -> None:
    gate = Gate(light.folder)
    with light.serve() as server, light.connect(server.address, retry=PATIENT) as ops:
        pids = children(server.process.pid)
        gate.close()
        call = Background(lambda: ops.estimator("sums").predict(ROW))
        gate.wait()
        server.signal(signal.SIGTERM)
        until(lambda: server.log.read_text().count("draining") >= 2)
        gate.open()
        np.testing.assert_allclose(call.end().result, [[6, -6]])
        assert server.process.wait(30) == 0
        assert not any(map(runs, pids))
        assert server.process.stdout is not None
        assert server.process.stdout.read() == "", "where it serves is said once"


def test_a_process_that_has_died_and_is_not_back_yet_does_not_spoil_the_end_of_the_others(light: Site) -> None:
    with light.serve() as server:
        died, other = children(server.process.pid)
        os.kill(died, signal.SIGKILL)
        until(lambda: "a process has ended" in server.log.read_text())
        server.signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert not runs(other)


def test_no_process_outlives_a_supervisor_that_is_killed_even_one_that_hangs(light: Site) -> None:
    gate = Gate(light.folder)
    with light.serve() as server, light.connect(server.address) as ops:
        pids = children(server.process.pid)
        gate.close()
        call = Background(lambda: ops.estimator("sums").predict(ROW))
        gate.wait()
        os.kill(pids[0], signal.SIGSTOP)
        server.signal(signal.SIGKILL)
        server.process.wait()
        until(lambda: not any(map(runs, pids)))
        gate.open()
        assert call.end().error is not None


def wrong(tmp_path: Path, **keys: Any) -> Path:
    config = tmp_path / "serve.yaml"
    config.write_text(yaml.safe_dump({"listen": "127.0.0.1:0", **keys}))
    return config


@pytest.mark.parametrize(
    ("model", "keys", "text"),
    [
        (black_box("sums", "sums"), {"lisen": "127.0.0.1:0"}, "lisen: unknown key"),
        (black_box("sums", "no_such_factory"), {}, "no_such_factory.*in the process of cpu"),
        (black_box("sums", "sums"), {"listen": "unix:/tmp/gradwire.sock"}, "processes cannot share a Unix socket"),
    ],
    ids=["key", "factory", "socket"],
)
def test_a_wrong_configuration_is_told_once_with_exit_code_2(
    model: dict[str, Any], keys: dict[str, Any], text: str, tmp_path: Path
) -> None:
    ended = gradwire("serve", str(wrong(tmp_path, **{"models": [model], **keys})), "--devices", "cpu,cpu")
    assert ended.returncode == 2, ended.stderr
    assert re.search(text, ended.stderr)
    assert len(re.findall("^error", ended.stderr, re.MULTILINE)) == 1
    assert "Traceback" not in ended.stderr
    assert "serving on" not in ended.stdout


@pytest.mark.parametrize(
    ("devices", "text"), [("all", "no GPU is visible"), ("gpu1", "'gpu1' is not a device"), ("cuda:0", "does not exist")]
)
def test_devices_that_are_not_there_are_told_with_exit_code_2(devices: str, text: str, tmp_path: Path) -> None:
    config = wrong(tmp_path, models=[black_box("sums", "sums")])
    ended = gradwire("serve", str(config), "--devices", devices, CUDA_VISIBLE_DEVICES="")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert text in ended.stderr


def linear(factory: str, **arguments: Any) -> dict[str, Any]:
    path = {"path": f"server.process.supervisor.owners:{factory}", "args": arguments}
    return {"name": "linear", "backend": "sklearn", "factory": path, "input_shape": [6], "nb_classes": 2}


def test_processes_whose_factory_draws_other_weights_in_each_do_not_serve(tmp_path: Path) -> None:
    config = wrong(tmp_path, models=[linear("drawn")])
    with pytest.raises(ConfigError, match="linear: the processes of cpu and cpu have different weights"):
        supervise(Source(config, config.read_text(), {}), ("cpu", "cpu"), pytest.fail)
    assert not processes_started()


def test_a_process_that_dies_at_each_start_is_given_up(tmp_path: Path) -> None:
    file = tmp_path / "dies"
    model = {
        **black_box("sums", "sums"),
        "factory": {"path": "server.process.supervisor.owners:dying", "args": {"file": str(file)}},
    }
    pids = failing(tmp_path, model, file.touch, "the process of cpu has ended 2 times in a row.*exit code 3")
    assert not any(map(runs, pids))


def test_a_process_that_comes_back_with_other_weights_is_not_let_in(tmp_path: Path) -> None:
    file = tmp_path / "number"
    file.write_text("1")
    text = "linear: its weights differ from those that the other processes have loaded"
    failing(tmp_path, linear("filed", file=str(file)), lambda: file.write_text("2"), text)


def failing(tmp_path: Path, model: dict[str, Any], change: Any, text: str) -> list[int]:
    """Kills one of two processes once something has changed, after which it cannot come back, and returns their pids."""
    config = wrong(tmp_path, models=[model])
    pids: list[int] = []

    def ready(address: str) -> None:
        pids.extend(processes_started())
        change()
        os.kill(pids[0], signal.SIGKILL)

    with pytest.raises(SupervisionFailed, match=text) as failed:
        supervise(Source(config, config.read_text(), {}), ("cpu", "cpu"), ready, RestartPolicy(first_delay_s=0.01, most=1))
    assert failed.value.exit_code == EXIT_GIVEN_UP
    assert len(pids) == 2
    return pids


def processes_started() -> list[int]:
    """The pids of those that this process supervises itself."""
    return [
        pid
        for pid in children(os.getpid())
        if "gradwire.server.process.supervisor.child" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
