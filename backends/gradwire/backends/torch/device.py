"""Devices of torch models: found by name, checked for free memory, and read while they compute.

A GPU is named by its index (``cuda:1``), by its UUID, or by ``auto``, the one with most free memory. With a UUID the process
sees no other GPU, if torch has not looked for any before: the owner's code that uses "cuda" then uses that GPU.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager, suppress
from types import TracebackType

import torch

from gradwire.backends.backend import DeviceReading
from gradwire.backends.errors import ModelConfigError, OutOfMemory

log = logging.getLogger("gradwire.backends")

DEVICE_PATTERN = r"^(auto|cpu|cuda(:\d+)?|(GPU|MIG)-[0-9A-Fa-f/-]{4,64})$"
"""The pattern of device names. A UUID may be shortened as long as it fits one GPU alone."""

_LEAST_FREE_NBYTES = 512 << 20
"""CUDA's own context takes about this much before the first parameter."""


def find_device(name: str, *, gpu: bool = False) -> torch.device:
    """Finds the device of a name and checks that it can be used.

    Args:
        name: As `DEVICE_PATTERN` allows.
        gpu: Whether ``auto`` must find a GPU.

    Raises:
        ModelConfigError: The device does not exist, cannot be used, or has too little memory.
    """
    if name == "auto":
        found = _roomiest()
        if found is None and gpu:
            raise ModelConfigError("device", "auto found no GPU, and cuda_graphs needs one; leave cuda_graphs out")
        if found is None:
            log.info("no GPU is available; the model is put on the cpu")
            return torch.device("cpu")
        name = f"cuda:{found}"
    elif name.startswith(("GPU-", "MIG-")):
        name = f"cuda:{_of_uuid(name)}"
    chosen = torch.device(name)
    if chosen.type == "cuda":
        _check(chosen)
    return chosen


def device_uuid(device: torch.device) -> str:
    """The UUID of a GPU, as ``nvidia-smi -L`` lists it; empty for other devices."""
    if device.type != "cuda":
        return ""
    return _uuid(_index(device))


def read_device(device: torch.device) -> DeviceReading | None:
    """The memory and utilisation of a GPU, None for other devices. Allocates nothing there."""
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
    # NVML may be missing, its Python package too, and drivers of some virtual GPUs do not report it.
    with suppress(Exception):
        utilisation = torch.cuda.utilization(device) / 100
    return DeviceReading(memory, utilisation)


class FrameworkErrors(AbstractContextManager[None]):
    """Translates torch's error for a full device, and frees the memory that torch has cached there."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            raise OutOfMemory("the GPU has no memory left for so many rows; send fewer, or set a smaller max_batch_rows") from error


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _uuid(index: int) -> str:
    told = str(getattr(torch.cuda.get_device_properties(index), "uuid", ""))
    return f"GPU-{told}" if told and not told.startswith(("GPU-", "MIG-")) else told


def _visible() -> str:
    count = torch.cuda.device_count()
    if not count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        built = "" if torch.version.cuda else "; this torch is built without CUDA"
        return f"torch sees 0 GPU(s){hidden}{built}, and cpu"
    return f"torch sees {count} GPU(s), and cpu: {', '.join(f'cuda:{index} {_uuid(index)}' for index in range(count))}"


def _of_uuid(name: str) -> int:
    """The index of the GPU with a UUID. Limits the process to that GPU if CUDA_VISIBLE_DEVICES is not set."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch has no types here
        os.environ["CUDA_VISIBLE_DEVICES"] = name
        if torch.cuda.device_count():
            return 0
        del os.environ["CUDA_VISIBLE_DEVICES"]
    elif shown == name and torch.cuda.device_count():
        # Set for a model that was loaded before, or by the operator; only CUDA tells slices of GPUs (MIG) apart.
        return 0
    found = [index for index in range(torch.cuda.device_count()) if _uuid(index).lower().startswith(name.lower())]
    if len(found) != 1:
        many = "" if not found else f"{len(found)} GPUs begin like that; "
        raise ModelConfigError("device", f"{name} is not available; {many}{_visible()}")
    return found[0]


def _roomiest() -> int | None:
    """The GPU with most free memory; None without GPUs."""
    free = {index: torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())}
    return max(free, key=lambda index: free[index], default=None)


def _check(device: torch.device) -> None:
    if (device.index or 0) >= torch.cuda.device_count():
        raise ModelConfigError("device", f"{device} is not available; {_visible()}")
    name = f"{device} ({torch.cuda.get_device_name(device)}, {device_uuid(device)})"
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as e:
        # Another process may use it exclusively (compute mode), or its driver fails.
        raise ModelConfigError("device", f"{name} cannot be used: {str(e).splitlines()[0]}") from e
    if free < _LEAST_FREE_NBYTES:
        raise ModelConfigError(
            "device",
            f"{name} has {free >> 20} MiB free of {total >> 20}; a model needs {_LEAST_FREE_NBYTES >> 20} MiB before its first "
            "parameter. `nvidia-smi` lists the processes that use the rest; name another device, or auto for the emptiest one",
        )
    log.info("the GPU can be used", extra={"device": name, "free_mib": free >> 20, "total_mib": total >> 20})
