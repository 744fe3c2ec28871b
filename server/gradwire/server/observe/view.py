"""All that can be seen of a running server, gathered for those who show it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from gradwire.server.catalogue.served import Served
from gradwire.server.observe.devices import Device, read_devices
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.transport.streams import OpenStreams
from gradwire.server.trust.trust import Trust
from gradwire.server.values.process_index import ProcessIndex


@dataclass(frozen=True, eq=False)
class View:
    """Where to look. Everything may be read from any thread.

    Attributes:
        served: The served names of the configuration; clones come and go, and count for what they come from.
        scheduler: What waits and what was computed.
        streams: What is open.
        trust: What was asked, and what is left to whom.
        version: Of gradwire.
        started_s: When the server started, seconds since 1970.
        process_index: Which of several processes at its address it is; None: it is alone there.
    """

    served: Iterable[Served]
    scheduler: Scheduler
    streams: OpenStreams
    trust: Trust
    version: str
    started_s: float = field(default_factory=time.time)
    process_index: ProcessIndex | None = None

    def devices(self) -> list[Device]:
        """The devices of the models, and this process."""
        return read_devices(served.estimator.model for served in self.served)
