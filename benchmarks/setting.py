"""What a run was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console


@dataclass(frozen=True)
class Setting:
    """How to measure.

    Attributes:
        quick: Few calls, to try things out.
        operations: Those whose name contains one of these; empty: all.
        peers: Beside MLServer, by their names.
        mlserver: Whether MLServer is there.
        crowd_s: How long the many clients call.
        out: Where results go.
        console: Where to say how it goes.
        name: Of the files of this run.
        versions: Of what was measured; groups add to it.
    """

    quick: bool
    operations: tuple[str, ...]
    peers: tuple[str, ...]
    mlserver: bool
    crowd_s: float
    out: Path
    console: Console
    name: str
    versions: dict[str, str] = field(default_factory=dict)
