"""Failures of databases, and the errors that operators get."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import traceback

import pytest
from commands import environment
from sqlalchemy import event, text

from gradwire.server.store import BudgetLimits, CallRecord, Store, StoreConfigError, StoreUnavailable
from gradwire.server.store import database as databases
from gradwire.server.store.database import Database
from gradwire.server.values.rows import Rows

ANY = BudgetLimits(max_forward=10**9)
CALL = CallRecord(1, "s", "alice", "digits", "v1", "predict", 1, 1, 0, "OK", 5, "id" * 100)
FILL = """
import resource, sys
from gradwire.server.store import CallRecord, Store, StoreUnavailable
call = CallRecord(1, "s", "alice", "digits", "v1", "predict", 1, 1, 0, "OK", 5, "id" * 100)
with Store.open(sys.argv[1]) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    number = 0
    try:
        while True:
            number += 1
            store.write_calls([call] * 500, [], writer="w", number=number)
    except StoreUnavailable as e:
        print(number, store.count_calls(), store.usage()[0].rows.forward, e.uncertain, e)
"""


def take(store: Store) -> None:
    store.take("alice", "digits", Rows(1, 0), Rows(1, 0), ANY, time.time())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "is invalid; expected sqlite:///FILE or postgresql"),
        ("mysql://root:s3cret@db/gradwire", "of an unsupported kind; expected sqlite:///FILE"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("postgresql+asyncpg://u:s3cret@db/x", "of an unsupported kind"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url, message):
    with pytest.raises(StoreConfigError, match=message) as caught:
        Store.open(url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_driver_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(databases, "find_spec", lambda name: None)
    with pytest.raises(StoreConfigError, match=r"needs psycopg, which is not installed: pip install 'gradwire\[postgres\]'"):
        Store.open("postgresql://user@db/gradwire")


def test_sqlite_keeps_a_file_for_its_owner_alone_in_a_folder_that_it_makes(tmp_path):
    file = tmp_path / "deep" / "er" / "gradwire.db"
    with Store.open(f"sqlite:///{file}") as store:
        take(store)
        for path in file.parent.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert len(list(file.parent.iterdir())) == 3


def test_sqlite_logs_ahead_and_waits_for_the_disk(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/gradwire.db")
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    database.close()


def test_what_is_only_to_be_read_is_not_made(tmp_path):
    with pytest.raises(StoreConfigError, match=r"nothing\.db does not exist; start a server, which creates it"):
        Store.open(f"sqlite:///{tmp_path}/nothing.db", create=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreConfigError, match="file/gradwire.db cannot be opened: (Not a directory|File exists)"):
        Store.open(f"sqlite:///{tmp_path}/file/gradwire.db")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "letter.db"
    file.write_text("Dear Sir or Madam, " * 100)
    with pytest.raises(StoreUnavailable, match="the file is not a database .* move it away"):
        Store.open(f"sqlite:///{file}")
    assert file.read_text().startswith("Dear Sir")


def test_a_lock_that_is_held_too_long_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(databases, "LOCK_TIMEOUT_S", 0.2)
    with Store.open(f"sqlite:///{tmp_path}/gradwire.db") as store:
        holder = sqlite3.connect(tmp_path / "gradwire.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process has held its lock for too long .* end what holds it"):
            take(store)
        assert store.taken("alice", "digits", None, 0).total == Rows()
        holder.execute("ROLLBACK")
        holder.close()
        take(store)


def test_a_file_that_is_removed_under_a_server_is_noticed(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/gradwire.db") as store:
        take(store)
        (tmp_path / "gradwire.db").rename(tmp_path / "elsewhere.db")
        with pytest.raises(StoreUnavailable, match="its file was removed or replaced while the server runs"):
            take(store)
        (tmp_path / "elsewhere.db").rename(tmp_path / "gradwire.db")
        take(store)


def test_a_file_that_may_not_grow_loses_nothing_that_was_written(tmp_path):
    url = f"sqlite:///{tmp_path}/gradwire.db"
    command = [sys.executable, "-c", FILL, url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(), check=True)
    number, count, used, uncertain, message = ended.stdout.split(maxsplit=4)
    assert int(number) > 1
    assert int(count) == int(used) == (int(number) - 1) * 500
    assert uncertain == "False"
    assert "full" in message
    with Store.open(url) as store:
        assert store.count_calls() == int(count)


def test_a_full_disk_is_told_and_once_there_is_space_the_store_goes_on(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "gradwire-test", str(disk)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        with Store.open(f"sqlite:///{disk}/gradwire.db") as store:
            ballast = disk / "ballast"
            ballast.write_bytes(b"x" * (1 << 20))
            number = 0
            with pytest.raises(StoreUnavailable, match="disk is full|disk cannot be written") as caught:
                while number < 100:
                    number += 1
                    store.write_calls([CALL] * 200, [], writer="w", number=number)
            assert not caught.value.uncertain
            assert store.count_calls() == (number - 1) * 200
            ballast.unlink()
            assert store.write_calls([CALL] * 200, [], writer="w", number=number)
            assert store.usage()[0].rows == Rows(store.count_calls(), 0) == Rows(number * 200, 0)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_postgresql_that_stops_is_told_and_used_again_once_it_is_back(postgres):
    with Store.open(postgres.new()) as store:
        take(store)
        postgres.stop("immediate")
        try:
            with pytest.raises(StoreUnavailable, match="cannot be reached .* start the database") as caught:
                take(store)
            with pytest.raises(StoreUnavailable):
                store.grants_generation()
        finally:
            postgres.start()
        assert "corr3ct-horse" not in "".join(traceback.format_exception(caught.value))
        take(store)
        assert store.taken("alice", "digits", None, 0).total == Rows(2, 0)


@pytest.mark.parametrize(
    ("database", "password", "message"),
    [
        ("postgres", "wr0ng-horse", "refuses the user or the password"),
        ("nowhere", "corr3ct-horse", "no database of that name exists"),
    ],
)
def test_what_postgresql_refuses_is_told_without_the_password(postgres, database, password, message):
    with pytest.raises(StoreUnavailable, match=message) as caught:
        Store.open(postgres.url(password=password, database=database))
    told = "".join(traceback.format_exception(caught.value))
    assert password not in told
    assert "gradwire:***@127.0.0.1" in told


def test_a_host_where_nobody_listens_is_told(free_port):
    with pytest.raises(StoreUnavailable, match=r"//gradwire@127.0.0.1:\d+/x is not available: it cannot be reached"):
        Store.open(f"postgresql://gradwire@127.0.0.1:{free_port}/x")


def test_statements_of_postgresql_have_a_time_limit(postgres):
    database = Database(postgres.new())
    with database.read() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "15s"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "10s"
    database.close()


def test_two_stores_that_share_a_row_wait_for_each_other_and_not_for_ever(postgres, monkeypatch):
    monkeypatch.setattr(databases, "LOCK_TIMEOUT_S", 0.2)
    url = postgres.new()
    with Store.open(url) as store:
        take(store)
        other = Database(url)
        with other.engine.connect() as connection, connection.begin():
            connection.exec_driver_sql("SELECT * FROM budgets FOR UPDATE")
            with pytest.raises(StoreUnavailable, match="another transaction has held a lock for too long"):
                take(store)
        take(store)
        other.close()


def kill(database: Database, pid: object) -> None:
    """Ends a connection from the server's side, as a network that breaks does."""
    with database.engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def test_a_connection_that_breaks_before_the_end_has_changed_nothing(postgres):
    url = postgres.new()
    with Store.open(url) as store:
        take(store)
        database, other = Database(url), Database(url)

        def work(connection):
            connection.execute(text("UPDATE budgets SET taken_forward = 50"))
            kill(other, connection.scalar(text("SELECT pg_backend_pid()")))
            connection.execute(text("SELECT 1"))

        with pytest.raises(StoreUnavailable) as caught:
            database.write(work)
        assert not caught.value.uncertain
        assert store.taken("alice", "digits", None, 0).total == Rows(1, 0)
        database.close()
        other.close()


