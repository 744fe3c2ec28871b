"""Plot of throughput over clients, by kind of client and topology; markers show the busiest resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.scaling.site import CLIENTS
from benchmarks.scaling.study import GPUS, TOPOLOGIES
from benchmarks.scaling.workload import NAMES

_TITLES = {"query": "1 row of 3 x 32 x 32", "pgd128": "128 rows of 3 x 32 x 32", "pgd64": "64 rows of 3 x 224 x 224"}
# Told apart by shape as well as by colour.
_STYLES = {
    CLIENTS: ("#999999", "."),
    "GPU": ("#009E73", "o"),
    "front end": ("#0072B2", "s"),
    "network": ("#E69F00", "^"),
    "leases": ("#CC79A7", "D"),
    "ledger": ("#D55E00", "X"),
    "way to replicas": ("#56B4E9", "v"),
}
_NEAR = 1.35
_SAYS = {CLIENTS: "nothing: too few clients", "way to replicas": "the way to the replicas"}


def plot(figures: Mapping[str, Any], path: Path) -> None:
    """Writes a PNG: kinds of clients down, topologies across."""
    results = figures["grid"]
    figure = Figure(figsize=(11, 10.5), layout="constrained")
    axes = figure.subplots(len(NAMES), len(TOPOLOGIES), sharex=True, sharey="row")
    for row, name in enumerate(NAMES):
        for column, (topology, title) in enumerate(TOPOLOGIES.items()):
            axis = axes[row][column]
            _panel(axis, [of for of in results if of["kind"] == name and of["topology"] == topology])
            if row == 0:
                axis.set_title(title, fontsize=11)
            if column == 0:
                axis.set_ylabel(f"calls/s\n{_TITLES[name]}", fontsize=10)
        axes[row][0].set_xlim(8, 60_000)
    found = {of["bottleneck"] for of in results}
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="none", markersize=7, label=_SAYS.get(name, name))
        for name, (color, marker) in _STYLES.items()
        if name in found
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=10, title="busiest")
    figure.supxlabel("clients, each with one call under way", fontsize=10)
    figure.savefig(path, dpi=130)


def _panel(axis: Axes, results: Sequence[Mapping[str, Any]]) -> None:
    ends: list[tuple[float, int, int]] = []
    for gpus in GPUS:
        mine = sorted((of for of in results if of["gpus"] == gpus), key=lambda of: of["clients"])
        if not mine:
            continue
        axis.plot([of["clients"] for of in mine], [of["calls_per_s"] for of in mine], color="#BBBBBB", linewidth=1.2, zorder=1)
        for of in mine:
            color, marker = _STYLES[of["bottleneck"]]
            axis.plot(of["clients"], of["calls_per_s"], marker, color=color, markersize=6, zorder=2)
        ends.append((mine[-1]["calls_per_s"], gpus, mine[-1]["clients"]))
    _label(axis, ends)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(color="#E5E5E5", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _label(axis: Axes, ends: Sequence[tuple[float, int, int]]) -> None:
    """Labels the ends of lines with their number of GPUs; lines that end at one place share a label."""
    groups: list[list[tuple[float, int, int]]] = []
    for end in sorted(ends):
        if groups and end[0] < _NEAR * groups[-1][-1][0]:
            groups[-1].append(end)
        else:
            groups.append([end])
    for group in groups:
        text = ", ".join(str(gpus) for gpus in sorted(gpus for _, gpus, _ in group))
        at = (group[0][2], sum(height for height, _, _ in group) / len(group))
        axis.annotate(text, at, (7, 0), textcoords="offset points", fontsize=8, va="center", annotation_clip=False)
