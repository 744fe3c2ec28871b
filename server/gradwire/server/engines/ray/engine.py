"""The engine ``ray``: every model is a deployment of Ray Serve, whose replicas Ray places, starts again, balances and scales.

This process is the front: it is a driver of the cluster, and computes nothing. What it deploys goes when it ends; what a front
that was killed has left behind, the next one of the same ``ray.app`` takes over.
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

_AT_A_REPLICA = 2
"""Row blocks that are sent to each replica at the same time: one is computed while the next one is on its way."""

_UPSCALE_S = 5.0
"""How long row blocks must have waited before another replica is started."""


@contextmanager
def deployed(config: ServerConfig) -> Iterator[dict[str, ReplicatedEstimator]]:
    """Deploys the models of a configuration, as long as the context lasts. Raises ConfigError."""
    made = {served.name: deployment(served, _owners_paths()) for served in config.models if served.model is not None}
    joined = not ray.is_initialized()
    if joined:
        _join(config.ray.address)
    try:
        # Callers come through this process: Ray's own proxies would know neither identity nor budgets.
        serve.start(proxy_location="Disabled")
        try:
            yield reached(_run(made, config), config, {name: _app(config, name) for name in made})
        finally:
            for name in made:
                with suppress(Exception):
                    serve.delete(_app(config, name))
    finally:
        if joined:
            ray.shutdown()


def deployment(served: ServedModel, paths: list[str]) -> serve.Application:
    """A model as a deployment, for `serve.run` or an application of a cluster's own."""
    assert served.model is not None, f"{served.name} is another name of a model"
    if served.model.made_of:
        members = ", ".join(served.model.made_of)
        raise ConfigError(
            f"{served.name}: members: replicas cannot be made of other models ({members}); "
            "serve the members, and add them up in the client: gradwire.client.RemoteEnsemble"
        )
    wanted = served.replicas
    scaled: dict[str, Any] = {"num_replicas": wanted.least}
    if wanted.most > wanted.least:
        scaling = {"min_replicas": wanted.least, "max_replicas": wanted.most, "target_ongoing_requests": wanted.queue}
        scaling["upscale_delay_s"] = _UPSCALE_S
        scaled = {"autoscaling_config": scaling}
    deploy = serve.deployment(
        name=served.name,
        max_ongoing_requests=2 * _AT_A_REPLICA,
        ray_actor_options={"num_cpus": wanted.cpus, "num_gpus": wanted.gpus},
        health_check_period_s=2.0,
        **scaled,
    )
    return deploy(RayReplica).bind(served.model, paths)


def reached(handles: Mapping[str, Any], config: ServerConfig, apps: Mapping[str, str]) -> dict[str, ReplicatedEstimator]:
    """The models behind handles of their deployments, in these applications. Raises ConfigError if one could not be loaded."""
    found = {}
    for served in config.models:
        if served.model is None:
            continue
        replicas = RayHandles(served.name, apps[served.name], handles[served.name], config.ray.patience_s)
        try:
            facts = replicas.facts()
            found[served.name] = ReplicatedEstimator(facts, served.model, replicas, _places(served.replicas))
        except (BackendError, ReplicaLost) as e:
            raise ConfigError(f"{served.name}: {e}") from e
        extra = {"model": served.name, "backend": served.model.backend, "device": facts.device, "replicas": served.replicas.least}
        log.info("deployed", extra=extra)
    return found


def _places(wanted: ReplicaOptions) -> int:
    return wanted.most * _AT_A_REPLICA


def _join(address: str | None) -> None:
    # What is served here, and how much, is nobody else's business; and this server has a log of its own.
    logging.getLogger("ray").setLevel(logging.WARNING)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address, namespace="gradwire", include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise ConfigError(f"ray.address: there is no Ray cluster at {address!r} ({e}); without it one is started here") from e


def _run(made: Mapping[str, serve.Application], config: ServerConfig) -> dict[str, Any]:
    """Handles by model, once every replica is there."""
    try:
        handles = serve.run_many([serve.RunTarget(of, name=_app(config, name), route_prefix=None) for name, of in made.items()])
    except RuntimeError as e:
        raise ConfigError(f"Ray could not deploy the models: {e}") from e
    return dict(zip(made, handles, strict=True))


def _app(config: ServerConfig, name: str) -> str:
    return f"{config.ray.app}-{name}"


def _owners_paths() -> list[str]:
    """Where this process finds code that is not installed."""
    return [path for path in sys.path if path and "site-packages" not in path and not path.startswith(sys.base_prefix)]