def test_a_connection_that_breaks_at_the_commit_leaves_it_uncertain(postgres):
    url = postgres.new()
    Store.open(url).close()
    database, other = Database(url), Database(url)
    event.listen(database.engine, "commit", lambda connection: kill(other, connection.connection.dbapi_connection.info.backend_pid))
    with pytest.raises(StoreUnavailable) as caught:
        database.write(lambda connection: connection.execute(text("DELETE FROM budgets")))
    assert caught.value.uncertain
    database.close()
    other.close()


def test_of_transactions_that_wait_for_each_other_both_get_through(postgres):
    url = postgres.new()
    database = Database(url)
    database.write(lambda connection: connection.execute(text("CREATE TABLE t AS SELECT 1 AS a, 0 AS n UNION SELECT 2, 0")))
    both = threading.Barrier(2)
    runs = []

    def change(first: int, second: int) -> None:
        def work(connection):
            connection.execute(text("UPDATE t SET n = n + 1 WHERE a = :a"), {"a": first})
            runs.append(first)
            if len(runs) <= 2:
                both.wait(10)
            connection.execute(text("UPDATE t SET n = n + 1 WHERE a = :a"), {"a": second})

        database.write(work)

    threads = [threading.Thread(target=change, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.execute(text("SELECT n FROM t")).scalars().all() == [2, 2]
    assert len(runs) == 3
    database.close()


def test_the_url_for_logs_has_no_password(postgres):
    with Store.open(postgres.new() + "?application_name=s3cret") as store:
        assert "corr3ct-horse" not in store.shown
        assert "s3cret" not in store.shown
        assert store.shown.endswith("/postgres")
