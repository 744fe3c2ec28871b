"""``gradwire tls``: an authority of one's own, and certificates of servers and clients. Running servers follow new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer
import yaml

from gradwire.server.commands.terminal import told
from gradwire.server.trust.identity.authority import Authority
from gradwire.server.values.principals import check_principal

app = typer.Typer(
    no_args_is_help=True,
    help="Make certificates for servers and clients, with an authority of your own.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Folder: TypeAlias = Annotated[Path, typer.Argument(help="Where the files are.", show_default=False)]
Hosts: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--host", help="A name or IP address that the server is reached under.", show_default="localhost, 127.0.0.1, ::1"),
]
Days: TypeAlias = Annotated[int, typer.Option(help="How long certificates are good for.", min=1, max=3650)]
Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


@app.command()
def init(
    folder: Folder,
    hosts: Hosts = None,
    clients: Annotated[list[str] | None, typer.Option("--client", help="Whom a client's certificate speaks for.")] = None,
    days: Days = 365,
    force: Force = False,
) -> None:
    """Make an authority, a server's certificate and clients', and show how to use them.

    Keys can be read by you alone; ca-key.pem signs new certificates, and no server and no client needs it.

    Example: gradwire tls init certs --host gpu-node --client alice
    """
    with told():
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
    """Make a new certificate for the server, in place of the old one. A running server takes it up within about a second.

    Example: gradwire tls server certs --host gpu-node
    """
    with told():
        Authority(folder).server(hosts or (), days)
    print(f"{folder / 'server.pem'} and {folder / 'server-key.pem'}, good for {days} days")


@app.command()
def client(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="Whom the certificate speaks for.", show_default=False)],
    days: Days = 365,
    force: Force = False,
) -> None:
    """Make a certificate for one more client.

    Example: gradwire tls client certs bob
    """
    with told():
        check_principal(name)
        _check_free(folder, [f"client-{name}"], force)
        Authority(folder).client(name, days)
    print(f"{folder / f'client-{name}.pem'} and {folder / f'client-{name}-key.pem'}, good for {days} days")


def _check_free(folder: Path, stems: tuple[str, ...] | list[str], force: bool) -> None:
    there = [path for stem in stems for path in (folder / f"{stem}.pem", folder / f"{stem}-key.pem") if path.exists()]
    if there and not force:
        raise ValueError(f"{', '.join(map(str, there))}: there already; choose another folder, or overwrite with --force")
