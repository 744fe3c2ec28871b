"""Options of a run, and the folder of published results."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

RESULTS = Path(__file__).resolve().parent / "results"
"""The latest published results, one JSON file for each kind of study; git keeps older ones."""


@dataclass(frozen=True)
class Setting:
    """Options of a run.

    Attributes:
        quick: True for few calls, to try things out.
        operations: Measure only operations whose name contains one of these; empty: all.
        peers: Names of the peers to measure beside MLServer.
        mlserver: True to measure MLServer.
        crowd_s: Seconds that the many clients call.
        out: Folder for results.
        console: Console for progress.
        versions: Versions of everything measured; groups add to it.
    """

    quick: bool
    operations: tuple[str, ...]
    peers: tuple[str, ...]
    mlserver: bool
    crowd_s: float
    out: Path
    console: Console
    versions: dict[str, str] = field(default_factory=dict)
