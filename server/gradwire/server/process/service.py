"""Server of one process: assembles its services, listens, drains, and ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from gradwire.backends.estimator import Estimator
from gradwire.server.catalogue.catalogue import Catalogue
from gradwire.server.catalogue.served import Served
from gradwire.server.catalogue.versions import VersionStore
from gradwire.server.config.identity import Tls
from gradwire.server.config.limits import Limits
from gradwire.server.config.reading import parts
from gradwire.server.config.server import ServerConfig
from gradwire.server.engines.replicated import ReplicatedEstimator
from gradwire.server.errors import ConfigError, Hung
from gradwire.server.observe.collector import ServerCollector
from gradwire.server.observe.exporter import MetricsListener
from gradwire.server.observe.view import View
from gradwire.server.scheduling.runner import Runner
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.scheduling.watchdog import Watchdog
from gradwire.server.services.admission import Admission
from gradwire.server.services.estimator import SERVICE, EstimatorServicer
from gradwire.server.services.fit import FitServicer
from gradwire.server.services.grants import GrantServicer
from gradwire.server.services.models import ModelServicer
from gradwire.server.services.status import StatusServicer
from gradwire.server.services.usage import UsageServicer
from gradwire.server.transport.same_host import SameHost
from gradwire.server.transport.streams import OpenStreams
from gradwire.server.trust.identity.callers import Identity
from gradwire.server.trust.identity.certificates import ServerCertificate
from gradwire.server.trust.identity.files import Polled, watch
from gradwire.server.trust.identity.guard import Guard
from gradwire.server.trust.identity.listener import beyond_loopback, check_listener
from gradwire.server.trust.trust import Trust
from gradwire.server.values.process_index import ProcessIndex
from gradwire.v1 import (
    grants_pb2,
    grants_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    status_pb2,
    status_pb2_grpc,
    transport_pb2,
    transport_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)

log = logging.getLogger("gradwire.server")

_DRAIN_PERIOD_S = 0.02
_LAST_STATUSES_S = 0.5
"""Time for the last statuses to reach callers; calls that still run then are cancelled."""

_GRANTS = grants_pb2.DESCRIPTOR.services_by_name["GrantService"].full_name
_MODELS = model_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
_STATUS = status_pb2.DESCRIPTOR.services_by_name["StatusService"].full_name
_TRANSPORT = transport_pb2.DESCRIPTOR.services_by_name["TransportService"].full_name
_USAGE = usage_pb2.DESCRIPTOR.services_by_name["UsageService"].full_name


class Service:
    """Server of a configuration that `check_listening` has passed. Made, started and ended on one event loop.

    Args:
        config: The configuration.
        estimators: The models by name; see `engine.loaded`.
        process_index: Index of this process, if several share the address.

    Raises:
        ConfigError: The configuration asks for several processes, and this is not one of them.
    """

    def __init__(
        self, config: ServerConfig, estimators: Mapping[str, Estimator], process_index: ProcessIndex | None = None
    ) -> None:
        if config.devices is not None and process_index is None:
            raise ConfigError("devices: only the command `gradwire serve` starts a process for each; leave the key out here")
        self._config = config
        self._process_index = process_index
        limits = config.limits
        fixed = "" if process_index is None else process_index.fixed
        self._served = [
            Served(m.name, estimators[m.same_as or m.name], m.same_as or m.name, m.access, fixed=fixed) for m in config.models
        ]
        self._parallel_blocks = {
            name: estimator.parallel_blocks for name, estimator in estimators.items() if isinstance(estimator, ReplicatedEstimator)
        }
        self._scheduler = Scheduler(limits.max_calls, parts(config.models), self._parallel_blocks)
        self._identity = Identity(config.identity)
        self._watched: list[Polled] = self._identity.watched
        self._streams = OpenStreams(limits, self._identity)
        self._health = HealthServicer()
        self._watchdog: Watchdog | None = None
        self._versions = VersionStore(config.state_dir / "versions")

    @property
    def names(self) -> list[str]:
        """The served names."""
        return [served.name for served in self._served]

    async def start(self) -> str:
        """Begins to listen, and returns the address to connect to. Raises ConfigError if it cannot."""
        self._trust = await asyncio.to_thread(Trust, self._config)
        try:
            return await self._start()
        except BaseException:
            await self._trust.close()
            raise

    async def _start(self) -> str:
        config = self._config
        self._catalogue = Catalogue(self._served, config.limits.max_clones, self._trust.book, self._trust.accounts)
        self._watched += self._trust.watched
        self._view = View(
            self._served, self._scheduler, self._streams, self._trust, version("gradwire"), process_index=self._process_index
        )
        self._runner = Runner(self._scheduler, asyncio.get_running_loop(), threads=max(1, sum(self._parallel_blocks.values())))
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.limits.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # A second server on the same port is an error, unless it is another process of this one.
                ("grpc.so_reuseport", int(self._process_index is not None)),
                # Clients may send keepalive pings every few seconds during long calls.
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                *_ages(config.limits),
            ],
            interceptors=[] if config.identity is None else [Guard(self._identity, f"/{SERVICE}/")],
        )
        self._add_services()
        port = self._bind()
        self._health_server = self._bind_health()
        self._metrics = self._listen_for_scrapes()
        self._runner.start()
        await self._same_host.start()
        await self._server.start()
        if self._health_server is not None:
            await self._health_server.start()
        self._trust.start()
        self._tasks = [asyncio.create_task(task) for task in (self._streams.sweep(), watch(self._watched))]
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        if config.watchdog_s is not None:
            self._watchdog = Watchdog(self._scheduler, config.watchdog_s, config.watchdog_exits, self._hung)
            self._watchdog.start()
        return config.listen if config.listen.startswith("unix:") else f"{config.listen.rpartition(':')[0]}:{port}"

    async def drain(self) -> None:
        """Rejects new calls, lets running ones finish within `drain_timeout_s`, and ends."""
        log.info("draining", extra={"open_streams": len(self._streams)})
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        # Connections receive GOAWAY before streams are ended: callers then open new streams at another server, if one runs,
        # and a successor may listen here already. A connection with a running call stays open until the call ends.
        leaving = asyncio.create_task(self._server.stop(self._config.drain_timeout_s + 2 * _LAST_STATUSES_S))
        self._same_host.leave()
        await asyncio.sleep(0)
        self._streams.drain()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._config.drain_timeout_s
        while self._scheduler.calls and loop.time() < end_s:
            await asyncio.sleep(_DRAIN_PERIOD_S)
        await asyncio.gather(self._server.stop(_LAST_STATUSES_S), self._same_host.stop(), leaving)
        if self._health_server is not None:
            await self._health_server.stop(_LAST_STATUSES_S)
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        for served in self._served:
            if isinstance(served.estimator, ReplicatedEstimator):
                served.estimator.stop_waiting()
        # Work on the device cannot be cancelled.
        await asyncio.get_running_loop().run_in_executor(None, self._runner.stop)
        if self._watchdog is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._watchdog.stop)
        if self._metrics is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._metrics.close)
        await self._trust.close()
        log.info("ended")

    def _add_services(self) -> None:
        limits, recorder = self._config.limits, self._trust.recorder
        admission = Admission(self._catalogue, self._scheduler, recorder)
        rows = EstimatorServicer(admission, self._scheduler, self._streams, limits)
        fit = FitServicer(admission, self._scheduler, self._streams, limits, self._config.spool_dir)
        models = ModelServicer(
            self._catalogue, self._scheduler, self._streams, self._versions, limits, recorder, self._clone_changed
        )
        handlers = {**rows.handlers(), **fit.handlers()}
        self._same_host = SameHost(handlers, limits.max_message_bytes, self._identity)
        transport_pb2_grpc.add_TransportServiceServicer_to_server(self._same_host, self._server)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        model_pb2_grpc.add_ModelServiceServicer_to_server(models, self._server)
        usage_pb2_grpc.add_UsageServiceServicer_to_server(UsageServicer(self._catalogue, self._streams, self._trust), self._server)
        grants_pb2_grpc.add_GrantServiceServicer_to_server(GrantServicer(self._streams, self._trust), self._server)
        to_all = self._identity.anonymous and not beyond_loopback(self._config.listen)
        status_pb2_grpc.add_StatusServiceServicer_to_server(StatusServicer(self._view, to_all), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        names = (SERVICE, _MODELS, _USAGE, _GRANTS, _STATUS, _TRANSPORT, health, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def _bind(self) -> int:
        config = self._config
        try:
            if config.tls is None:
                return int(self._server.add_insecure_port(config.listen))
            certificate = _certificate(config, config.tls)
            self._watched.append(certificate)
            return int(self._server.add_secure_port(config.listen, certificate.credentials()))
        except RuntimeError as e:
            raise ConfigError(f"listen: cannot listen on {config.listen!r}; is another server running there? ({e})") from e

    def _bind_health(self) -> grpc.aio.Server | None:
        """Listener for health only, because probes have neither certificates nor tokens."""
        address = self._config.health_listen
        if address is None:
            return None
        # Processes at one address share it: any running one answers a probe, for itself.
        server = grpc.aio.server(options=[("grpc.so_reuseport", int(self._process_index is not None))])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        try:
            server.add_insecure_port(address)
        except RuntimeError as e:
            raise ConfigError(f"health_listen: cannot listen on {address!r} ({e})") from e
        return server

    def _listen_for_scrapes(self) -> MetricsListener | None:
        address = self._config.metrics_listen
        if address is None:
            return None
        named = self._config.metrics_principals
        if named is None:
            named = not beyond_loopback(address)
        listener = MetricsListener(address, ServerCollector(self._view, self._trust.left if named else None))
        log.info("metrics", extra={"address": listener.address, "principals": named})
        return listener

    def _hung(self, reason: Hung | None) -> None:
        self._streams.refuse(reason)
        if not self._streams.draining:
            states = health_pb2.HealthCheckResponse
            self._setting_health = asyncio.create_task(self._set_health(states.SERVING if reason is None else states.NOT_SERVING))

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE, *(served.name for served in self._served)):
            await self._health.set(name, status)

    async def _clone_changed(self, name: str, serving: bool) -> None:
        states = health_pb2.HealthCheckResponse
        await self._health.set(name, states.SERVING if serving else states.SERVICE_UNKNOWN)


def _ages(limits: Limits) -> Iterator[tuple[str, int]]:
    """Options of gRPC for the greatest age of connections. Its default grace is unlimited too."""
    for name, seconds in (("age", limits.max_connection_age_s), ("age_grace", limits.max_connection_age_grace_s)):
        if seconds is not None:
            yield f"grpc.max_connection_{name}_ms", max(1, round(seconds * 1000))


def _certificate(config: ServerConfig, tls: Tls) -> ServerCertificate:
    try:
        return ServerCertificate(tls.certificate, tls.key, None if config.identity is None else config.identity.client_ca)
    except (OSError, ValueError) as e:
        raise ConfigError(f"tls: {e}") from e


def check_listening(config: ServerConfig) -> None:
    """Checks a configuration's listener, certificates and identity before models are loaded. Raises ConfigError."""
    check_listener(config)
    Identity(config.identity)
    if config.tls is not None:
        _certificate(config, config.tls)
