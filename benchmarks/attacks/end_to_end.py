"""The group ``attacks``: whole attacks on a remote estimator, beside the same on ART's own estimator."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from benchmarks.attacks.attacker import CALLS, Counted
from benchmarks.attacks.catalogue import ATTACKS, Attack
from benchmarks.attacks.model import fitted, save, victims
from benchmarks.contenders import gradwire as ours
from benchmarks.contenders.remote import Remote, client
from benchmarks.figures.figure import Figure
from benchmarks.figures.rounds import spread
from benchmarks.measure import Disagreement
from benchmarks.model import Array, Inputs
from benchmarks.setting import Setting
from benchmarks.subject import CNN

GROUP = "attacks"
_ART = "ART in process"
_CALLS_APART = 0.1
"""Allowed difference of the numbers of calls: rounding decides on HopSkipJump's path at a boundary, which is chaotic."""
_FOOLED_APART = 0.15
"""Allowed difference of the shares of images that fool the model."""


def measure(setting: Setting) -> list[Figure]:
    """Measures all attacks, on both estimators in turns."""
    rounds = 2 if setting.quick else 9
    figures = []
    with TemporaryDirectory(prefix="gradwire-bench-") as name:
        weights, log = Path(name) / "cnn.safetensors", Path(name) / "log"
        save(weights)
        module = fitted(weights)
        attacker = [sys.executable, "-m", "benchmarks.attacks.attacker", str(weights)]
        with (
            ours.served(ours.model(CNN, f"weights: {weights}")) as server,
            client(attacker, log, _ART) as local,
            client([*attacker, server.address], log, ours.NAME) as remote,
        ):
            both = []
            for name, pipe in ((_ART, local), (ours.NAME, remote)):
                pipe.ready()
                setting.versions.update(pipe.versions)
                both.append(Remote(name, "attack", pipe, tuple(ATTACKS)))
            for operation, attack in ATTACKS.items():
                x, y = victims(module, attack.rows)
                given = Inputs(x=x, y=y, one_hot=x[:, :0], cotangent=x[:, :0], batch_size=attack.rows)
                calls = _check(operation, attack, both, given, module)
                times_s: dict[str, list[float]] = {one.name: [] for one in both}
                for number in range(rounds):
                    setting.console.print(f"[dim]{attack.title}: round {number + 1} of {rounds}[/dim]")
                    for one in both if number % 2 else both[::-1]:
                        times_s[one.name] += one.times_s(operation, given, 1)
                figures.append(_figure(attack, times_s, calls))
    return figures


def _figure(attack: Attack, times_s: dict[str, list[float]], calls: Array) -> Figure:
    mine, theirs = times_s[ours.NAME], times_s[_ART]
    made = ", ".join(f"{count:,} of {name}" for name, count in zip(Counted.METHODS, calls, strict=True) if count)
    return Figure(
        GROUP,
        attack.title,
        "s",
        float(np.median(mine)),
        _ART,
        float(np.median(theirs)),
        attack.goal,
        spread(mine, theirs),
        f"{attack.title}: {made}",
    )


def _check(operation: str, attack: Attack, both: list[Remote], given: Inputs, module: nn.Sequential) -> Array:
    """Counts the remote attack's calls. Raises Disagreement if the two attacks differ in calls or in success."""
    fooled, calls = [], []
    for one in both:
        adversarial = one.answer(operation, given)
        with torch.inference_mode():
            classes = module(torch.from_numpy(adversarial)).argmax(1).numpy()
        fooled.append(float((classes != given.y).mean()))
        calls.append(one.answer(CALLS, given))
    theirs, mine = (int(of.sum()) for of in calls)
    # ART's own PGD for torch does not go through these methods.
    if theirs > mine * _CALLS_APART and abs(mine - theirs) > _CALLS_APART * mine:
        raise Disagreement(f"{attack.title}: {mine} calls of the remote estimator, {theirs} of ART's; expected about equal numbers")
    if abs(fooled[0] - fooled[1]) > _FOOLED_APART:
        raise Disagreement(f"{attack.title}: {fooled[1]:.0%} of the images fool the model remotely, {fooled[0]:.0%} in process")
    return calls[-1]
