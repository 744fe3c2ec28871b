"""Command ``gradwire``: runs the commands installed under the entry point group ``gradwire.commands``.

A command is a plain function with typer annotations, or a group of them (a ``typer.Typer``). This file imports none of them by
name, so that commands of the client, of the server and of other packages do not import one another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

GROUP = "gradwire.commands"

_ABOUT = """Use remote models: predictions, losses, gradients, activations and fits over gRPC.

[dim]$[/] gradwire demo                        [dim]run the demo: a server, an attacker, tables, pictures[/]
[dim]$[/] gradwire serve digits.yaml           [dim]serve the models of a configuration file[/]
[dim]$[/] gradwire models gpu-node:50051       [dim]list the models that you may use[/]
[dim]$[/] gradwire check gpu-node:50051 digits [dim]check a model and its gradients[/]
[dim]$[/] gradwire bench gpu-node:50051 digits [dim]measure latency and throughput[/]

From Python: [bold]from gradwire.client import connect[/], then [bold]connect("gpu-node:50051").estimator("digits")[/].
"""


def main() -> None:
    """Runs the command that the arguments name."""
    points = {point.name: point for point in entry_points(group=GROUP)}
    try:
        import typer  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("error: gradwire's commands need typer and rich, which are not installed: pip install 'gradwire[cli]'")
    # Load only the requested command: loading the server's takes a second that `gradwire models` need not spend.
    requested = [points[argument] for argument in sys.argv[1:2] if argument in points]
    build(requested or points.values())(prog_name="gradwire")


def build(points: Iterable[EntryPoint]) -> typer.Typer:
    """Builds an app of the commands of entry points. A command that cannot be imported prints what to install."""
    import typer
    from rich.markup import escape

    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(help=_ABOUT.replace("\n[dim]$", "\n\b\n[dim]$", 1))
    def _(
        show_version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
    ) -> None: ...

    for point in points:
        try:
            command = point.load()
        except ModuleNotFoundError as e:
            text = what_to_install(point, e)
            settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
            app.command(point.name, help=f"[dim]{escape(text)}[/]", context_settings=settings)(
                _not_installed(f"{point.name} {text}")
            )
        else:
            if isinstance(command, typer.Typer):
                app.add_typer(command, name=point.name)
            else:
                app.command(point.name)(command)
    return app


def what_to_install(point: EntryPoint, error: ModuleNotFoundError) -> str:
    """Returns the hint for a command that cannot be imported. Its entry point names the extra: ``module:function [extra]``."""
    package = point.dist.name if point.dist is not None else "its package"
    extras = f"[{','.join(point.extras)}]" if point.extras else ""
    return f"needs {error.name}, which is not installed: pip install '{package}{extras}'"


def _not_installed(text: str) -> Callable[[], None]:
    def command() -> None:
        sys.stderr.write(f"error: {text}\n")
        sys.exit(2)

    return command


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gradwire {version('gradwire')}")
        sys.exit(0)


if __name__ == "__main__":
    main()
