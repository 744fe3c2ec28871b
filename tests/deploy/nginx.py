"""A real nginx on loopback, with the gateway's own configuration from deploy/gateway and a map of the test's."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import programs

GATEWAY = Path(__file__).parent.parent.parent / "deploy" / "gateway"
_START_S = 20.0


def needs_nginx() -> str:
    """The path of nginx; skips the test if there is none."""
    return programs.need("nginx")


def free_ports(count: int) -> list[int]:
    """Distinct free loopback ports."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def gateway(folder: Path, models: str, secrets: Path | None = None) -> Iterator[str]:
    """Context in which nginx runs.

    Args:
        folder: For its files; those that a running one writes too.
        models: What ``models.conf`` says: which name is served by which group, and what the groups are.
        secrets: A folder with ``certificate`` and ``key``, for TLS.

    Yields:
        The address to connect to.
    """
    nginx = needs_nginx()
    [port] = free_ports(1)
    folder.mkdir()
    own = (GATEWAY / "nginx.conf").read_text()
    own = own.replace("/tmp/nginx", str(folder / "nginx")).replace("/dev/stdout", str(folder / "calls.log"))
    (folder / "nginx.conf").write_text(own)
    (folder / "models.conf").write_text(models)
    listen = (GATEWAY / ("listen.conf" if secrets is None else "listen-tls.conf")).read_text()
    (folder / "listen.conf").write_text(listen.replace("50051", f"127.0.0.1:{port}").replace("/run/secrets", str(secrets)))
    # Root's workers would be another user's, who cannot read a test's folder.
    told = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    with (folder / "stderr.log").open("w") as stderr:
        process = subprocess.Popen([nginx, "-e", "stderr", "-c", str(folder / "nginx.conf"), "-g", told], stderr=stderr)
    try:
        _wait(process, port, folder / "stderr.log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end_s = time.monotonic() + _START_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end_s, f"nginx does not listen on {port}: {log.read_text()}"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
