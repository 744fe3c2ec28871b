"""Servers from Python: in a thread of this process, for notebooks and tests; or as the whole process, until a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradwire.backends.config import ModelConfig
from gradwire.server.config.reading import parse_config
from gradwire.server.config.server import ServerConfig
from gradwire.server.engines.engine import loaded
from gradwire.server.process.service import Service, check_listening
from gradwire.server.system import allow_many_files, freeze_loaded_objects, keep_freed_memory

log = logging.getLogger("gradwire.server")


@contextmanager
def serving(models: Mapping[str, Mapping[str, Any] | ModelConfig], **settings: Any) -> Iterator[str]:
    """Context in which this process serves models on a free loopback port.

        with serving({"digits": {"backend": "torch", "factory": make_model, "input_shape": [64], "nb_classes": 10}}) as address:
            connect(address).estimator("digits").predict(x)

    Args:
        models: By name, the keys of a model's entry in the YAML file, including ``access`` and ``same_as``; ``factory`` may be a
            callable. Or a backend's ``Config``.
        **settings: Other keys of the YAML file, for example ``limits={"max_calls": 4}``.

    Yields:
        The address to connect to.

    Raises:
        ConfigError: The configuration is wrong.
    """
    entries = [{"name": name, **_keys(model)} for name, model in models.items()]
    with tempfile.TemporaryDirectory(prefix="gradwire-") as folder:
        content = {"listen": "127.0.0.1:0", **settings, "models": entries}
        config = parse_config(content, Path(folder), "serving")
        check_listening(config)
        with loaded(config) as estimators:
            service = Service(config, estimators)
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="gradwire-server", daemon=True)
            thread.start()
            try:
                address = asyncio.run_coroutine_threadsafe(service.start(), loop).result()
                try:
                    yield address
                finally:
                    asyncio.run_coroutine_threadsafe(service.drain(), loop).result()
            finally:
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
                loop.close()


def serve_until_signal(config: ServerConfig, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        config: The configuration.
        ready: Called with the address once the server accepts calls.

    Raises:
        ConfigError: A model cannot be loaded, or the address cannot be bound.
    """
    check_listening(config)
    keep_freed_memory()
    allow_many_files()
    with loaded(config) as estimators:
        run_until_signal(Service(config, estimators), ready)


def run_until_signal(service: Service, ready: Callable[[str], None]) -> None:
    """As `serve_until_signal`, for a service whose models are loaded."""
    freeze_loaded_objects()

    async def run() -> None:
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end.set)
        address = await service.start()
        log.info("serving", extra={"address": address, "models": service.names})
        ready(address)
        await end.wait()
        await service.drain()

    asyncio.run(run())


def _keys(model: Mapping[str, Any] | ModelConfig) -> dict[str, Any]:
    if isinstance(model, ModelConfig):
        return {name: getattr(model, name) for name in model.model_fields_set}
    return dict(model)
