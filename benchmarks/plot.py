"""Plot of a run's results: the time of each contender as a multiple of plain torch's."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.cases import ROW_OPERATIONS
from benchmarks.contenders import art, gradwire, plain
from benchmarks.report import Result, Run

# Told apart by shape as well as by colour.
_STYLES = {
    art.NAME: ("#E69F00", "s"),
    gradwire.NAME: ("#0072B2", "o"),
    "MLServer": ("#777777", "^"),
    "MLServer stream": ("#BBBBBB", "v"),
}


def plot(run: Run, path: Path) -> None:
    """Writes a PNG with one panel for each number of rows."""
    sizes = sorted({result.case.rows for result in run.results if result.case.operation in ROW_OPERATIONS})
    operations = [o for o in ROW_OPERATIONS if any(result.case.operation == o for result in run.results)]
    if not sizes:
        return
    figure = Figure(figsize=(2.4 + 3.4 * len(sizes), 1.9 + 0.5 * len(operations)), layout="constrained")
    axes = figure.subplots(1, len(sizes), sharey=True, squeeze=False)
    drawn = [name for name in _STYLES if name in run.contenders]
    for axis, rows in zip(axes[0], sizes, strict=True):
        found = [result for result in run.results if result.case.rows == rows and result.case.operation in operations]
        _panel(axis, found, operations, drawn)
        axis.set_title(f"{rows} row{'s' if rows > 1 else ''}", fontsize=11)
    axes[0][0].set_yticks(range(len(operations)), [ROW_OPERATIONS[o] for o in operations])
    axes[0][0].set_ylim(len(operations) - 0.4, -0.6)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=10)
    figure.supxlabel("time of a call as a multiple of plain torch's (median; bar: 10th to 90th percentile)", fontsize=10)
    figure.savefig(path, dpi=150)


def _panel(axis: Axes, results: list[Result], operations: list[str], drawn: list[str]) -> None:
    lowest, highest = 0.9, 2.0
    for index, name in enumerate(drawn):
        color, marker = _STYLES[name]
        at, medians, lower, upper = [], [], [], []
        for result in results:
            torch, mine = result.of(plain.NAME), result.of(name)
            if torch is None or mine is None:
                continue
            at.append(operations.index(result.case.operation) + 0.17 * (index - (len(drawn) - 1) / 2))
            middle, low, high = (ms / torch.median_ms for ms in (mine.median_ms, mine.p10_ms, mine.p90_ms))
            medians.append(middle)
            lower.append(middle - low)
            upper.append(high - middle)
            lowest, highest = min(lowest, middle), max(highest, high)
        axis.errorbar(
            medians, at, xerr=(lower, upper), fmt=marker, color=color, markersize=6, elinewidth=1.4, capsize=0, label=name
        )
    axis.axvline(1, color="black", linewidth=1)
    axis.set_xscale("log")
    axis.set_xlim(lowest * 0.92, highest * 1.15)
    axis.xaxis.set_major_locator(
        FixedLocator([tick for tick in (0.5, 1, 2, 3, 5, 8, 12, 20, 40) if lowest * 0.92 < tick < highest * 1.1])
    )
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    for edge in range(1, len(operations)):
        axis.axhline(edge - 0.5, color="#EEEEEE", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
