"""The group ``account``: the microseconds of one-row calls by station, beside the system's own cost of such a call."""

from __future__ import annotations

import numpy as np

from benchmarks import machine
from benchmarks.account.floor import KINDS, floor_us
from benchmarks.account.ledger import WAYS, Account, Line, account
from benchmarks.cases import TITLES
from benchmarks.figures.figure import Figure
from benchmarks.model import INPUT_SHAPE, NB_CLASSES, Array
from benchmarks.setting import Setting

GROUP = "account"
OPERATIONS = ("predict", "loss_gradient")
_ROW_NBYTES = 4 * int(np.prod(INPUT_SHAPE))
_AROUND_NBYTES = 100
"""About the bytes that frames and headers add to the rows."""
NBYTES = {"predict": (_ROW_NBYTES, 4 * NB_CLASSES), "loss_gradient": (_ROW_NBYTES, _ROW_NBYTES)}
FLOORS = {"socket": ("blocking", "asyncio"), "grpc": ("grpc",)}


def measure(setting: Setting) -> list[Figure]:
    """Measures the figures and writes the account beside them, as microseconds.md."""
    calls = 200 if setting.quick else 2000
    figures: list[Figure] = []
    facts = machine.facts()
    text = [
        f"Median µs, and 10th to 90th percentile, of {calls} calls, one after the other. {facts['cpu']}, {facts['cores']} cores, "
        f"one compute thread, {str(facts['date'])[:10]}, commit {facts['commit']}.",
        "",
    ]
    for operation in OPERATIONS:
        for way in WAYS:
            setting.console.print(f"[dim]account of {operation}, {way}[/dim]")
            of = account(operation, 1, calls, way)
            there, back = (nbytes + _AROUND_NBYTES for nbytes in NBYTES[operation])
            floors = {kind: floor_us(kind, there, back, calls) for kind in FLOORS[way]}
            name = f"{TITLES[operation]}, 1 row, {'gRPC' if way == 'grpc' else 'Unix socket'}"
            text += _table(name, of, floors)
            lowest, least = list(floors.items())[-1]
            around = of.unobserved.median_us - of.computing.median_us
            figures.append(Figure(GROUP, f"{name}: without computing", "µs", around, KINDS[lowest], float(np.median(least))))
    (setting.out / "microseconds.md").write_text("\n".join(text).rstrip() + "\n")
    return figures


def _table(name: str, of: Account, floors: dict[str, Array]) -> list[str]:
    def row(line: Line) -> str:
        return f"| {line.what} | {line.median_us:.0f} | {line.p10_us:.0f}-{line.p90_us:.0f} |"

    taken, made = of.shown
    where = "through the runner's queue" if of.through_queue else "where they were read, without a queue"
    floor = [
        row(Line(f"floor: {KINDS[kind]}", *(float(value) for value in np.percentile(times, (50, 10, 90)))))
        for kind, times in floors.items()
    ]
    return [
        f"## {name}",
        "",
        "| | µs | 10-90 % |",
        "|---|--:|--:|",
        *(row(line) for line in of.lines),
        row(of.whole),
        row(of.unobserved),
        *floor,
        "",
        f"{taken} of {made} calls were computed {where}; the table is of these.",
        "",
    ]
