"""Which device a torch model lies on, and how that device is: there, with room, and how busy.

A GPU is named by its place (``cuda:1``), by its UUID, or by ``auto``, the one with most free memory. With a UUID the process
sees no other GPU, if torch has not looked for any before: what the owner's code puts on "cuda" is on that one then.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress

import torch

from gradwire.backends.backend import DeviceReading
from gradwire.backends.errors import ModelConfigError

log = logging.getLogger("gradwire.backends")

PATTERN = r"^(auto|cpu|cuda(:\d+)?|(GPU|MIG)-[0-9A-Fa-f/-]{4,64})$"
"""Of the names of devices. A UUID may be shortened, as far as it is one GPU's alone."""

_LEAST_FREE_NBYTES = 512 << 20
"""CUDA's own context takes about so much before the first parameter."""


def device(name: str, *, gpu: bool = False) -> torch.device:
    """The device of a name, after a look at it.

    Args:
        name: As `PATTERN` allows.
        gpu: Whether nothing else will do; of ``auto``.

    Raises:
        ModelConfigError: It is not there, cannot be used, or has no room.
    """
    if name == "auto":
        found = _roomiest()
        if found is None and gpu:
            raise ModelConfigError("device", "auto found no GPU, and cuda_graphs needs one; leave cuda_graphs out")
        if found is None:
            log.info("no GPU is here; the model is put on the cpu")
            return torch.device("cpu")
        name = f"cuda:{found}"
    elif name.startswith(("GPU-", "MIG-")):
        name = f"cuda:{_of_uuid(name)}"
    chosen = torch.device(name)
    if chosen.type == "cuda":
        _check(chosen)
    return chosen


def uuid(device: torch.device) -> str:
    """As ``nvidia-smi -L`` lists it; empty for what is no GPU."""
    if device.type != "cuda":
        return ""
    return _uuid(_index(device))


def reading(device: torch.device) -> DeviceReading | None:
    """How full and how busy a GPU is; None for what is no GPU. Allocates nothing there."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    memory = {
        "used": total - free,
        "total": total,
        "allocated": torch.cuda.memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
    }
    utilisation = None
    # NVML may be missing, its Python package too, and drivers of some virtual GPUs do not tell.
    with suppress(Exception):
        utilisation = torch.cuda.utilization(device) / 100
    return DeviceReading(memory, utilisation)


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _uuid(index: int) -> str:
    told = str(getattr(torch.cuda.get_device_properties(index), "uuid", ""))
    return f"GPU-{told}" if told and not told.startswith(("GPU-", "MIG-")) else told


def _here() -> str:
    count = torch.cuda.device_count()
    if not count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        built = "" if torch.version.cuda else "; this torch is built without CUDA"
        return f"torch sees 0 GPU(s){hidden}{built}, and cpu"
    return f"torch sees {count} GPU(s), and cpu: {', '.join(f'cuda:{index} {_uuid(index)}' for index in range(count))}"


def _of_uuid(name: str) -> int:
    """The index of the GPU with a UUID; where CUDA has not been told otherwise, it is told to show that one alone."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no types here
        os.environ["CUDA_VISIBLE_DEVICES"] = name
        if torch.cuda.device_count():
            return 0
        del os.environ["CUDA_VISIBLE_DEVICES"]
    elif shown == name and torch.cuda.device_count():
        # Of a model that was loaded before, or of the operator's; slices of GPUs (MIG) are told apart by CUDA alone.
        return 0
    found = [index for index in range(torch.cuda.device_count()) if _uuid(index).lower().startswith(name.lower())]
    if len(found) != 1:
        many = "" if not found else f"{len(found)} GPUs begin like that; "
        raise ModelConfigError("device", f"{name} is not here; {many}{_here()}")
    return found[0]


def _roomiest() -> int | None:
    """The GPU with most free memory; None if there is none."""
    free = {index: torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())}
    return max(free, key=lambda index: free[index], default=None)


def _check(device: torch.device) -> None:
    if (device.index or 0) >= torch.cuda.device_count():
        raise ModelConfigError("device", f"{device} is not here; {_here()}")
    name = f"{device} ({torch.cuda.get_device_name(device)}, {uuid(device)})"
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as e:
        # Another process may have it for itself (compute mode), or its driver is in trouble.
        raise ModelConfigError("device", f"{name} cannot be used: {str(e).splitlines()[0]}") from e
    if free < _LEAST_FREE_NBYTES:
        raise ModelConfigError(
            "device",
            f"{name} has {free >> 20} MiB free of {total >> 20}; a model needs {_LEAST_FREE_NBYTES >> 20} MiB before its first "
            "parameter. `nvidia-smi` says who holds the rest; name another device, or auto for the one with most room",
        )
    log.info("a GPU is there", extra={"device": name, "free_mib": free >> 20, "total_mib": total >> 20})
