"""The group ``operations``: all operations of the small CNN, beside plain torch, ART, MLServer and requested peers."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import machine
from benchmarks.cases import cases
from benchmarks.contenders import mlserver as mlservers
from benchmarks.contenders.art import art
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.gradwire import gradwire
from benchmarks.contenders.peers import PEERS
from benchmarks.contenders.plain import plain
from benchmarks.figures.figure import Figure
from benchmarks.measure import summary
from benchmarks.operations.goals import Rounds, beside_art, beside_plain, overheads
from benchmarks.operations.turns import in_turns
from benchmarks.plot import plot
from benchmarks.report import Result, Run, show, write_json, write_markdown
from benchmarks.setting import Setting

GROUP = "operations"


def measure(setting: Setting) -> list[Figure]:
    """Measures the figures, and writes the table of all operations beside theirs."""
    chosen = cases(setting.quick, list(setting.operations))
    facts = machine.facts()
    with ExitStack() as stack:
        contenders: list[Contender] = [stack.enter_context(plain()), stack.enter_context(art()), stack.enter_context(gradwire())]
        peers: list[Contender] = []
        if setting.mlserver:
            peers += stack.enter_context(mlservers.mlserver())
        for peer in setting.peers:
            peers += stack.enter_context(PEERS[peer]())
        contenders += peers
        rounds_s = in_turns(chosen, contenders, setting.console)
        versions = {contender.name: contender.versions for contender in contenders}
    for of in versions.values():
        setting.versions.update(of)
    results = [Result(case, [summary(name, of) for name, of in rounds_s[case].items()]) for case in chosen]
    found = Run(facts, versions, setting.quick, results)
    write_json(found, setting.out / "operations.json")
    write_markdown(found, setting.out / "latest.md")
    plot(found, setting.out / "latest.png")
    show(found, setting.console)
    rounds = [Rounds.of(case, rounds_s[case]) for case in chosen]
    return [
        *(figure for of in rounds for figure in overheads(of, [peer.name for peer in peers])),
        *(figure for of in rounds for figure in beside_art(of, GROUP, "CNN")),
        *(figure for of in rounds for figure in beside_plain(of, GROUP, "CNN")),
    ]
