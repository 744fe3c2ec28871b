"""Names of devices in the configuration: ``all``, or a list of ``cuda:N``, UUIDs and ``cpu``; one process each."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError

ALL = "all"
CPU = "cpu"

UUID = ("GPU-", "MIG-")
"""Prefixes of the UUIDs of GPUs and of slices of GPUs."""

_NAME = re.compile(r"cpu|cuda(:\d{1,4})?|(GPU|MIG)-[0-9A-Za-z/-]{4,96}")


def _names(value: Any) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not all(isinstance(name, str) for name in given):
        raise ValueError("expected all, or a list of cuda:N, UUIDs of GPUs and cpu")
    names = tuple(name.strip() for name in given)
    if names == (ALL,):
        return names
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is not a device; expected all, or a list of cuda:N, UUIDs as `nvidia-smi -L` prints them, and cpu, "
                "for example cuda:0,cuda:1"
            )
    if not names:
        raise ValueError("the list of devices is empty; expected all, or a list such as cuda:0,cuda:1")
    return names


Devices = Annotated[tuple[str, ...], BeforeValidator(_names)]
"""Names of devices, one per process, or `ALL` alone. A name may appear twice: two processes share the device then."""

_DEVICES: TypeAdapter[tuple[str, ...]] = TypeAdapter(Devices)


def device_names(value: Any) -> tuple[str, ...]:
    """Returns the checked names of devices in the configuration. Raises ValueError."""
    try:
        return _DEVICES.validate_python(value)
    except ValidationError as e:
        raise ValueError(f"{e.errors()[0]['msg'].removeprefix('Value error, ')}; given: {value!r:.200}") from None
