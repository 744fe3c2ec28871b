"""Command ``gradwire serve``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gradwire.server.config.reading import content_of, parse_config, read_text
from gradwire.server.errors import ConfigError
from gradwire.server.process.logs import log_to_stderr
from gradwire.server.process.serve import serve_until_signal
from gradwire.server.process.supervisor.device_process import Source
from gradwire.server.process.supervisor.supervisor import SupervisionFailed, configured_devices, supervise


def serve(
    config: Annotated[Path, typer.Argument(help="Configuration file (YAML).", show_default=False)],
    listen: Annotated[
        str | None, typer.Option(help="Override the file's listen: host:port or unix:PATH; port 0 is any free one.")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(help="Start a process for each, all at one address: all (GPUs), or names such as cuda:0,cuda:1, UUIDs, cpu."),
    ] = None,
    insecure: Annotated[bool, typer.Option(help="Allow a listener beyond loopback without authentication of callers.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="Override the file's engine: embedded, or ray (replicas on a Ray cluster).")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="Override the file's log_format: text or json.")] = None,
) -> None:
    """Serve models until SIGTERM or Ctrl-C, then let running calls finish.

    The file in its shortest form:

        models:
          - name: digits
            backend: torch
            factory: my_models:digits_cnn
            weights: digits.safetensors
            loss: torch.nn.CrossEntropyLoss
            input_shape: [1, 8, 8]
            nb_classes: 10

    Factories are imported from the file's folder first. Exit code 2: the file is wrong; the error on stderr names the key.
    """
    # The owner's code is in the folder of the file that names it.
    sys.path.insert(0, str(config.resolve().parent))
    given = {"listen": listen, "devices": devices, "insecure": insecure or None, "engine": engine, "log_format": log_format}
    changes = {key: value for key, value in given.items() if value is not None}
    try:
        text = read_text(config)
        content = content_of(text, config, **changes)
        if (names := configured_devices(content, str(config))) is not None:
            # Before any framework is imported: only the processes of the devices need them.
            log_to_stderr("json" if content.get("log_format") == "json" else "text")
            raise typer.Exit(supervise(Source(config, text, changes), names, _announce))
        parsed = parse_config(content, config.parent, str(config))
    except ConfigError as e:
        raise _exit(str(e)) from None
    except SupervisionFailed as e:
        raise _exit(str(e), e.exit_code) from None
    log_to_stderr(parsed.log_format)
    try:
        serve_until_signal(parsed, ready=_announce)
    except ConfigError as e:
        raise _exit(f"{config}: {e}") from None


def _exit(text: str, exit_code: int = 2) -> typer.Exit:
    Console(stderr=True, soft_wrap=True).print(f"[red]error[/] {escape(text)}", highlight=False)
    return typer.Exit(exit_code)


def _announce(address: str) -> None:
    """Prints a line on stdout that scripts can wait for."""
    print(f"serving on {address} (pid {os.getpid()})", flush=True)
