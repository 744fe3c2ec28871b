"""Times of loss gradients and of an attack over a slow link, with and without codecs, in turns."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from art.attacks.evasion import ProjectedGradientDescent
from rich.console import Console

from benchmarks import machine
from benchmarks.contenders.gradwire import serve
from benchmarks.link.models import SHAPES, yaml
from benchmarks.link.relay import slow_link
from benchmarks.model import NB_CLASSES, Array
from benchmarks.setting import RESULTS
from gradwire.client import Codecs, RemoteEstimator, connect
from gradwire.client.art import art_estimator

WAYS = {
    "as they are": Codecs(),
    "both float16": Codecs(inputs="float16", gradients="float16"),
    "gradients sign": Codecs(gradients="sign"),
    "inputs bfloat16, gradients sign": Codecs(inputs="bfloat16", gradients="sign"),
}

STEPS = 40


@dataclass(frozen=True)
class Case:
    """A call or an attack to time.

    Attributes:
        model: Name of the model.
        rows: Rows of a call.
        attack: True for PGD in place of one loss gradient.
        rounds: Turns of each way.
    """

    model: str
    rows: int
    attack: bool
    rounds: int

    @property
    def title(self) -> str:
        """Its title in the table."""
        shape = " x ".join(map(str, SHAPES[self.model]))
        return f"{f'PGD-{STEPS}' if self.attack else 'loss gradient'}, {self.rows} x {shape}"


CASES = [
    Case("28", 1, False, 15),
    Case("28", 32, False, 15),
    Case("28", 128, False, 7),
    Case("224", 1, False, 5),
    Case("224", 32, False, 2),
    Case("28", 32, True, 3),
    Case("224", 1, True, 2),
    Case("224", 128, False, 2),
]


def inputs(case: Case) -> tuple[Array, Array]:
    """Makes rows and labels; the same every time."""
    generator = np.random.default_rng(case.rows)
    return generator.random((case.rows, *SHAPES[case.model]), np.float32), generator.integers(0, NB_CLASSES, case.rows)


def asked(remote: RemoteEstimator, case: Case) -> Callable[[], Array]:
    """Makes the function to time."""
    x, y = inputs(case)
    if not case.attack:
        return lambda: remote.loss_gradient(x, y)
    attack = ProjectedGradientDescent(
        art_estimator(remote), eps=0.1, eps_step=0.01, max_iter=STEPS, batch_size=case.rows, verbose=False
    )
    return lambda: attack.generate(x, np.eye(NB_CLASSES)[y])  # type: ignore[no-any-return]  # ART has no types


def measured(server: Any, case: Case) -> dict[str, list[float]]:
    """Measures the seconds of each call, by way. Raises AssertionError if signs are not those of the gradient."""
    remote = server.estimator(case.model)
    x, y = inputs(Case(case.model, 1, False, 1))
    functions = {}
    for way, codecs in WAYS.items():
        changed = remote.with_codecs(inputs=codecs.inputs, gradients=codecs.gradients)
        changed.loss_gradient(x, y)  # opens the stream
        functions[way] = asked(changed, case)
    times_s: dict[str, list[float]] = {way: [] for way in WAYS}
    order, answers = random.Random(0), {}
    for _ in range(case.rounds):
        for way in order.sample(list(WAYS), len(WAYS)):
            begin_s = time.perf_counter()
            answers[way] = functions[way]()
            times_s[way].append(time.perf_counter() - begin_s)
    plain, signs = answers["as they are"], answers["gradients sign"]
    np.testing.assert_array_equal(signs, plain if case.attack else np.sign(plain))
    return times_s


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Formats the fastest of the calls in markdown: other work of the machine only makes such short calls slower."""
    lines = [f"| seconds | {' | '.join(WAYS)} |", f"|---|{'--:|' * len(WAYS)}"]
    for title, times_s in found.items():
        lines.append(f"| {title} | {' | '.join(f'{min(times_s[way]):.3g}' for way in WAYS)} |")
    return "\n".join(lines)


def run(
    mbit_per_s: Annotated[float, typer.Option(help="Of the link, in each direction.")] = 20.0,
    rtt_ms: Annotated[float, typer.Option(help="Of the link, there and back.")] = 50.0,
    most_mb: Annotated[float, typer.Option(help="Leaves out calls with more megabytes of rows.")] = 1000.0,
    out: Annotated[Path, typer.Option(help="Where results go.")] = RESULTS,
) -> None:
    """Compare codecs on a slow link, emulated by a relay in user space. Takes some ten minutes."""
    console, facts, found = Console(), machine.facts(), {}
    with serve(yaml()) as address, slow_link(address, mbit_per_s, rtt_ms) as near, connect(near, same_host=False) as server:
        for case in CASES:
            if inputs(case)[0].nbytes <= most_mb * 1e6:
                found[case.title] = measured(server, case)
                console.print(case.title, {way: round(min(times), 3) for way, times in found[case.title].items()})
    link = {"mbit_per_s": mbit_per_s, "rtt_ms": rtt_ms}
    (out / "link.json").write_text(json.dumps({"machine": facts, "link": link, "seconds": found}, indent=1) + "\n")
    console.print(table(found), f"written: {out / 'link.json'}", sep="\n\n", highlight=False)


if __name__ == "__main__":
    typer.run(run)
