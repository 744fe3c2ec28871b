"""Which GPUs this machine shows, found without any framework, and what a process must be told to see one of them alone."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path

from gradwire.server.config.device_names import ALL, CPU, UUID

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""What CUDA shows to a process, and in which order."""

_NVIDIA_SMI = "nvidia-smi"
_NVIDIA_SMI_TIMEOUT_S = 60.0
"""The driver of a machine with many GPUs takes its time if nothing keeps it loaded."""
_PROC = Path("/proc/driver/nvidia/gpus")

_GPU = re.compile(r"^GPU \d+: .*\(UUID: (GPU-[0-9A-Za-z-]+)\)")
_MIG = re.compile(r"^\s+MIG .*\(UUID: (MIG-[0-9A-Za-z/-]+)\)")


class NoDevice(Exception):
    """There is no such device here; the text says what was looked for."""


def found(names: tuple[str, ...], environment: Mapping[str, str] = os.environ, proc: Path = _PROC) -> list[tuple[str, str]]:
    """The devices that are named, each with what `VISIBLE` must say in its process.

    Args:
        names: As `device_names` returns them.
        environment: Of this process; `VISIBLE` in it hides GPUs, and numbers the others.
        proc: Where the driver lists its GPUs.

    Returns:
        Name and value of each; the value is empty for the CPU, whose process sees no GPU.

    Raises:
        NoDevice: There is none, or not the one that is named.
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
        # CUDA's own number, in CUDA's own order: what cuda:N means to every framework here.
        return str(index)
    if index >= len(shown):
        raise NoDevice(f"{name} is not here: {VISIBLE} is {environment[VISIBLE]!r}, which shows {len(shown)} GPU(s)")
    return shown[index]


def _shown(environment: Mapping[str, str]) -> list[str] | None:
    """What CUDA is told to show; None if it shows everything."""
    told = environment.get(VISIBLE)
    if told is None:
        return None
    # What follows something that is no device is not shown, by CUDA's rules.
    return list(takewhile(lambda entry: entry not in ("", "-1"), (entry.strip() for entry in told.split(","))))


def _every(environment: Mapping[str, str], proc: Path) -> list[tuple[str, str]]:
    shown = _shown(environment)
    if shown is not None:
        if not shown:
            raise NoDevice(f"there is no GPU: {VISIBLE} is {environment[VISIBLE]!r}, which hides all; unset it, or name cpu")
        # What is not named by its UUID is named by its place in what is shown, as frameworks count.
        return [(entry if entry.startswith(UUID) else f"cuda:{place}", entry) for place, entry in enumerate(shown)]
    uuids, said = _by_driver(environment)
    uuids = uuids or _by_proc(proc)
    if not uuids:
        raise NoDevice(
            f"there is no GPU here. Looked for: {VISIBLE} (not set), `{_NVIDIA_SMI} -L` ({said}), {proc} (lists none). "
            "Is the driver installed, and are the GPUs passed to this container? Name them (cuda:0,cuda:1), or cpu"
        )
    return [(uuid, uuid) for uuid in uuids]


def _by_driver(environment: Mapping[str, str]) -> tuple[list[str], str]:
    """The UUIDs that nvidia-smi prints, and what came of asking it."""
    try:
        ended = subprocess.run(
            [_NVIDIA_SMI, "-L"], capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, env=environment, check=False
        )
    except FileNotFoundError:
        return [], "there is no such program"
    except (OSError, subprocess.TimeoutExpired) as e:
        return [], str(e)
    said = next(iter((ended.stdout + ended.stderr).strip().splitlines()), "it prints nothing")
    return uuids(ended.stdout), said


def uuids(listed: str) -> list[str]:
    """Of the GPUs in what ``nvidia-smi -L`` prints. A GPU that is cut into slices (MIG) is used by its slices alone."""
    gpus: list[list[str]] = []
    for line in listed.splitlines():
        if gpu := _GPU.match(line):
            gpus.append([gpu[1]])
        elif (mig := _MIG.match(line)) and gpus:
            gpus[-1].append(mig[1])
    return [uuid for gpu in gpus for uuid in (gpu[1:] or gpu)]


def _by_proc(proc: Path) -> list[str]:
    """As the driver's kernel module lists them: without nvidia-smi, in a container say."""
    texts = [file.read_text(errors="replace") for file in sorted(proc.glob("*/information"))]
    told = (re.search(r"^GPU UUID:\s*(GPU-[0-9A-Fa-f-]+)\s*$", text, re.MULTILINE) for text in texts)
    return [match[1] for match in told if match]
