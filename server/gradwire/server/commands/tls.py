"""Command ``gradwire tls``: a private certificate authority, and certificates of servers and clients.

Running servers reload new certificates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer
import yaml

from gradwire.server.commands.terminal import exit_on_error
from gradwire.server.trust.identity.authority import Authority
from gradwire.server.values.principals import check_principal

app = typer.Typer(
    no_args_is_help=True,
    help="Make certificates for servers and clients, with a private authority.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Folder: TypeAlias = Annotated[Path, typer.Argument(help="Folder of the certificates and keys.", show_default=False)]
Hosts: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--host", help="Host name or IP address of the server; repeatable.", show_default="localhost, 127.0.0.1, ::1"),
]
Days: TypeAlias = Annotated[int, typer.Option(help="Validity of certificates in days.", min=1, max=3650)]
Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Overwrite existing files.")]


@app.command()
def init(
    folder: Folder,
    hosts: Hosts = None,
    clients: Annotated[list[str] | None, typer.Option("--client", help="Name of a client; repeatable.")] = None,
    days: Days = 365,
    force: Force = False,
) -> None:
    """Make an authority and certificates for a server and clients, and print the configuration that uses them.

    Only you can read the keys. ca-key.pem signs new certificates; servers and clients do not need it.

    Example: gradwire tls init certs --host gpu-node --client alice
    """
    with exit_on_error():
        for name in clients or ():
            check_principal(name)
        stems = ("ca", "server", *(f"client-{name}" for name in clients or ()))
        _check_free(folder, stems, force)
        authority = Authority.make(folder)
        authority.server(hosts or (), days)
        for name in clients or ():
            authority.client(name, days)
    here = folder.resolve()
    host = (hosts or ["127.0.0.1"])[0]
    config: dict[str, dict[str, str]] = {"tls": {"certificate": f"{here}/server.pem", "key": f"{here}/server-key.pem"}}
    call = f"{f'[{host}]:50051' if ':' in host else f'{host}:50051'!r}, tls={f'{here}/ca.pem'!r}"
    whose = "a client"
    if clients:
        whose = clients[0]
        config["identity"] = {"client_ca": f"{here}/ca.pem"}
        call += f", certificate={(f'{here}/client-{whose}.pem', f'{here}/client-{whose}-key.pem')!r}"
    print("# In the server's YAML file:")
    print(yaml.safe_dump(config, sort_keys=False, width=10_000))
    print(f"# In {whose}'s Python:\nconnect({call})")


@app.command()
def server(folder: Folder, hosts: Hosts = None, days: Days = 365) -> None:
    """Replace the server's certificate. A running server reloads it within about a second.

    Example: gradwire tls server certs --host gpu-node
    """
    with exit_on_error():
        Authority(folder).server(hosts or (), days)
    print(f"{folder / 'server.pem'} and {folder / 'server-key.pem'}, valid for {days} days")


@app.command()
def client(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Name of the client.", show_default=False)],
    days: Days = 365,
    force: Force = False,
) -> None:
    """Make a certificate for another client.

    Example: gradwire tls client certs bob
    """
    with exit_on_error():
        check_principal(name)
        _check_free(folder, [f"client-{name}"], force)
        Authority(folder).client(name, days)
    print(f"{folder / f'client-{name}.pem'} and {folder / f'client-{name}-key.pem'}, valid for {days} days")


def _check_free(folder: Path, stems: tuple[str, ...] | list[str], force: bool) -> None:
    existing = [path for stem in stems for path in (folder / f"{stem}.pem", folder / f"{stem}-key.pem") if path.exists()]
    if existing and not force:
        raise ValueError(f"already exists: {', '.join(map(str, existing))}; choose another folder, or overwrite with --force")
