"""The demo's two pictures: attacked digits, and accuracy over epsilon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from gradwire.client.demo.attacks import Curves, Outcome
from gradwire.wire.tensors import Array

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

# Okabe and Ito's colours, which colour-blind people can distinguish.
_RIGHT, _WRONG, _INK, _FAINT = "#007a5a", "#c4420e", "#222222", "#777777"
_CURVES = {"random noise": ("#777777", "s"), "FGSM": ("#e69f00", "o"), "PGD": ("#0072b2", "D")}
_FONT: dict[Any, Any] = {"font.family": "sans-serif", "font.size": 11, "text.color": _INK, "axes.labelcolor": _INK}
_EACH = 3
"""Digits per attack."""


def draw_attacks(outcomes: list[Outcome], path: Path) -> None:
    """Writes originals, adversarial examples and perturbations, one group of columns per attack, as a PNG."""
    shown = _telling(outcomes)
    most = max(float(np.abs(outcome.perturbation[shown]).max()) for outcome in outcomes)
    groups = len(outcomes)
    with plt.rc_context(_FONT):
        figure = plt.figure(figsize=(3.4 * groups + 1.2, 5.2), dpi=150)
        columns = figure.add_gridspec(1, groups, left=0.085, right=0.925, top=0.775, bottom=0.06, wspace=0.1)
        for group, outcome in enumerate(outcomes):
            cells = columns[group].subgridspec(3, _EACH, hspace=0.28, wspace=0.08)
            axes: Any = cells.subplots()
            for column, index in enumerate(shown):
                _digit(axes[0, column], outcome.x[index], int(outcome.predicted_clean[index]), int(outcome.y[index]))
                _digit(axes[1, column], outcome.adversarial[index], int(outcome.predicted[index]), int(outcome.y[index]))
                _change(axes[2, column], outcome.perturbation[index], most)
            middle = (axes[0, 0].get_position().x0 + axes[0, -1].get_position().x1) / 2
            figure.text(middle, 0.895, outcome.attack.name, ha="center", fontsize=14, fontweight="bold")
            figure.text(middle, 0.85, f"{outcome.attack.uses}, {outcome.attack.setting}", ha="center", fontsize=10, color=_FAINT)
            if group == 0:
                for row, name in enumerate(("original", "adversarial", "change")):
                    box = axes[row, 0].get_position()
                    figure.text(box.x0 - 0.012, (box.y0 + box.y1) / 2, name, ha="right", va="center", fontsize=12)
        _scale(figure, axes[2, -1], most)
        for inches, text, colour in ((0.0, "digits as predicted:", _INK), (1.85, "right", _RIGHT), (2.35, "wrong", _WRONG)):
            left = 0.012 + inches / figure.get_figwidth()
            figure.text(left, 0.955, text, fontsize=12, color=colour, fontweight="normal" if colour == _INK else "bold")
        figure.savefig(path)
        plt.close(figure)


def draw_robustness(curves: Curves, path: Path) -> None:
    """Writes accuracy over epsilon as a PNG."""
    with plt.rc_context(_FONT):
        figure, axes = plt.subplots(figsize=(8, 4.8), dpi=150, layout="constrained")
        for name, accuracies in curves.accuracies.items():
            colour, marker = _CURVES[name]
            axes.plot(
                curves.epsilons, accuracies, color=colour, marker=marker, markersize=5, linewidth=2, label=name, clip_on=False
            )
        axes.axhline(0.1, color=_FAINT, linewidth=1, linestyle=":")
        axes.text(0.0, 0.115, "guessing", color=_FAINT, fontsize=9)
        axes.set_title("Noise does little, gradients do much", loc="left", fontsize=14, fontweight="bold", pad=12)
        axes.set_xlabel("ε: the most that a pixel is changed (pixels go from 0 to 1)")
        axes.set_ylabel(f"accuracy on {curves.images} held-out digits")
        axes.set_xlim(0, max(curves.epsilons))
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="y", color="#e5e5e5")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.75))
        figure.savefig(path)
        plt.close(figure)


def _telling(outcomes: list[Outcome]) -> list[int]:
    """Selects images of different classes whose prediction most attacks changed."""
    common = min(len(outcome.x) for outcome in outcomes)
    fooled = sum((outcome.predicted[:common] != outcome.y[:common]).astype(int) for outcome in outcomes)
    right = outcomes[0].predicted_clean[:common] == outcomes[0].y[:common]
    order = sorted(range(common), key=lambda index: (not right[index], -int(np.asarray(fooled)[index])))
    chosen: list[int] = []
    for index in order:
        if outcomes[0].y[index] not in outcomes[0].y[chosen] and len(chosen) < _EACH:
            chosen.append(index)
    return (chosen + [index for index in order if index not in chosen])[:_EACH]


def _digit(axes: Axes, image: Array, predicted: int, actual: int) -> None:
    axes.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(str(predicted), color=_RIGHT if predicted == actual else _WRONG, fontsize=15, fontweight="bold", pad=3)
    _frame(axes)


def _change(axes: Axes, change: Array, most: float) -> None:
    axes.imshow(change[0], cmap="RdBu_r", vmin=-most, vmax=most)
    axes.set_xlabel(f"L2 {np.sqrt((change**2).sum()):.2f}", fontsize=10, color=_FAINT, labelpad=3)
    _frame(axes)


def _frame(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#cccccc")


def _scale(figure: matplotlib.figure.Figure, beside: Axes, most: float) -> None:
    box = beside.get_position()
    axes = figure.add_axes((box.x1 + 0.012, box.y0, 0.008, box.height))
    bar = figure.colorbar(beside.images[0], cax=axes, ticks=[-most, 0, most])
    bar.ax.set_yticklabels([f"-{most:.2f}", "0", f"+{most:.2f}"], fontsize=9)
    bar.outline.set_visible(False)
