"""Discovery of this machine's GPUs without a framework, and the environment that shows a process one of them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from gradwire.server.config.device_names import ALL, CPU, UUID

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable with the GPUs that CUDA shows to a process, in their order."""

_NVIDIA_SMI = "nvidia-smi"
_NVIDIA_SMI_TIMEOUT_S = 60.0
"""Without persistence mode, the driver of a machine with many GPUs loads slowly."""
_PROC = Path("/proc/driver/nvidia/gpus")

_GPU = re.compile(r"^GPU \d+: .*\(UUID: (GPU-[0-9A-Za-z-]+)\)")
_MIG = re.compile(r"^\s+MIG .*\(UUID: (MIG-[0-9A-Za-z/-]+)\)")


class DeviceNotFound(Exception):
    """This machine has no such device; the text lists the places searched."""


def find_devices(names: tuple[str, ...], environment: Mapping[str, str] = os.environ, proc: Path = _PROC) -> list[tuple[str, str]]:
    """Finds the named devices, each with the value of `VISIBLE` for its process.

    Args:
        names: As `device_names` returns them.
        environment: Environment of this process; `VISIBLE` in it hides GPUs, and numbers the others.
        proc: Folder in which the driver lists its GPUs.

    Returns:
        Name and value of each; the value is empty for the CPU, whose process sees no GPU.

    Raises:
        DeviceNotFound: The machine shows no GPU, or not the named one.
    """
    if names == (ALL,):
        return _every(environment, proc)
    return [(name, _value(name, environment)) for name in names]


def _value(name: str, environment: Mapping[str, str]) -> str:
    if name == CPU:
        return ""
    if name.startswith(UUID):
        return name
    index = int(name.partition(":")[2] or 0)
    shown = _shown(environment)
    if shown is None:
        # CUDA's own number, in CUDA's own order, which is the meaning of cuda:N in every framework here.
        return str(index)
    if index >= len(shown):
        raise DeviceNotFound(f"{name} does not exist: {VISIBLE} is {environment[VISIBLE]!r}, which shows {len(shown)} GPU(s)")
    return shown[index]


def _shown(environment: Mapping[str, str]) -> list[str] | None:
    """Entries of `VISIBLE` that CUDA shows; None if it shows all GPUs."""
    value = environment.get(VISIBLE)
    if value is None:
        return None
    # CUDA hides all entries after an invalid one.
    return list(takewhile(lambda entry: entry not in ("", "-1"), (entry.strip() for entry in value.split(","))))


def _every(environment: Mapping[str, str], proc: Path) -> list[tuple[str, str]]:
    shown = _shown(environment)
    if shown is not None:
        if not shown:
            raise DeviceNotFound(
                f"no GPU is visible: {VISIBLE} is {environment[VISIBLE]!r}, which hides all; unset it, or name cpu"
            )
        # Entries without a UUID are named by their index among the shown ones, as frameworks count.
        return [(entry if entry.startswith(UUID) else f"cuda:{index}", entry) for index, entry in enumerate(shown)]
    uuids, output = _by_driver(environment)
    uuids = uuids or _by_proc(proc)
    if not uuids:
        raise DeviceNotFound(
            f"this machine shows no GPU. Searched: {VISIBLE} (not set), `{_NVIDIA_SMI} -L` ({output}), {proc} (lists none). "
            "Install the driver, pass the GPUs to this container, name them (cuda:0,cuda:1), or name cpu"
        )
    return [(uuid, uuid) for uuid in uuids]


def _by_driver(environment: Mapping[str, str]) -> tuple[list[str], str]:
    """The UUIDs that nvidia-smi prints, and the first line of its output, or its error."""
    try:
        completed = subprocess.run(
            [_NVIDIA_SMI, "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, env=environment, check=False
        )
    except FileNotFoundError:
        return [], "not installed"
    except (OSError, subprocess.TimeoutExpired) as e:
        return [], str(e)
    output = next(iter((completed.stdout + completed.stderr).strip().splitlines()), "prints nothing")
    return uuids(completed.stdout), output


def uuids(listed: str) -> list[str]:
    """UUIDs of the GPUs in the output of ``nvidia-smi -L``. A GPU with slices (MIG) counts as its slices."""
    gpus: list[list[str]] = []
    for line in listed.splitlines():
        if gpu := _GPU.match(line):
            gpus.append([gpu[1]])
        elif (mig := _MIG.match(line)) and gpus:
            gpus[-1].append(mig[1])
    return [uuid for gpu in gpus for uuid in (gpu[1:] or gpu)]


def _by_proc(proc: Path) -> list[str]:
    """The UUIDs that the driver's kernel module lists; works in containers without nvidia-smi."""
    texts = [file.read_text(errors="replace") for file in sorted(proc.glob("*/information"))]
    matches = (re.search(r"^GPU UUID:\s*(GPU-[0-9A-Fa-f-]+)\s*$", text, re.MULTILINE) for text in texts)
    return [match[1] for match in matches if match]
