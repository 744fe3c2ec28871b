"""Messages between the supervisor and its processes: one JSON object a line, over a socket that only the two have.

A process receives its orders, reports that its models are loaded, receives the addresses to listen on, and reports that it
serves; or, at any point before that, that the configuration is rejected. Arguments and the environment would show passwords of
stores to other users, and hold none of this.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from gradwire.server.values.process_index import ProcessIndex

LONGEST_NBYTES = 64 << 20
"""Longest line: a configuration, or the outputs of models."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Orders(_Message):
    """First message of the supervisor: the configuration to load.

    Attributes:
        source: Name of the configuration file.
        text: Its content when the supervisor read it, so that a restarted process serves the same.
        changes: Keys from the command line.
        process_index: Index of this process among those at the address.
        supervisor: Pid of the supervisor.
        path: Python's module search path.
    """

    source: str
    text: str
    changes: dict[str, Any]
    process_index: ProcessIndex
    supervisor: int
    path: list[str]


class Loaded(_Message):
    """Report of a process: its models are loaded.

    Attributes:
        kind: Tag of the message.
        listen: As in the configuration.
        health_listen: As in the configuration.
        metrics_listen: As in the configuration.
        drain_timeout_s: As in the configuration.
        probe_outputs: Outputs of each model for rows common to all processes; see `probe_outputs`.
    """

    kind: Literal["loaded"] = "loaded"
    listen: str
    health_listen: str | None
    metrics_listen: str | None
    drain_timeout_s: float
    probe_outputs: dict[str, list[float]]


class Addresses(_Message):
    """Second message of the supervisor: the addresses to listen on."""

    listen: str
    health_listen: str | None
    metrics_listen: str | None


class Serving(_Message):
    """Report of a process: it accepts calls."""

    kind: Literal["serving"] = "serving"
    address: str


class ConfigRejected(_Message):
    """Last report of a process: the configuration is wrong."""

    kind: Literal["rejected"] = "rejected"
    text: str


Report = Loaded | Serving | ConfigRejected
"""Any message of a process."""

REPORT: TypeAdapter[Report] = TypeAdapter(Loaded | Serving | ConfigRejected)
