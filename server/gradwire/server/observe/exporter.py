"""The listener that Prometheus scrapes: plain HTTP, in threads of its own, so that a busy event loop is still seen."""

from __future__ import annotations

import threading
from http.server import HTTPServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.process_collector import ProcessCollector

from gradwire.server.errors import ConfigError
from gradwire.server.observe.collector import ServerCollector


class MetricsListener:
    """Listens from here on, until it is closed.

    Args:
        address: host:port; port 0: any free one.
        collector: What it answers with, besides what is known of the process.

    Attributes:
        address: Where it listens.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    def __init__(self, address: str, collector: ServerCollector) -> None:
        registry = CollectorRegistry()
        registry.register(collector)
        ProcessCollector(registry=registry)
        host, _, port = address.rpartition(":")
        self._server: HTTPServer
        self._thread: threading.Thread
        try:
            self._server, self._thread = start_http_server(int(port), host.strip("[]"), registry)
        except OSError as e:
            raise ConfigError(f"metrics_listen: {address!r} cannot be listened on ({e})") from e
        self.address = f"{host}:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
