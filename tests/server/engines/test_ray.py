"""The engine ``ray`` on a real cluster of two nodes: answers, fits, lost nodes, budgets, drain."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import TESTS, environment, gradwire
from environments import MXNET, python_of
from faults.site import ONCE, OPS, PATIENT, Site, check_consistency
from processes import ServerProcess, server_process
from server.engines.cluster import Cluster, cannot_unshare, cluster

from gradwire.client import RemoteEstimator, Server, connect
from gradwire.client.errors import BudgetSpent, CallTimeout, Unavailable, Unsupported
from gradwire.client.grants import Budget, Grant
from gradwire.server import serving

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.program("ip"),
    pytest.mark.skipif(bool(cannot_unshare()), reason=f"Ray's daemons listen on all addresses: unshare -n: {cannot_unshare()}"),
]

BUDGET = 1_000_000
TWO = {"least": 2, "cpus": 0.25}
MLP: dict[str, Any] = {
    "name": "mlp", "backend": "torch", "factory": "server.engines.torch_owners:mlp", "input_shape": [6], "nb_classes": 3,
    "access": "trainer",
    "loss": "torch.nn.CrossEntropyLoss", "optimizer": {"path": "torch.optim.SGD", "args": {"lr": 0.1}},
    "preprocessing": {"mean": 0.1, "std": 0.5},
}  # fmt: skip
WHEREABOUTS: dict[str, Any] = {
    "name": "where", "backend": "blackbox", "factory": {"path": "server.engines.owners:whereabouts", "args": {"seconds": 0.1}},
    "input_shape": [6], "nb_classes": 2, "access": "trainer", "max_batch_rows": 10,
}  # fmt: skip
X = np.linspace(-1, 1, 60, dtype=np.float32).reshape(10, 6)
Y = np.arange(10) % 3
MANY = np.tile(X, (60, 1))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, nodes: Cluster) -> Site:
    models = [{**MLP, "replicas": TWO}, {**WHEREABOUTS, "replicas": {"least": 3, "cpus": 0.25}}]
    limits = {"forward": BUDGET, "backward": BUDGET}
    settings = {"engine": "ray", "ray": {"address": nodes.address}, "prefix": nodes.prefix}
    return Site(tmp_path_factory.mktemp("site"), models, {("alice", "mlp"): limits, ("alice", "where"): limits}, settings=settings)


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[ServerProcess]:
    # Sockets in the file system are reached from all network namespaces; their paths must be short.
    with tempfile.TemporaryDirectory(prefix="gw-") as folder, site.serve(listen=f"unix:{folder}/socket") as started:
        yield started


@pytest.fixture(scope="module")
def ops(site: Site, server: ServerProcess) -> Iterator[Server]:
    with site.connect(server.address, OPS, retry=PATIENT) as connected:
        yield connected


@pytest.fixture
def mlp(ops: Server) -> Iterator[RemoteEstimator]:
    remote = ops.estimator("mlp")
    yield remote
    remote.reset()


def own_preprocessing(remote: RemoteEstimator) -> RemoteEstimator:
    other = RemoteEstimator(remote.server, remote.card)
    other.set_params(preprocessing=(0.3, 0.7))
    return other


CALLS: dict[str, Any] = {
    "predict": lambda r: r.predict(X),
    "predict in training mode": lambda r: r.predict(X, training_mode=True),
    "predict in blocks": lambda r: r.predict(MANY, batch_size=32),
    "loss": lambda r: r.compute_loss(X, Y),
    "mean loss in blocks": lambda r: r.compute_loss(MANY, np.tile(Y, 60), "mean"),
    "loss of predictions": lambda r: r.compute_loss_from_predictions(np.zeros((10, 3), np.float32), Y),
    "loss gradient": lambda r: r.loss_gradient(X, np.eye(3, dtype=np.float32)[Y]),
    "loss gradient in blocks": lambda r: r.loss_gradient(MANY, np.tile(Y, 60)),
    "class gradient": lambda r: r.class_gradient(X),
    "class gradient by row": lambda r: r.class_gradient(X, label=Y),
    "activations": lambda r: r.get_activations(X, 1),
    "vjp": lambda r: r.vjp(X, np.ones((10, 3), np.float32)),
    "own preprocessing": lambda r: own_preprocessing(r).loss_gradient(X, Y),
}


@pytest.fixture(scope="module")
def here() -> Iterator[RemoteEstimator]:
    """The same model in a server that has it itself."""
    model = {key: value for key, value in MLP.items() if key != "name"}
    with serving({"mlp": model}) as address, connect(address) as connected:
        yield connected.estimator("mlp")


@pytest.mark.parametrize("call", CALLS)
def test_replicas_answer_what_a_model_answers_that_is_here(mlp: RemoteEstimator, here: RemoteEstimator, call: str) -> None:
    # A loss gradient in blocks divides by the rows of the whole call either way.
    np.testing.assert_allclose(CALLS[call](mlp), CALLS[call](here), rtol=1e-6, atol=1e-7)


def test_the_card_is_that_of_the_model_but_for_clones(mlp: RemoteEstimator, here: RemoteEstimator) -> None:
    theirs, own = mlp.card, here.card
    assert (theirs.input_shape, theirs.output_shape, theirs.nb_classes) == (own.input_shape, own.output_shape, own.nb_classes)
    assert (theirs.loss, theirs.layer_names, theirs.output_kind) == (own.loss, own.layer_names, own.output_kind)
    assert set(own.operations) - set(theirs.operations) == {"clone_for_refitting"}
    with pytest.raises(Unsupported, match="has no clone_for_refitting"):
        mlp.clone_for_refitting()


def test_one_large_call_is_computed_by_all_replicas_and_comes_back_in_order(ops: Server) -> None:
    x = np.zeros((200, 6), np.float32)
    x[:, 0] = np.arange(200)
    found = ops.estimator("where").predict(x)
    np.testing.assert_array_equal(found[:, 0], np.arange(200))
    blocks = found[:, 1].reshape(20, 10)
    assert (blocks == blocks[:, :1]).all()
    assert len(set(blocks[:, 0].tolist())) == 3


def test_a_fit_is_a_new_version_that_all_replicas_answer_by(mlp: RemoteEstimator, here: RemoteEstimator) -> None:
    before = mlp.predict(X)
    for remote in (mlp, here):
        remote.fit(X, Y, batch_size=4, nb_epochs=3, seed=7)
        assert remote.refresh().version == "fit-1"
    after = here.predict(X)
    assert np.abs(after - before).max() > 1e-3
    with ThreadPoolExecutor(8) as threads:
        for answer in threads.map(lambda _: mlp.predict(X), range(64)):
            np.testing.assert_allclose(answer, after, rtol=1e-6, atol=1e-7)
    here.reset()
    mlp.reset()
    np.testing.assert_array_equal(mlp.predict(X), before)


def test_no_call_sees_two_versions(site: Site, server: ServerProcess, mlp: RemoteEstimator) -> None:
    """Calls of many blocks, while the weights change again and again."""
    seen: list[np.ndarray] = []
    stop = threading.Event()

    def ask() -> None:
        with site.connect(server.address, retry=PATIENT) as connected:
            remote = connected.estimator("mlp")
            while not stop.is_set():
                seen.append(remote.predict(MANY, batch_size=20))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    versions = [mlp.predict(X)]
    for number in range(4):
        mlp.fit(X, Y, batch_size=5, nb_epochs=2, seed=number)
        versions.append(mlp.predict(X))
    stop.set()
    for thread in threads:
        thread.join()
    used = set()
    for answer in seen:
        parts = answer.reshape(60, 10, 3)
        np.testing.assert_allclose(parts, np.broadcast_to(parts[0], parts.shape), rtol=1e-5, atol=1e-6)
        used.add(min(range(5), key=lambda v: float(np.abs(versions[v] - parts[0]).max())))
    assert len(used) > 1


def test_batches_are_fitted_as_they_come(mlp: RemoteEstimator, here: RemoteEstimator) -> None:
    for remote in (mlp, here):
        remote.fit_generator(iter([(X[:5], Y[:5]), (X[5:], Y[5:])]), nb_epochs=1)
    np.testing.assert_allclose(mlp.predict(X), here.predict(X), rtol=1e-6, atol=1e-7)
    here.reset()


def test_versions_are_kept_restored_and_refused(mlp: RemoteEstimator) -> None:
    before = mlp.predict(X)
    mlp.fit(X, Y, batch_size=5, nb_epochs=2, seed=1)
    fitted = mlp.predict(X)
    mlp.save("good", overwrite=True)
    mlp.reset()
    np.testing.assert_array_equal(mlp.predict(X), before)
    mlp.restore("good")
    np.testing.assert_array_equal(mlp.predict(X), fitted)
    assert mlp.refresh().version == "good"


def test_a_fit_that_is_broken_off_changes_nothing(site: Site, server: ServerProcess, mlp: RemoteEstimator) -> None:
    before = mlp.predict(X)
    with site.connect(server.address, timeout_s=1.0) as impatient, pytest.raises(CallTimeout):
        impatient.estimator("mlp").fit(np.tile(X, (200, 1)), np.tile(Y, 200), batch_size=2, nb_epochs=1000)
    for _ in range(8):
        np.testing.assert_array_equal(mlp.predict(X), before)
    assert mlp.refresh().version == "initial"


def pgd(remote: RemoteEstimator, steps: int, pause_s: float = 0.0) -> np.ndarray:
    x = X.copy()
    for _ in range(steps):
        x = np.clip(x + 0.01 * np.sign(remote.loss_gradient(x, Y)), X - 0.3, X + 0.3)
        time.sleep(pause_s)
    return x


def test_a_node_that_is_killed_in_the_middle_of_an_attack_is_not_noticed(
    site: Site, server: ServerProcess, nodes: Cluster, mlp: RemoteEstimator
) -> None:
    undisturbed = pgd(mlp, 40)
    with site.connect(server.address, "alice", retry=PATIENT) as alice:
        remote = alice.estimator("mlp")
        before = remote.usage()
        with ThreadPoolExecutor(1) as threads:
            attack = threads.submit(pgd, remote, 40, 0.1)
            time.sleep(1.0)
            nodes.kill_node()
            np.testing.assert_array_equal(attack.result(), undisturbed)
        after = remote.usage()
    assert (after.forward - before.forward, after.backward - before.backward) == (400, 400)
    check_consistency(site, server.address)


def test_a_fit_whose_replica_is_killed_says_so_and_changes_nothing(mlp: RemoteEstimator, nodes: Cluster) -> None:
    before = mlp.predict(X)
    with ThreadPoolExecutor(1) as threads:
        fit = threads.submit(mlp.fit, np.tile(X, (200, 1)), np.tile(Y, 200), batch_size=2, nb_epochs=1000)
        time.sleep(1.0)
        nodes.kill_replicas("mlp")
        with pytest.raises(Unavailable, match="was lost during the fit; the model is unchanged"):
            fit.result(60)
    np.testing.assert_array_equal(mlp.predict(X), before)


def test_replicas_that_cannot_load_their_model_are_told_of_in_time_and_replaced(tmp_path: Path, nodes: Cluster) -> None:
    forbidden = tmp_path / "forbidden"
    factory = {"path": "server.engines.torch_owners:while_allowed", "args": {"forbidden": str(forbidden)}}
    models = [{**MLP, "factory": factory, "replicas": {"least": 1, "cpus": 0.1}, "name": "disk"}]
    ray = {"address": nodes.address, "app": "disk", "patience_s": 8}
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        settings = {"listen": f"unix:{folder}/socket", "engine": "ray", "ray": ray, "prefix": nodes.prefix}
        with server_process(tmp_path, models, **settings) as server, connect(server.address, retry=ONCE) as connected:
            remote = connected.estimator("disk")
            before = remote.predict(X)
            forbidden.touch()
            nodes.kill_replicas("disk")
            began_s = time.monotonic()
            with pytest.raises(Unavailable, match="no replica of 'disk'"):
                remote.predict(X)
            assert time.monotonic() - began_s < 60
            forbidden.unlink()
            end_s = time.monotonic() + 90
            while True:
                try:
                    np.testing.assert_array_equal(remote.predict(X), before)
                    break
                except Unavailable:
                    assert time.monotonic() < end_s


def test_budgets_end_where_they_end(site: Site, server: ServerProcess, ops: Server) -> None:
    ops.grants.put(Grant("alice", "where", "scores", budget=Budget(forward=25)))
    with site.connect(server.address, "alice") as alice:
        remote = alice.estimator("where")
        remote.predict(X)
        remote.predict(X)
        with pytest.raises(BudgetSpent, match="5 forward rows left of 25"):
            remote.predict(X)
        remote.predict(X[:5])


def test_replicas_are_added_while_blocks_wait_and_sigterm_drains_and_takes_them_along(tmp_path: Path, nodes: Cluster) -> None:
    ray = {"address": nodes.address, "app": "other"}
    models = [{**WHEREABOUTS, "replicas": {"least": 1, "most": 2, "queue": 1, "cpus": 0.1}}]
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        listen = f"unix:{folder}/socket"
        with server_process(tmp_path, models, listen=listen, engine="ray", ray=ray, prefix=nodes.prefix) as other:
            assert "other-where" in nodes.applications()
            with connect(other.address) as connected, ThreadPoolExecutor(1) as threads:
                answering: set[float] = set()
                end_s = time.monotonic() + 90
                while len(answering) < 2:
                    assert time.monotonic() < end_s, answering
                    answering |= set(connected.estimator("where").predict(np.tile(X, (20, 1)))[:, 1].tolist())
                call = threads.submit(connected.estimator("where").predict, np.tile(X, (12, 1)))
                time.sleep(0.5)
                other.signal(signal.SIGTERM)
                assert len(call.result()) == 120
            assert other.process.wait(60) == 0
    assert "other-where" not in nodes.applications()


def test_a_front_that_is_killed_in_the_middle_of_a_fit_is_followed_by_one_with_the_weights_of_before(
    tmp_path: Path, nodes: Cluster
) -> None:
    settings: dict[str, Any] = {"engine": "ray", "ray": {"address": nodes.address, "app": "killed"}, "prefix": nodes.prefix}
    models = [{**MLP, "replicas": {"least": 1, "cpus": 0.1}}]
    answers = []
    for number in range(2):
        with tempfile.TemporaryDirectory(prefix="gw-") as folder:
            with server_process(tmp_path, models, listen=f"unix:{folder}/socket", **settings) as front:
                with connect(front.address, retry=ONCE) as connected, ThreadPoolExecutor(1) as threads:
                    remote = connected.estimator("mlp")
                    assert remote.card.version == "initial"
                    answers.append(remote.predict(X))
                    if number == 0:
                        fit = threads.submit(remote.fit, np.tile(X, (200, 1)), np.tile(Y, 200), batch_size=2, nb_epochs=1000)
                        time.sleep(1.0)
                        front.signal(signal.SIGKILL)
                        with pytest.raises(Unavailable):
                            fit.result(60)
    np.testing.assert_array_equal(*answers)


def test_the_front_can_be_a_deployment_and_replicas_have_the_weights_of_one_of_them(tmp_path: Path, nodes: Cluster) -> None:
    """A front as KubeRay runs it, of a model whose factory makes up other weights each time."""
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        config = tmp_path / "serve.yaml"
        models = [{**MLP, "factory": "server.engines.torch_owners:unseeded", "replicas": {"least": 2, "cpus": 0.1}}]
        config.write_text(json.dumps({"listen": f"unix:{folder}/socket", "models": models}))
        command = [*nodes.prefix, sys.executable, "-m", "server.engines.front", nodes.address, str(config)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), cwd=TESTS
        ) as front:
            assert front.stdin is not None
            assert front.stdout is not None
            assert front.stdout.readline() == f"unix:{folder}/socket\n"
            with connect(f"unix:{folder}/socket") as connected:
                answers = [connected.estimator("mlp").predict(X) for _ in range(16)]
                np.testing.assert_array_equal(answers, np.broadcast_to(answers[0], (16, 10, 3)))
            front.stdin.close()
        assert front.returncode == 0


def test_a_model_that_cannot_be_loaded_is_told_at_start(tmp_path: Path, nodes: Cluster) -> None:
    config = tmp_path / "serve.yaml"
    broken = {**MLP, "factory": "server.engines.torch_owners:broken"}
    config.write_text(json.dumps({"listen": "127.0.0.1:0", "ray": {"address": nodes.address, "app": "broken"}, "models": [broken]}))
    told = gradwire("serve", str(config), "--engine", "ray", prefix=nodes.prefix, timeout_s=120)
    assert told.returncode == 2, told
    problem = "called with {} raised RuntimeError: the disk with the weights is not there"
    assert f"mlp: factory: 'server.engines.torch_owners:broken' {problem}" in told.stderr


def test_ensembles_are_refused_with_what_to_do_instead(tmp_path: Path, nodes: Cluster) -> None:
    config = tmp_path / "serve.yaml"
    ensemble = {"name": "both", "backend": "ensemble", "members": ["mlp"]}
    config.write_text(
        json.dumps({"listen": "127.0.0.1:0", "ray": {"address": nodes.address, "app": "e"}, "models": [MLP, ensemble]})
    )
    told = gradwire("serve", str(config), "--engine", "ray", prefix=nodes.prefix, timeout_s=120)
    assert told.returncode == 2, told
    assert "replicas cannot be made of other models (mlp)" in told.stderr
    assert "RemoteEnsemble" in told.stderr


def test_without_ray_the_error_names_the_extra(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    table = {**WHEREABOUTS, "factory": "math:sqrt"}
    config.write_text(json.dumps({"listen": "127.0.0.1:0", "engine": "ray", "models": [table]}))
    told = gradwire("serve", str(config), python=python_of(MXNET))
    assert told.returncode == 2
    assert "engine: 'ray' needs Ray, which is not installed; pip install 'gradwire[ray]'" in told.stderr
