"""HTTP listener for Prometheus, in threads of its own, so that it answers while the event loop is busy."""

from __future__ import annotations

import threading
from http.server import HTTPServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.process_collector import ProcessCollector

from gradwire.server.errors import ConfigError
from gradwire.server.observe.collector import ServerCollector


class MetricsListener:
    """Listener for scrapes, from its construction until `close`.

    Args:
        address: host:port; port 0 is any free one.
        collector: Collector of the server's metrics; those of the process are added.

    Attributes:
        address: host:port with the actual port.

    Raises:
        ConfigError: The listener cannot bind the address.
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
            raise ConfigError(f"metrics_listen: cannot listen on {address!r} ({e})") from e
        self.address = f"{host}:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
