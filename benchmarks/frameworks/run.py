"""Measure gradwire beside the plain code of each framework: ``python -m benchmarks.frameworks.run``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import machine
from benchmarks.cases import Case, Repeats
from benchmarks.frameworks import weights as numbers
from benchmarks.frameworks.mxnet import PROGRAMS as MXNET
from benchmarks.frameworks.report import Model, Run, show, write_json, write_markdown
from benchmarks.measure import Measurement
from benchmarks.report import Result
from benchmarks.setting import RESULTS

_ROOT = Path(__file__).resolve().parents[2]
_FRAMEWORKS = ("torch", "tensorflow", "keras", "tensorflow_v1", "jax", "mxnet", "sklearn")

_ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # TensorFlow, between operations and inside of them.
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    # JAX, whose pools are as large as NPROC says.
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "NPROC": "1",
    "JAX_PLATFORMS": "cpu",
    "KERAS_BACKEND": "tensorflow",
    "MXNET_CPU_WORKER_NTHREADS": "1",
}
"""Environment of all processes that compute, servers included."""


def run(
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the calls; to try things out.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(_FRAMEWORKS)}; may be repeated.")] = None,
    operation: Annotated[list[str] | None, typer.Option(help="Operations whose name contains this; may be repeated.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where results go; benchmarks/results for a whole run, a temporary folder for another.")
    ] = None,
) -> None:
    """Compare gradwire with plain code written by hand. Exit code 1: a framework failed, or results differ."""
    console = Console()
    out = out or (Path(tempfile.gettempdir()) / "gradwire-benchmarks" if quick or only or operation else RESULTS)
    unknown = [name for name in only or [] if name not in _FRAMEWORKS]
    if unknown:
        raise typer.BadParameter(f"unknown framework: {', '.join(unknown)}; choose from {', '.join(_FRAMEWORKS)}")
    facts = machine.facts()
    models: list[Model] = []
    failures: dict[str, str] = {}
    skipped: dict[str, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="gradwire-bench-") as folder,
        Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress,
    ):
        weights = Path(folder) / "cnn.npz"
        numbers.save(weights)
        for framework in only or _FRAMEWORKS:
            if framework == "mxnet" and not (MXNET / "python").exists():
                skipped[framework] = f"{MXNET.parent} does not exist; make env makes it"
                continue
            task = progress.add_task(f"{framework}: starting", total=None)
            found, failure = _measured(framework, weights, quick, operation or [], progress, task)
            models += found
            if failure:
                failures[framework] = failure
                progress.console.print(f"[red]error[/red] {framework}: {failure}", highlight=False)
            progress.remove_task(task)
    of_all = Run(facts, quick, models, {**failures, **skipped})
    out.mkdir(parents=True, exist_ok=True)
    write_json(of_all, out / "frameworks.json")
    write_markdown(of_all, out / "frameworks.md")
    show(of_all, console)
    console.print(f"written: {out / 'frameworks.json'} and frameworks.md", highlight=False)
    if failures:
        raise typer.Exit(1)


def _measured(
    framework: str, weights: Path, quick: bool, operations: list[str], progress: Progress, task: TaskID
) -> tuple[list[Model], str]:
    """Measures the models of a framework; returns them and an error, empty if there was none."""
    command = [sys.executable, "-m", "benchmarks.frameworks.one", framework, str(weights), *(["--quick"] if quick else [])]
    command += [part for name in operations for part in ("--operation", name)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=_ROOT, env={**os.environ, **_ONE_THREAD}, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            assert process.stdout is not None
            models, failure = _read(process.stdout, progress, task)
            if process.wait() and not failure:
                log.seek(0)
                failure = f"its process ended with {process.returncode}:\n{log.read()[-4000:]}"
        finally:
            process.terminate()
            process.wait()
    return models, failure


def _read(lines: IO[str], progress: Progress, task: TaskID) -> tuple[list[Model], str]:
    """Reads the output of a process of `benchmarks.frameworks.one` until it ends."""
    models: list[Model] = []
    failure = ""
    for line in lines:
        said = json.loads(line)
        if "model" in said:
            models.append(Model(said["model"], said["neural"]))
        elif "cases" in said:
            progress.reset(task, total=said["cases"])
        elif "doing" in said:
            progress.update(task, description=f"{models[-1].name}: {said['doing']}")
        elif "done" in said:
            progress.advance(task)
        elif "found" in said:
            models[-1].results.append(_result(said["found"]))
        elif "versions" in said:
            models[-1].versions = said["versions"]
        elif "disagreement" in said:
            failure = said["disagreement"]
    return [model for model in models if model.results], failure


def _result(found: dict[str, Any]) -> Result:
    case = found["case"]
    measurements = [Measurement(**measurement) for measurement in found["measurements"]]
    return Result(Case(case["operation"], case["rows"], Repeats(**case["repeats"])), measurements)


if __name__ == "__main__":
    typer.run(run)
