"""A PostgreSQL server of the tests' own, which a test may stop and start."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import programs
import pytest

PASSWORD = "corr3ct-horse"


def postgres_binaries() -> Path | None:
    """The folder of PostgreSQL's programs, where a system keeps them."""
    found = shutil.which("pg_ctl")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "initdb").exists()), None)


@dataclass
class Postgres:
    """A server on loopback whose data lie in a folder of their own."""

    binaries: Path
    folder: Path
    port: int
    user: str | None

    def run(self, program: str, *arguments: str) -> None:
        # PostgreSQL refuses to run as root.
        subprocess.run(
            [str(self.binaries / program), *arguments],
            user=self.user, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, cwd="/",
        )  # fmt: skip

    def make(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self.user:
            for path in (self.folder, secret):
                os.chown(path, pwd.getpwnam(self.user).pw_uid, -1)
        self.run(
            "initdb", "-D", str(self.folder / "data"), "-U", "gradwire", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync",
            "-E", "UTF8", "--locale=C",
        )  # fmt: skip

    def start(self) -> None:
        # No fsync: what the tests kill is never the machine.
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=60"
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    def url(self, user: str = "gradwire", password: str = PASSWORD, database: str = "postgres") -> str:
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def new(self) -> str:
        """The URL of a new user, whose tables are in a schema of its own: the same as a new database, but for 300 files."""
        import psycopg
        from psycopg.sql import SQL, Identifier, Literal

        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(
            host="127.0.0.1", port=self.port, user="gradwire", password=PASSWORD, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(Identifier(name), Literal(PASSWORD)))
            connection.execute(SQL("CREATE SCHEMA AUTHORIZATION {}").format(Identifier(name)))
        return self.url(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    binaries = postgres_binaries() or Path(programs.need("initdb")).parent
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    user = None
    if os.geteuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in names), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
    folder = Path(tempfile.mkdtemp(prefix="gradwire-pg-"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    server = Postgres(binaries, folder, port, user)
    server.make()
    server.start()
    try:
        yield server
    finally:
        # At once: what it would still write is removed in the next line.
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)
