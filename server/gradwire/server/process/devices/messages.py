"""What the supervisor and its processes tell each other: one JSON object a line, over a socket that only the two have.

A process is told its orders, says that its models are loaded, is told where to listen, and says that it serves; or, at any
point before that, what is wrong. Nothing of it is in arguments or the environment, where others would see passwords of stores.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from gradwire.server.values.process_index import ProcessIndex

LONGEST_NBYTES = 64 << 20
"""A line: a configuration, and what models answered."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Orders(_Message):
    """The supervisor's first: what to load.

    Attributes:
        source: The configuration file's name.
        text: What was in it when the supervisor read it: a process that is started again serves the same.
        changes: Keys that were given on the command line.
        process_index: Which of the processes it is.
        supervisor: The pid of who started it.
        path: Where Python looks for modules.
    """

    source: str
    text: str
    changes: dict[str, Any]
    process_index: ProcessIndex
    supervisor: int
    path: list[str]


class Loaded(_Message):
    """The process's: it could serve now.

    Attributes:
        listen: As in the configuration; so are the next three.
        answers: What each model answered to rows that are the same for all processes; see `answers`.
    """

    kind: Literal["loaded"] = "loaded"
    listen: str
    health_listen: str | None
    metrics_listen: str | None
    drain_timeout_s: float
    answers: dict[str, list[float]]


class Addresses(_Message):
    """The supervisor's second: where to listen."""

    listen: str
    health_listen: str | None
    metrics_listen: str | None


class Serving(_Message):
    """The process's: it takes calls."""

    kind: Literal["serving"] = "serving"
    address: str


class Wrong(_Message):
    """The process's last: the configuration is wrong."""

    kind: Literal["wrong"] = "wrong"
    text: str


Told = Loaded | Serving | Wrong
"""What a process says."""

TOLD: TypeAdapter[Told] = TypeAdapter(Loaded | Serving | Wrong)
