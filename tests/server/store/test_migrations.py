"""The tables: made from nothing, migrated from older versions, by several servers at once, and never by an older program."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from commands import environment
from sqlalchemy import text

from gradwire.server.store import Store, StoreConfigError, StoredGrant
from gradwire.server.store import migrate as migration
from gradwire.server.store.database import Database
from gradwire.server.store.schema import VERSION, metadata

OPEN = """
import sys
from gradwire.server.store import Store
sys.stdin.readline()
with Store.open(sys.argv[1]) as store:
    print(store.grants_generation(), "alembic" in sys.modules)
"""
NEXT = """
from alembic import op
import sqlalchemy as sa
revision = "0002"
down_revision = "0001"
branch_labels = depends_on = None
def upgrade():
    op.add_column("usage", sa.Column("colour", sa.Text, nullable=True))
"""


def alembic(connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(migration.MIGRATIONS))
    return config


def test_the_migrations_lead_from_nothing_to_the_tables_as_they_are(url):
    database = Database(url)
    database.write(lambda connection: command.upgrade(alembic(connection), "head"))
    with database.read() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == VERSION
        assert compare_metadata(context, metadata) == []
    with Store.open(url) as store:
        assert store.grants_generation() == 0
    database.close()


def test_the_migrations_lead_back_to_nothing(url):
    Store.open(url).close()
    database = Database(url)
    database.write(lambda connection: command.downgrade(alembic(connection), "base"))
    with database.read() as connection:
        assert MigrationContext.configure(connection).get_current_revision() is None
    Store.open(url).close()
    database.close()


def test_opening_again_changes_nothing(url):
    with Store.open(url) as store:
        store.put_grant(StoredGrant("alice", "digits", "scores"))
    with Store.open(url) as store:
        assert [grant.principal for grant in store.grants().grants] == ["alice"]


def test_several_processes_open_a_new_database_at_the_same_time_and_none_needs_alembic(url):
    command = [sys.executable, "-c", OPEN, url]
    running = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
        for _ in range(2)
    ]
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in running:
        out, err = process.communicate(timeout=100)
        assert out == "0 False\n", err


def test_an_older_database_is_migrated_once_by_servers_that_start_at_the_same_time(url, tmp_path, monkeypatch):
    with Store.open(url) as store:
        store.put_grant(StoredGrant("alice", "digits", "scores"))
    folder = tmp_path / "50% more"
    shutil.copytree(migration.MIGRATIONS, folder)
    (folder / "versions" / "v0002_colours.py").write_text(NEXT)
    monkeypatch.setattr(migration, "MIGRATIONS", folder)
    monkeypatch.setattr(migration.schema, "VERSION", "0002")
    with pytest.raises(StoreConfigError, match="of version 0001, and this program needs 0002; start a server on it once"):
        Store.open(url, create=False)
    failed = []

    def open_it() -> None:
        try:
            with Store.open(url) as store:
                assert len(store.grants().grants) == 1
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=open_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    database = Database(url)
    with database.read() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "0002"
        assert connection.execute(text("SELECT colour FROM usage")).all() == []
    database.close()


def test_a_newer_database_is_refused(url):
    Store.open(url).close()
    database = Database(url)
    database.write(lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    database.close()
    with pytest.raises(StoreConfigError, match="of version 9999, which is newer than this program's, 0001; install"):
        Store.open(url)


def test_a_database_of_another_program_is_refused_and_left_alone(url):
    database = Database(url)
    database.write(lambda connection: connection.execute(text("CREATE TABLE calls (number INTEGER)")))
    with pytest.raises(StoreConfigError, match=r"tables of another program \(calls\); name an empty database"):
        Store.open(url)
    with database.read() as connection:
        assert connection.execute(text("SELECT number FROM calls")).all() == []
    database.close()


def test_the_migrations_are_part_of_the_package():
    here = Path(migration.__file__).parent / "migrations"
    assert (here / "env.py").exists()
    assert (here / "script.py.mako").exists()
    assert [path.name for path in sorted((here / "versions").glob("v*.py"))][-1].startswith(f"v{VERSION}_")
