"""``gradwire serve``."""

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
from gradwire.server.process.devices.process import Source
from gradwire.server.process.devices.supervisor import Failed, devices_of, supervise
from gradwire.server.process.logs import log_to_stderr
from gradwire.server.process.serve import serve_until_signal


def serve(
    config: Annotated[Path, typer.Argument(help="The YAML file that says what to serve.", show_default=False)],
    listen: Annotated[str | None, typer.Option(help="host:port or unix:PATH in place of the file's; port 0: any free one.")] = None,
    devices: Annotated[
        str | None,
        typer.Option(help="A process for each, all at one address: all (GPUs), or names such as cuda:0,cuda:1, UUIDs, cpu."),
    ] = None,
    insecure: Annotated[bool, typer.Option(help="Allow a listener that is not loopback although anybody may call.")] = False,
    engine: Annotated[str | None, typer.Option(help="embedded, or ray: replicas on a Ray cluster; in place of the file's.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json, in place of the file's.")] = None,
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

    The factory is looked up in the file's folder first. Exit code 2: the file is wrong, and stderr says where.
    """
    # The owner's code lies beside the file that names it.
    sys.path.insert(0, str(config.resolve().parent))
    given = {"listen": listen, "devices": devices, "insecure": insecure or None, "engine": engine, "log_format": log_format}
    changes = {key: value for key, value in given.items() if value is not None}
    try:
        text = read_text(config)
        content = content_of(text, config, **changes)
        if (names := devices_of(content, str(config))) is not None:
            # Before anything is imported that a model needs: frameworks are for the processes of the devices.
            log_to_stderr("json" if content.get("log_format") == "json" else "text")
            raise typer.Exit(supervise(Source(config, text, changes), names, _announce))
        parsed = parse_config(content, config.parent, str(config))
    except ConfigError as e:
        raise _wrong(str(e)) from None
    except Failed as e:
        raise _wrong(str(e), e.exit_code) from None
    log_to_stderr(parsed.log_format)
    try:
        serve_until_signal(parsed, ready=_announce)
    except ConfigError as e:
        raise _wrong(f"{config}: {e}") from None


def _wrong(text: str, exit_code: int = 2) -> typer.Exit:
    Console(stderr=True, soft_wrap=True).print(f"[red]error[/] {escape(text)}", highlight=False)
    return typer.Exit(exit_code)


def _announce(address: str) -> None:
    """One line on stdout that a script can wait for."""
    print(f"serving on {address} (pid {os.getpid()})", flush=True)
