"""Read-only view of a running server, for metrics and status."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from gradwire.server.catalogue.served import Served
from gradwire.server.observe.device_readings import DeviceStatus, read_devices
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.transport.streams import OpenStreams
from gradwire.server.trust.trust import Trust
from gradwire.server.values.process_index import ProcessIndex


@dataclass(frozen=True, eq=False)
class View:
    """Parts of a running server that metrics and status read, from any thread.

    Attributes:
        served: The served names of the configuration; clones are temporary, and count for their models.
        scheduler: Queues and counts of batches.
        streams: Open streams and their traffic.
        trust: Counts of calls, the ledger's writer, and budgets.
        version: Version of gradwire.
        started_s: Start time of the server, seconds since 1970.
        process_index: Index of this process, if several share the address.
    """

    served: Iterable[Served]
    scheduler: Scheduler
    streams: OpenStreams
    trust: Trust
    version: str
    started_s: float = field(default_factory=time.time)
    process_index: ProcessIndex | None = None

    def devices(self) -> list[DeviceStatus]:
        """Reads the devices of the models, and this process's memory."""
        return read_devices(served.estimator.model for served in self.served)
