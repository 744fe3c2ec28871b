"""The devices of a server's models, as far as their backends can tell of them, and this process on its host."""

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
"""The device whose memory is this process's."""

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Device:
    """A device, and how it is.

    Attributes:
        name: As the card says.
        uuid: Empty for what has none.
        reading: Its memory, and how busy it is.
    """

    name: str
    uuid: str
    reading: DeviceReading


def read_devices(models: Iterable[Model]) -> list[Device]:
    """Each device once, the host first. A device that does not answer is left out."""
    found = {HOST: Device(HOST, "", DeviceReading(_process_memory()))}
    for model in models:
        ask = getattr(model, "device_reading", None)
        if ask is None or model.device in found:
            continue
        try:
            reading = ask()
        except Exception as e:
            # What watches a device in trouble must not be in trouble too.
            log.warning("a device does not answer", extra={"device": model.device, "reason": str(e)})
            continue
        if reading is not None:
            found[model.device] = Device(model.device, device_uuid(model), reading)
    return list(found.values())


def _process_memory() -> dict[str, int]:
    """What this process holds, and what there is for it: the container's limit, or the host's memory."""
    memory = {}
    # Files of Linux; elsewhere there is nothing to tell.
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
