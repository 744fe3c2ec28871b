"""Engine ``ray``: every model is a deployment of Ray Serve, whose replicas Ray places, restarts, balances and scales.

This process is the front: a driver of the cluster, which computes nothing. It deletes its deployments when it ends; those of a
front that was killed are replaced by the next one of the same ``ray.app``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray import serve

from gradwire.backends.errors import BackendError
from gradwire.server.config.models import ReplicaOptions, ServedModel
from gradwire.server.config.server import ServerConfig
from gradwire.server.engines.ray.handles import RayHandles
from gradwire.server.engines.ray.replica import RayReplica
from gradwire.server.engines.replicated import ReplicatedEstimator
from gradwire.server.errors import ConfigError, ReplicaLost

log = logging.getLogger("gradwire.server")

_BLOCKS_A_REPLICA = 2
"""Row blocks sent to each replica at the same time: one is computed while the next is transferred."""

_UPSCALE_S = 5.0
"""Time for which row blocks must wait before another replica is started."""


@contextmanager
def deployed(config: ServerConfig) -> Iterator[dict[str, ReplicatedEstimator]]:
    """Context in which the models of a configuration are deployed. Raises ConfigError."""
    made = {served.name: deployment(served, _owners_paths()) for served in config.models if served.model is not None}
    joined = not ray.is_initialized()
    if joined:
        _join(config.ray.address)
    try:
        # Callers connect to this process: Ray's own proxies would check neither identity nor budgets.
        serve.start(proxy_location="Disabled")
        try:
            yield connect_replicas(_run(made, config), config, {name: _app(config, name) for name in made})
        finally:
            for name in made:
                with suppress(Exception):
                    serve.delete(_app(config, name))
    finally:
        if joined:
            ray.shutdown()


def deployment(served: ServedModel, paths: list[str]) -> serve.Application:
    """Makes a deployment of a model, for `serve.run` or a declared application."""
    assert served.model is not None, f"{served.name} is another name of a model"
    if served.model.made_of:
        members = ", ".join(served.model.made_of)
        raise ConfigError(
            f"{served.name}: members: replicas cannot be made of other models ({members}); "
            "serve the members, and add them up in the client with gradwire.client.RemoteEnsemble"
        )
    replicas = served.replicas
    scaled: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.most > replicas.least:
        scaling = {"min_replicas": replicas.least, "max_replicas": replicas.most, "target_ongoing_requests": replicas.queue}
        scaling["upscale_delay_s"] = _UPSCALE_S
        scaled = {"autoscaling_config": scaling}
    deploy = serve.deployment(
        name=served.name,
        max_ongoing_requests=2 * _BLOCKS_A_REPLICA,
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        health_check_period_s=2.0,
        **scaled,
    )
    return deploy(RayReplica).bind(served.model, paths)


def connect_replicas(handles: Mapping[str, Any], config: ServerConfig, apps: Mapping[str, str]) -> dict[str, ReplicatedEstimator]:
    """Makes estimators of deployments from their handles and applications. Raises ConfigError if a model failed to load."""
    estimators = {}
    for served in config.models:
        if served.model is None:
            continue
        replicas = RayHandles(served.name, apps[served.name], handles[served.name], config.ray.patience_s)
        try:
            facts = replicas.facts()
            estimators[served.name] = ReplicatedEstimator(facts, served.model, replicas, _parallel_blocks(served.replicas))
        except (BackendError, ReplicaLost) as e:
            raise ConfigError(f"{served.name}: {e}") from e
        extra = {"model": served.name, "backend": served.model.backend, "device": facts.device, "replicas": served.replicas.least}
        log.info("deployed", extra=extra)
    return estimators


def _parallel_blocks(replicas: ReplicaOptions) -> int:
    return replicas.most * _BLOCKS_A_REPLICA


def _join(address: str | None) -> None:
    # Ray sends usage statistics to its makers by default; and this server has a log of its own.
    logging.getLogger("ray").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, namespace="gradwire", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise ConfigError(f"ray.address: no Ray cluster answers at {address!r} ({e}); without the key one is started here") from e


def _run(made: Mapping[str, serve.Application], config: ServerConfig) -> dict[str, Any]:
    """Deploys the models, and returns their handles by name once every replica runs."""
    try:
        handles = serve.run_many([serve.RunTarget(of, name=_app(config, name), route_prefix=None) for name, of in made.items()])
    except RuntimeError as e:
        raise ConfigError(f"Ray could not deploy the models: {e}") from e
    return dict(zip(made, handles, strict=True))


def _app(config: ServerConfig, name: str) -> str:
    return f"{config.ray.app}-{name}"


def _owners_paths() -> list[str]:
    """Entries of this process's module search path with code that is not installed."""
    return [path for path in sys.path if path and "site-packages" not in path and not path.startswith(sys.base_prefix)]
