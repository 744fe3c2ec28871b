"""The images of the Dockerfile: built, run as their user, attacked from outside, drained."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
import yaml
from commands import environment
from deploy.buildah import build, command_in, config_of, container, files_of, needs_buildah
from deploy.nginx import free_ports
from deploy.tools import DEPLOY

pytestmark = [pytest.mark.container, pytest.mark.timeout(3600)]

HERE = Path(__file__).parent
TARGETS = os.environ.get("GRADWIRE_TARGETS", "sklearn").split()
"""Servers' targets to build: sklearn takes a minute, others some."""
SERVED = ("sklearn", "demo", "gpy", "mxnet")
"""Images with a model that can be served here."""
COMPOSE = ("gpy", "mxnet")
"""Images that serve compose's own models."""


@pytest.fixture(scope="module", params=[target for target in TARGETS if target in SERVED])
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def image(target: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    needs_buildah()
    return build(target, tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def client_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    needs_buildah()
    return build("client", tmp_path_factory.mktemp("build"))


@dataclass(frozen=True)
class Server:
    """Server in a container: three addresses, its pid on this host, a file made at its start, a model's name."""

    name: str
    process: subprocess.Popen[str]
    address: str
    health: str
    metrics: str
    pid: int
    begun: Path
    model: str

    def drain(self) -> int:
        """SIGTERM to the server itself, as an engine sends it; returns its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def served(image: str, target: str, folder: Path) -> Iterator[Server]:
    """The image's own command on a configuration that is mounted where it is looked for."""
    port, health, metrics = free_ports(3)
    if target in COMPOSE:
        copytree(DEPLOY / "compose" / target, folder, ignore=ignore_patterns("__pycache__"))
    else:
        folder.mkdir()
    folder.chmod(0o755)
    config = yaml.safe_load((folder / "serve.yaml" if target in COMPOSE else DEPLOY / "docker/demo.yaml").read_text())
    if target == "sklearn":
        model = {"backend": "sklearn", "factory": "digits_mlp:digits_mlp", "input_shape": [1, 8, 8], "nb_classes": 10}
        config["models"][0] = {"name": "digits", **model, "clip_values": [0.0, 1.0], "channels_first": True}
        copy(HERE / "digits_mlp.py", folder)
    config |= {"listen": f"0.0.0.0:{port}", "health_listen": f"0.0.0.0:{health}", "metrics_listen": f"0.0.0.0:{metrics}"}
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    with container(image) as name:
        command = config_of(image)["Entrypoint"]
        if target == "demo":  # its model lies in the image, where a mounted folder would hide it
            with files_of(name) as root:
                copy(folder / "serve.yaml", root / "etc/gradwire/serve.yaml")
            mounts = {}
        else:
            mounts = {folder: "/etc/gradwire"}
        begun = folder.with_name("begun")
        begun.touch()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # A group of its own: buildah, what it starts, and the server in the container.
        process = subprocess.Popen(command_in(name, command, mounts), text=True, start_new_session=True, **pipes)
        log: list[str] = []
        reader = threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
        reader.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.match(r"serving on \S+ \(pid (\d+)\)", line)
            assert found, (line, "".join(log))
            yield Server(
                name,
                process,
                f"127.0.0.1:{port}",
                f"127.0.0.1:{health}",
                f"127.0.0.1:{metrics}",
                int(found[1]),
                begun,
                config["models"][0]["name"],
            )
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def server(image: str, target: str, tmp_path: Path) -> Iterator[Server]:
    with served(image, target, tmp_path / "etc") as running:
        yield running


def test_the_demo_attack_passes_from_outside_and_sigterm_drains_it(server: Server, image: str, target: str, tmp_path: Path) -> None:
    if target in COMPOSE:
        pytest.skip("serves another model than the demo's")
    status = Path(f"/proc/{server.pid}/status").read_text()
    assert re.search(r"(?m)^Uid:\s+10001\s+10001", status)
    _, user, *test = ["CMD", config_of(image)["User"], *config_of(image)["Healthcheck"]["Test"]]
    assert user == "10001:10001"
    assert test == ["CMD", "gradwire", "health", "127.0.0.1:50052"]
    assert subprocess.run(command_in(server.name, ["gradwire", "health", server.health]), check=False).returncode == 0
    attack = [sys.executable, "-m", "gradwire.client.demo", server.address, "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(attack, capture_output=True, text=True, env=environment(), check=False, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    print(ended.stdout)
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as answer:
        assert b"gradwire_rows_total{" in answer.read()
    rows = dict(re.findall(r"(?m)^ *(FGSM|PGD|DeepFool|HopSkipJump) .*?([\d.]+)% +[\d.,]+ ", ended.stdout))
    assert set(rows) == {"FGSM", "PGD", "DeepFool", "HopSkipJump"}
    with files_of(server.name) as root:
        # A read-only root does not matter to it: only the state's folder, /tmp and what the kernel makes are written to.
        free = ("proc", "sys", "dev", "tmp", "run", "var/lib/gradwire", "etc/gradwire")
        written = [
            str(file.relative_to(root))
            for file in (Path(found) for found in _newer(root, server.begun))
            if not str(file.relative_to(root)).startswith(free)
        ]
    assert written == []
    assert server.drain() == 0


def _newer(root: Path, begun: Path) -> list[str]:
    """Files that have been written to since ``begun`` was."""
    command = ["find", str(root), "-xdev", "-type", "f", "-newer", str(begun)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]


def test_the_clients_image_asks_the_servers(server: Server, client_image: str) -> None:
    with container(client_image) as name:
        entry = config_of(client_image)["Entrypoint"]
        for arguments in (
            ["health", server.address, "--service", server.model],
            ["models", server.address],
            ["check", server.address, server.model],
        ):
            ended = subprocess.run(command_in(name, [*entry, *arguments]), capture_output=True, text=True, check=False)
            assert ended.returncode == 0, shlex.join(arguments) + ended.stdout + ended.stderr
        bare = subprocess.run(command_in(name, ["python", "-c", "import torch"]), capture_output=True, text=True, check=False)
        assert "No module named 'torch'" in bare.stderr


@pytest.mark.parametrize("target", [target for target in TARGETS if target not in SERVED])
def test_an_image_has_what_it_is_for(target: str, tmp_path: Path) -> None:
    needs_buildah()
    with container(build(target, tmp_path)) as name:
        module = "gradwire.server.engines.ray.engine" if target == "ray" else f"gradwire.backends.{target}"
        command = command_in(name, ["python", "-c", f"import {module}, gradwire.server.commands.serve"])
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
