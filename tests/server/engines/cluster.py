"""Ray cluster of two nodes in a network namespace of its own.

Ray's daemons listen on all addresses of their namespace. Servers of the cluster listen on Unix sockets, which are reachable from
outside.

Run as a program, it is the cluster: it prints its address, and executes commands until its input ends.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from commands import TESTS, environment

CPUS = 2
STORE_NBYTES = 200 << 20
"""Processors, as Ray counts them, and shared memory of each node."""


@dataclass
class Cluster:
    """A running cluster.

    Attributes:
        address: Address inside the namespace.
        prefix: Prefix of commands that run inside the namespace.
    """

    address: str
    prefix: Sequence[str]
    _told: IO[str]
    _tells: IO[str]

    def kill_node(self) -> None:
        """Kills the second node with all of its processes, and starts a new one in its place."""
        self._ask("kill")

    def kill_replicas(self, model: str) -> None:
        """Kills the processes of all replicas of a model."""
        assert self._ask(f"replicas {model}") > 0

    def applications(self) -> list[str]:
        """Names of the deployed applications."""
        return list(self._ask("applications"))

    def _ask(self, what: str) -> Any:
        self._told.write(what + "\n")
        self._told.flush()
        return json.loads(self._tells.readline())


def cannot_unshare() -> str:
    """Reason for which this process cannot make network namespaces; empty if it can."""
    tried = subprocess.run(["unshare", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else ""


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Two nodes, as long as the context lasts."""
    inside = f"ip link set lo up && exec {sys.executable} -m server.engines.cluster"
    # Sockets' paths must be short, and Ray's are long.
    sockets = tempfile.mkdtemp(prefix="gw-ray-")
    settings = {"RAY_TMPDIR": sockets, "RAY_USAGE_STATS_ENABLED": "0"}
    # A node that does not answer counts as lost after a second or two, not after fifteen.
    settings |= {
        "RAY_health_check_period_ms": "300",
        "RAY_health_check_timeout_ms": "500",
        "RAY_health_check_failure_threshold": "4",
    }
    with (folder / "cluster.log").open("w") as log:
        process = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", inside],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(**settings), cwd=TESTS,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line, (folder / "cluster.log").read_text()
            prefix = ("nsenter", f"--net=/proc/{process.pid}/ns/net", "--")
            yield Cluster(json.loads(line)["address"], prefix, process.stdin, process.stdout)
        finally:
            process.stdin.close()
            process.wait(60)
            process.stdout.close()
            shutil.rmtree(sockets, ignore_errors=True)


def main() -> None:
    """Runs the cluster."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster as Nodes

    from gradwire.server.process.ray_app import FRONT

    # Ray's own output must not mix with the answers on stdout.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    head = {"num_cpus": CPUS, "include_dashboard": False, "object_store_memory": STORE_NBYTES, "resources": {FRONT: 1}}
    nodes = Nodes(initialize_head=True, head_node_args=head)
    second = nodes.add_node(num_cpus=CPUS, object_store_memory=STORE_NBYTES)
    nodes.wait_for_nodes()
    ray.init(nodes.address, namespace="gradwire", log_to_driver=False)
    print(json.dumps({"address": nodes.address}), file=answers, flush=True)
    for line in sys.stdin:
        what, *of = line.split()
        answer: Any = None
        if what == "kill":
            _kill([raylet := _raylet(second), *raylet.children(recursive=True)])
            nodes.remove_node(second, allow_graceful=False)
            second = nodes.add_node(num_cpus=CPUS, object_store_memory=STORE_NBYTES)
        elif what == "replicas":
            answer = _kill(
                [
                    process
                    for node in (nodes.head_node, second)
                    for process in _raylet(node).children()
                    if "ServeReplica" in (title := " ".join(process.cmdline())) and f"-{of[0]}:" in title
                ]
            )
        elif what == "applications":
            answer = list(serve.status().applications)
        print(json.dumps(answer), file=answers, flush=True)
    ray.shutdown()
    nodes.shutdown()


def _raylet(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _kill(processes: Sequence[psutil.Process]) -> int:
    for process in processes:
        process.kill()
    return len(processes)


if __name__ == "__main__":
    main()
