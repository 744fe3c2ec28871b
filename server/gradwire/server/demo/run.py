"""Owner's half of the demo: makes and serves a model, and starts the attacker.

Server and attacker are processes of their own; the attacker receives only the address. The server ends with the demo, also
after an error.
"""

from __future__ import annotations

import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

# Found without an import, so that `gradwire --help` does not wait for torch.
for _name in ("torch", "safetensors", "sklearn", "art", "matplotlib"):
    if find_spec(_name) is None:
        raise ModuleNotFoundError(f"No module named {_name!r}", name=_name)

_YAML = """\
# Written by `gradwire demo`. Serve it again: gradwire serve {name}
listen: 127.0.0.1:0                # any free port; the server prints it
models:
  - name: digits                   # white box: predictions, losses, gradients
    backend: torch
    factory: gradwire.server.demo.model:digits_cnn
    weights: digits.safetensors
    loss: torch.nn.CrossEntropyLoss
    input_shape: [1, 8, 8]
    nb_classes: 10
    clip_values: [0.0, 1.0]
    channels_first: true
    access: gradients
  - name: digits-labels            # the same model as a black box: labels only
    same_as: digits
    access: labels
"""

_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 40
"""Longer than the server's drain_timeout_s."""


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the model, the configuration and the pictures.")] = Path("gradwire-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Use fewer images and weaker attacks, to finish sooner.")] = False,
) -> None:
    """Train a model, serve it, and attack it from another process; takes a minute or two.

    The attacker has only the address. FGSM and PGD use loss gradients, DeepFool class gradients, and HopSkipJump only the
    labels of a second, restricted view of the same model. Prints a table of each attack's cost and effect, and draws two
    pictures.
    """
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _exit_on_signal)
    _step(console, 1, "The owner trains a model")
    _train(console, out / "digits.safetensors")
    config = out / "demo.yaml"
    config.write_text(_YAML.format(name=config.name))
    console.print(f"wrote [cyan]{escape(str(config))}[/] and its weights", highlight=False)
    _step(console, 2, "... and serves it under two names")
    console.print(f"[dim]$[/] gradwire serve {escape(str(config))}", highlight=False)
    with _server(console, config, out / "server.log") as address:
        _step(console, 3, "An attacker has only the address")
        attacker = [sys.executable, "-m", "gradwire.client.demo", address, "--out", str(out), *(["--quick"] if quick else [])]
        console.print(f"[dim]$[/] python {escape(' '.join(attacker[1:]))}", highlight=False)
        code = _attack(attacker)
    if code:
        console.print(f"[red]error[/] the attacker ended with exit code {code}", highlight=False)
        raise typer.Exit(1)


def _step(console: Console, number: int, text: str) -> None:
    console.print()
    console.rule(f"[bold]{number}. {text}", align="left", style="dim")


def _train(console: Console, weights: Path) -> None:
    with console.status("importing torch and scikit-learn (a few seconds)"):
        from gradwire.server.demo import model
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[numbers]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training a CNN on 8x8 digits", total=model.EPOCHS, numbers="")

        def on_epoch(epoch: int, loss: float, accuracy: float) -> None:
            numbers = f"epoch {epoch}/{model.EPOCHS}, loss {loss:.3f}, accuracy {accuracy:.1%}"
            progress.update(task, advance=1, numbers=numbers)

        model.train(weights, on_epoch)


@contextmanager
def _server(console: Console, config: Path, log: Path) -> Iterator[str]:
    """Runs ``gradwire serve`` and yields its address. At the end sends SIGTERM and checks that the server drained."""
    command = [sys.executable, "-m", "gradwire.client.cli", "serve", str(config)]
    with log.open("w") as stderr:
        # Its own session: Ctrl-C goes to the demo, which ends the server.
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True)
    try:
        with console.status("starting the server"):
            address = _address(process)
        if address is None:
            console.print(f"[red]error[/] the server did not start; the end of {escape(str(log))}:", highlight=False)
            console.print(escape(log.read_text().strip()[-2000:]), highlight=False)
            raise typer.Exit(1)
        console.print(f"serving on [bold cyan]{address}[/] (pid {process.pid})", highlight=False)
        yield address
    finally:
        _stop(console, process)


def _address(process: subprocess.Popen[str]) -> str | None:
    """Waits for the line ``serving on ADDRESS (pid N)``, and returns the address; None if it does not come."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(_START_TIMEOUT_S) else ""
    return line.removeprefix("serving on ").split(" ")[0] if line.startswith("serving on ") else None


def _stop(console: Console, process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        code = process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    if code == 0:
        console.print("[dim]after SIGTERM, the server let its calls finish and ended with exit code 0[/]", highlight=False)
    else:
        console.print(f"[red]error[/] the server ended with exit code {code}", highlight=False)
        raise typer.Exit(1)


def _attack(command: list[str]) -> int:
    process = subprocess.Popen(command)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
