"""One process, one device: loads the models, listens, drains, ends."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from contextlib import suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from gradwire.backends.errors import BackendError
from gradwire.backends.estimator import Estimator
from gradwire.backends.load import load
from gradwire.server.catalogue import Catalogue, Served
from gradwire.server.config import ConfigError, ServerConfig, parts
from gradwire.server.fit import FitServicer
from gradwire.server.model_service import ModelServicer
from gradwire.server.runner import Runner
from gradwire.server.same_host import SameHost
from gradwire.server.scheduler import Scheduler
from gradwire.server.servicer import SERVICE, RowServicer
from gradwire.server.streams import OpenStreams
from gradwire.server.usage_service import UsageServicer
from gradwire.server.versions import VersionStore
from gradwire.v1 import model_pb2, model_pb2_grpc, transport_pb2, transport_pb2_grpc, usage_pb2, usage_pb2_grpc

log = logging.getLogger("gradwire.server")

_DRAIN_PERIOD_S = 0.02
_GOODBYE_S = 0.5
"""For last statuses to leave the process; what still runs then is cancelled."""

_MODELS = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
_TRANSPORT = transport_pb2.DESCRIPTOR.services_by_name["TransportService"].full_name
_USAGE = usage_pb2.DESCRIPTOR.services_by_name["UsageService"].full_name


class Service:
    """A server of one configuration. Made, started and ended on one event loop.

    Args:
        config: What to serve and how.
        estimators: The loaded models by name; see `load_models`.
    """

    def __init__(self, config: ServerConfig, estimators: dict[str, Estimator]) -> None:
        self._config = config
        limits = config.limits
        served = [Served(m.name, estimators[m.same_as or m.name], m.same_as or m.name, m.access) for m in config.models]
        self._catalogue = Catalogue(served, limits.max_clones)
        self._scheduler = Scheduler(limits.max_calls, parts(config.models))
        self._streams = OpenStreams(limits.stall_timeout_s, limits.idle_timeout_s)
        self._health = HealthServicer()
        self._versions = VersionStore(config.state_dir / "versions")

    async def start(self) -> str:
        """Listens, and returns the address to connect to. Raises ConfigError if it cannot."""
        config = self._config
        _check_exposure(config)
        self._runner = Runner(self._scheduler, asyncio.get_running_loop())
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.limits.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # A second server on the same port is a mistake, not a replica.
                ("grpc.so_reuseport", 0),
                # Clients may ask every few seconds whether the server is there, in the middle of long calls.
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ]
        )
        self._add_services()
        port = self._bind()
        self._runner.start()
        await self._same_host.start()
        await self._server.start()
        self._sweep = asyncio.create_task(self._streams.sweep())
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return config.listen if config.listen.startswith("unix:") else f"{config.listen.rpartition(':')[0]}:{port}"

    async def drain(self) -> None:
        """Takes no new calls, lets those under way finish for `drain_timeout_s`, and ends."""
        log.info("draining", extra={"open_streams": len(self._streams)})
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._streams.drain()
        # The listener stays, so that whoever calls meanwhile is told when to come back, until what runs has ended.
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._config.drain_timeout_s
        while self._scheduler.calls and loop.time() < end_s:
            await asyncio.sleep(_DRAIN_PERIOD_S)
        await asyncio.gather(self._server.stop(_GOODBYE_S), self._same_host.stop())
        self._sweep.cancel()
        with suppress(asyncio.CancelledError):
            await self._sweep
        # Work that is on the device cannot be taken off it.
        await asyncio.get_running_loop().run_in_executor(None, self._runner.stop)
        log.info("ended")

    def _add_services(self) -> None:
        limits = self._config.limits
        rows = RowServicer(self._catalogue, self._scheduler, self._streams, limits)
        fit = FitServicer(self._catalogue, self._scheduler, self._streams, limits, self._config.spool_dir)
        models = ModelServicer(self._catalogue, self._scheduler, self._streams, self._versions, limits, self._clone_changed)
        handlers = {**rows.handlers(), **fit.handlers()}
        self._same_host = SameHost(handlers, limits.max_message_bytes)
        transport_pb2_grpc.add_TransportServiceServicer_to_server(self._same_host, self._server)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        model_pb2_grpc.add_ModelServiceServicer_to_server(models, self._server)
        usage_pb2_grpc.add_UsageServiceServicer_to_server(UsageServicer(self._catalogue, self._streams), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        names = (SERVICE, _MODELS, _USAGE, _TRANSPORT, health, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def _bind(self) -> int:
        config = self._config
        try:
            if config.tls is None:
                return int(self._server.add_insecure_port(config.listen))
            pair = (config.tls.key.read_bytes(), config.tls.certificate.read_bytes())
            return int(self._server.add_secure_port(config.listen, grpc.ssl_server_credentials([pair])))
        except OSError as e:
            raise ConfigError(f"tls: {e}") from e
        except RuntimeError as e:
            raise ConfigError(f"listen: {config.listen!r} cannot be listened on; is another server there already? ({e})") from e

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE, *(served.name for served in self._catalogue)):
            await self._health.set(name, status)

    async def _clone_changed(self, name: str, serving: bool) -> None:
        states = health_pb2.HealthCheckResponse
        await self._health.set(name, states.SERVING if serving else states.SERVICE_UNKNOWN)


def load_models(config: ServerConfig) -> dict[str, Estimator]:
    """Loads every model of a configuration. Raises ConfigError, with the model's name and the key that is wrong."""
    configs = {served.name: served.model for served in config.models if served.model is not None}
    loaded: dict[str, Estimator] = {}
    for name in parts(config.models):
        try:
            loaded[name] = load(configs[name], loaded)
        except BackendError as e:
            raise ConfigError(f"{name}: {e}") from e
        model = loaded[name].model
        log.info("loaded", extra={"model": name, "backend": configs[name].backend, "device": model.device})
    return loaded


def _check_exposure(config: ServerConfig) -> None:
    """Only loopback is served to whoever asks; there is no telling callers apart."""
    if config.insecure or config.listen.startswith("unix:"):
        return
    host = config.listen.rpartition(":")[0].strip("[]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        raise ConfigError(
            f"listen: {config.listen!r} is not loopback, and every caller who reaches it gets what the models' access gives; "
            "listen on 127.0.0.1, or write insecure: true if the network may be trusted"
        )
