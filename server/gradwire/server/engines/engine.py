"""Choice of the engine: models are loaded into this process, or replicated on a Ray cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from gradwire.backends.errors import BackendError
from gradwire.backends.estimator import Estimator
from gradwire.backends.load import load_completed
from gradwire.server.config.reading import parts
from gradwire.server.config.server import ServerConfig
from gradwire.server.errors import ConfigError

log = logging.getLogger("gradwire.server")


@contextmanager
def loaded(config: ServerConfig) -> Iterator[Mapping[str, Estimator]]:
    """Context with the models of a configuration by name. Raises ConfigError."""
    if config.engine == "embedded":
        yield load_models(config)
        return
    try:
        # Imported here: most servers run without Ray, which is large.
        from gradwire.server.engines.ray.engine import deployed
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] != "ray":
            raise
        raise ConfigError("engine: 'ray' needs Ray, which is not installed; pip install 'gradwire[ray]'") from e
    with deployed(config) as estimators:
        yield estimators


def load_models(config: ServerConfig) -> dict[str, Estimator]:
    """Loads every model of a configuration. Raises ConfigError, with the model's name and the wrong key."""
    configs = {served.name: served.model for served in config.models if served.model is not None}
    estimators: dict[str, Estimator] = {}
    for name in parts(config.models):
        try:
            estimators[name] = load_completed(configs[name], estimators)
        except BackendError as e:
            raise ConfigError(f"{name}: {e}") from e
        model = estimators[name].model
        log.info("loaded", extra={"model": name, "backend": configs[name].backend, "device": model.device})
    return estimators
