"""Plot of a run's figures: the distance of each from its goal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.figures.figure import Figure

_MET, _MISSED = "#0072B2", "#D55E00"
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


def plot(figures: Sequence[Figure], path: Path) -> None:
    """Writes a PNG with a line for each figure with a goal: its share of the allowed value, 1 if just met."""
    judged = [figure for figure in figures if figure.met is not None and _share(figure, figure.measured) > 0]
    if not judged:
        return
    canvas = Canvas(figsize=(10, 1.4 + 0.24 * len(judged)), layout="constrained")
    axis = canvas.subplots()
    shares = [_share(figure, figure.measured) for figure in judged]
    for at, (figure, share) in enumerate(zip(judged, shares, strict=True)):
        color = _MET if figure.met else _MISSED
        if figure.spread is not None:
            ends = sorted(_share(figure, end) for end in figure.spread)
            if ends[0] > 0:
                axis.plot(ends, (at, at), color=color, linewidth=1.4)
        axis.plot(share, at, "o" if figure.met else "X", color=color, markersize=6)
    axis.axvline(1, color="black", linewidth=1)
    axis.set_xscale("log")
    axis.set_xlim(max(0.01, min(shares) * 0.8), max(1.5, max(shares) * 1.25))
    axis.xaxis.set_major_locator(FixedLocator(_TICKS))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_yticks(range(len(judged)), [_label(figure) for figure in judged], fontsize=8)
    axis.set_ylim(len(judged) - 0.4, -0.6)
    axis.set_xlabel("of what the goal allows (median; line: 10th to 90th percentile of rounds); left of 1 it is reached")
    axis.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    canvas.savefig(path, dpi=150)


def _share(figure: Figure, number: float | None) -> float:
    assert figure.goal is not None
    assert number is not None
    if figure.goal.bound == 0 or number == 0:
        return 0.0
    return figure.goal.bound / number if figure.goal.relation == ">=" else number / figure.goal.bound


def _label(figure: Figure) -> str:
    beside = f" / {figure.beside}" if figure.beside else ""
    return f"{figure.name}{beside}"
