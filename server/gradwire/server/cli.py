"""``gradwire serve``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gradwire.server.config import ConfigError, read_config
from gradwire.server.logs import log_to_stderr
from gradwire.server.serve import serve_until_signal


def serve(
    config: Annotated[Path, typer.Argument(help="The YAML file that says what to serve.", show_default=False)],
    listen: Annotated[str | None, typer.Option(help="host:port or unix:PATH in place of the file's; port 0: any free one.")] = None,
    insecure: Annotated[bool, typer.Option(help="Allow a listener that is not loopback although anybody may call.")] = False,
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
    changes = {"listen": listen, "insecure": insecure or None, "log_format": log_format}
    try:
        parsed = read_config(config, **{key: value for key, value in changes.items() if value is not None})
    except ConfigError as e:
        raise _wrong(str(e)) from None
    log_to_stderr(parsed.log_format)
    try:
        serve_until_signal(parsed, ready=_announce)
    except ConfigError as e:
        raise _wrong(f"{config}: {e}") from None


def _wrong(text: str) -> typer.Exit:
    Console(stderr=True, soft_wrap=True).print(f"[red]error[/] {escape(text)}", highlight=False)
    return typer.Exit(2)


def _announce(address: str) -> None:
    """One line on stdout that a script can wait for."""
    print(f"serving on {address} (pid {os.getpid()})", flush=True)
