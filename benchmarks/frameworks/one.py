"""Measure one framework, in a process without the others: ``python -m benchmarks.frameworks.one NAME WEIGHTS``.

Progress and results are lines of JSON on stdout. The environment sets the numbers of threads, for this process and for the server
that it starts.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.cases import Repeats, cases
from benchmarks.contenders import gradwire
from benchmarks.contenders.contender import Contender, InThisProcess
from benchmarks.frameworks import weights as numbers
from benchmarks.frameworks.over_socket import over_socket
from benchmarks.frameworks.setup import OPERATIONS, Setup
from benchmarks.measure import TOLERANCE, Disagreement, check, measure
from gradwire.client import connect

_FEW_CALLS = Repeats(rounds=2, calls=1, settling=0)


def main(framework: str, weights: Path, quick: bool, only: list[str], say: Callable[[dict[str, Any]], None]) -> None:
    """Measures the models of a framework, and reports progress and results to ``say``."""
    setups: list[Setup] = importlib.import_module(f"benchmarks.frameworks.{framework}").setups(weights)
    for setup in setups:
        say({"model": setup.name, "neural": setup.same_outputs})
        _measure_model(framework, setup, weights, quick, only, say)


def _measure_model(
    framework: str, setup: Setup, weights: Path, quick: bool, only: list[str], say: Callable[[dict[str, Any]], None]
) -> None:
    with ExitStack() as stack:
        plain = stack.enter_context(setup.plain())
        least = stack.enter_context(over_socket(framework, setup, weights, plain.operations))
        art = [setup.art()] if setup.art else []
        ours = stack.enter_context(_gradwire(setup))
        chosen = [case for case in cases(quick, only) if case.operation in OPERATIONS and case.operation in plain.operations]
        say({"cases": sum(case.repeats.rounds for case in chosen)})
        if setup.same_outputs:
            _check_outputs(setup, plain, numbers.outputs(weights))
        for case in chosen:
            say({"doing": f"{case.title}, {case.rows}"})
            comparable = [] if case.operation in setup.not_arts or (setup.art_alone and case.rows > 1) else art
            check(case, [plain, least, ours, *comparable], setup.inputs)
            gc.collect()
            in_turns = [plain, least, ours, *([] if setup.art_alone else art)]
            measurements = measure(case, in_turns, lambda: say({"done": 1}), setup.inputs)
            if setup.art_alone:
                few = dataclasses.replace(case, repeats=_FEW_CALLS)
                measurements += measure(few, art, lambda: None, setup.inputs)
            say({"found": {"case": dataclasses.asdict(case), "measurements": [dataclasses.asdict(m) for m in measurements]}})
        say({"versions": {c.name: dict(c.versions) for c in (plain, ours, *art)}})


@contextmanager
def _gradwire(setup: Setup) -> Iterator[Contender]:
    models = "\n" + yaml.safe_dump([{"name": "model", **setup.keys}])
    with gradwire.serve(models, setup.environment) as address, connect(address) as server:
        estimator = server.estimator("model")
        functions = {
            **gradwire.functions(estimator),
            "activations_conv": lambda i: estimator.get_activations(i.x, setup.conv_layer),
        }
        versions = {name: version(name) for name in ("gradwire", "grpcio")}
        yield InThisProcess(gradwire.NAME, {name: functions[name] for name in OPERATIONS}, versions)


def _check_outputs(setup: Setup, plain: Contender, expected: Any) -> None:
    """Checks that the model is the same as in torch. Raises Disagreement if outputs differ."""
    outputs = plain.answer("predict", setup.inputs(numbers.ROWS))
    error = float(np.abs(outputs - expected).max() / np.abs(expected).max())
    if not error <= TOLERANCE:
        raise Disagreement(f"{setup.name}: outputs are off by {error:.1e} from torch's; at most {TOLERANCE:.0e}")


def _start() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--operation", action="append", default=[])
    asked = parser.parse_args()
    # Prints of libraries go to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=answers, flush=True)

    try:
        main(asked.framework, asked.weights, asked.quick, asked.operation, say)
    except Disagreement as e:
        say({"disagreement": str(e)})


if __name__ == "__main__":
    _start()
