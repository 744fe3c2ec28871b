"""Whole server as an application of Ray Serve, for clusters with declared applications: the front is a deployment too.

    applications:
      - name: gradwire
        import_path: gradwire.server.process.ray_app:application
        args: {config: /etc/gradwire/serve.yaml}

`gradwire serve --engine ray` is the same with the front in a process outside the cluster.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve

from gradwire.server.config.reading import read_config
from gradwire.server.config.server import ServerConfig
from gradwire.server.engines.ray.engine import connect_replicas, deployment
from gradwire.server.process.logs import log_to_stderr
from gradwire.server.process.service import Service, check_listening

log = logging.getLogger("gradwire.server")

FRONT = "gradwire_front"
"""Resource of exactly one node: the front listens there, and the cluster's service routes to it."""

_AFTER_DRAIN_S = 15.0
"""Time after the drain for the ledger's last writes."""


class Front:
    """Front of a declared application, with an event loop of its own: Ray's must stay free for its health checks.

    Args:
        path: Path of the configuration, on every node.
        handles: Handles of the models' deployments.
    """

    def __init__(self, path: str, handles: Mapping[str, Any]) -> None:
        config = _read(path)
        check_listening(config)
        log_to_stderr(config.log_format)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gradwire-server", daemon=True)
        self._thread.start()
        self._address: str = self._wait(self._start(config, handles))
        log.info("serving", extra={"address": self._address, "models": [served.name for served in config.models]})

    async def address(self) -> str:
        """Address that the front listens on."""
        return self._address

    def check_health(self) -> None:
        """Raises if the server has ended; Ray then starts another one."""
        if not self._thread.is_alive():
            raise RuntimeError("the server's event loop has ended")

    def __del__(self) -> None:
        self._wait(self._service.drain())
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _start(self, config: ServerConfig, handles: Mapping[str, Any]) -> str:
        app = serve.get_replica_context().app_name
        estimators = await asyncio.to_thread(connect_replicas, handles, config, dict.fromkeys(handles, app))
        self._service = Service(config, dict(estimators))
        return await self._service.start()

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def application(args: Mapping[str, str]) -> serve.Application:
    """Makes the application: the front, and a deployment for each model.

    Args:
        args: ``config``: path of the YAML file, which every node must have there, in the folder of the owner's code.

    Raises:
        ConfigError: The configuration is wrong.
    """
    path = args["config"]
    config = _read(path)
    check_listening(config)
    paths = [str(Path(path).resolve().parent)]
    models = {served.name: deployment(served, paths) for served in config.models if served.model is not None}
    options = {"num_cpus": 0, "resources": {FRONT: 1}}
    ends_in_s = config.drain_timeout_s + _AFTER_DRAIN_S
    deploy = serve.deployment(name=FRONT, num_replicas=1, ray_actor_options=options, graceful_shutdown_timeout_s=ends_in_s)
    return deploy(Front).bind(path, models)


def _read(path: str) -> ServerConfig:
    # The owner's code is in the folder of the file that names it.
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return read_config(Path(path), engine="ray")
