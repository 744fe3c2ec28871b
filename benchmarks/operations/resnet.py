"""The group ``resnet``: all operations of a ResNet18, beside ART and plain torch."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from benchmarks.cases import resnet_cases
from benchmarks.contenders.art import art
from benchmarks.contenders.gradwire import gradwire
from benchmarks.contenders.plain import plain
from benchmarks.figures.figure import Figure
from benchmarks.operations.goals import Rounds, beside_art
from benchmarks.operations.turns import in_turns
from benchmarks.setting import Setting
from benchmarks.subject import RESNET

GROUP = "resnet"


def measure(setting: Setting) -> list[Figure]:
    """Measures the figures."""
    chosen = resnet_cases(setting.quick, list(setting.operations))
    with ExitStack() as stack:
        contenders = [stack.enter_context(partial(make, RESNET)()) for make in (plain, art, gradwire)]
        rounds_s = in_turns(chosen, contenders, setting.console, RESNET.inputs)
        for contender in contenders:
            setting.versions.update(contender.versions)
    return [figure for case in chosen for figure in beside_art(Rounds.of(case, rounds_s[case]), GROUP, RESNET.title)]
