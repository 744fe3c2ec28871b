"""Readings of the devices of a server's models, from their backends, and of this process's memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gradwire.backends.backend import DeviceReading, Model
from gradwire.server.catalogue.cards import device_uuid

log = logging.getLogger("gradwire.server")

HOST = "cpu"
"""Name of the host's device, whose memory is this process's."""

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class DeviceStatus:
    """A device with its current reading.

    Attributes:
        name: Name of the device on the card.
        uuid: Identifier of the device; empty if it has none.
        reading: Its memory and utilisation.
    """

    name: str
    uuid: str
    reading: DeviceReading


def read_devices(models: Iterable[Model]) -> list[DeviceStatus]:
    """Reads each device once, the host first. A device that does not answer is left out."""
    statuses = {HOST: DeviceStatus(HOST, "", DeviceReading(_process_memory()))}
    for model in models:
        read = getattr(model, "device_reading", None)
        if read is None or model.device in statuses:
            continue
        try:
            reading = read()
        except Exception as e:
            # Monitoring of a failing device must not fail itself.
            log.warning("a device does not answer", extra={"device": model.device, "reason": str(e)})
            continue
        if reading is not None:
            statuses[model.device] = DeviceStatus(model.device, device_uuid(model), reading)
    return list(statuses.values())


def _process_memory() -> dict[str, int]:
    """Memory used by this process, and its total: the container's limit, or the host's memory."""
    memory = {}
    # These files exist on Linux only; elsewhere the readings are empty.
    with suppress(OSError, ValueError, AttributeError):
        page_nbytes = os.sysconf("SC_PAGE_SIZE")
        memory["used"] = int(_STATM.read_text().split()[1]) * page_nbytes
        total = os.sysconf("SC_PHYS_PAGES") * page_nbytes
        memory["total"] = min(total, *(limit for limit in map(_limit, _CGROUP_LIMITS) if limit), total)
    return memory


def _limit(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return None
