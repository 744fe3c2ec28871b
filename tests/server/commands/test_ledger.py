"""``gradwire ledger export`` and ``gradwire ledger show``."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from importlib.metadata import EntryPoint
from pathlib import Path

import pyarrow.parquet
import pytest
from commands import environment
from typer.testing import CliRunner

from gradwire.client.cli import GROUP, build
from gradwire.server.store import CallRecord, Store, StoreConfigError
from gradwire.server.store.records import microseconds
from gradwire.server.store.url import store_of, store_url

START = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=timezone.utc)
POINT = EntryPoint("ledger", "gradwire.server.commands.ledger:ledger [server]", GROUP)


def call(number: int) -> CallRecord:
    principal = "alice" if number % 2 else 'bob, "the\nblack box"'
    outcome = "OK" if number % 3 else "BUDGET_SPENT"
    return CallRecord(
        microseconds(START + timedelta(minutes=number)), "server-1", principal, "digits", "v1", "predict", number, number, 0,
        outcome, 1500 + number, f"id-{number}",
    )  # fmt: skip


def run(*arguments: str, **variables: str):
    return CliRunner().invoke(build([POINT]), ["ledger", *arguments], env={"COLUMNS": "200", "NO_COLOR": "1", **variables})


@pytest.fixture
def filled(url: str) -> str:
    with Store.open(url) as store:
        store.write_calls([call(number) for number in range(12)], [], writer="w", number=1)
    return url


def expected(numbers: range | list[int]) -> list[dict[str, str]]:
    rows = [{**call(number)._asdict(), "at": (START + timedelta(minutes=number)).isoformat()} for number in numbers]
    return [{key: str(value) for key, value in row.items() if key != "at_us"} for row in rows]


def test_csv_on_stdout_is_what_is_in_the_ledger(filled):
    ended = run("export", "--store", filled)
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.splitlines()[0].startswith("at,server,principal,model,version,operation,rows,forward,backward,outcome,")
    assert list(csv.DictReader(io.StringIO(ended.stdout, newline=""))) == expected(range(12))


def test_parquet_is_what_is_in_the_ledger_with_its_types(filled, tmp_path):
    file = tmp_path / "calls.parquet"
    ended = run("export", "--store", filled, "--format", "parquet", "--output", str(file))
    assert ended.exit_code == 0, ended.output
    table = pyarrow.parquet.read_table(file)
    assert str(table.schema.field("at").type) == "timestamp[us, tz=UTC]"
    assert str(table.schema.field("rows").type) == "int64"
    rows = [{**row, "at": row["at"].isoformat()} for row in table.to_pylist()]
    assert [{key: str(value) for key, value in row.items()} for row in rows] == expected(range(12))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_filters_leave_what_they_say(filled, tmp_path, form):
    file = tmp_path / f"calls.{form}"
    options = ["--principal", "alice", "--outcome", "OK", "--operation", "predict", "--model", "digits"]
    times = ["--since", "2026-11-21T12:02:00", "--until", "2026-11-21T13:10:00+01:00"]
    ended = run("export", "--store", filled, "--format", form, "--output", str(file), *options, *times)
    assert ended.exit_code == 0, ended.output
    if form == "csv":
        ids = [row["request_id"] for row in csv.DictReader(file.open(newline=""))]
    else:
        ids = pyarrow.parquet.read_table(file).column("request_id").to_pylist()
    assert ids == ["id-5", "id-7"]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_an_empty_ledger_is_an_empty_table(store, url, tmp_path):
    assert run("export", "--store", url).stdout.count("\n") == 1
    assert run("export", "--store", url, "--format", "parquet", "--output", str(tmp_path / "x.parquet")).exit_code == 0
    assert pyarrow.parquet.read_table(tmp_path / "x.parquet").num_rows == 0


def test_show_lists_the_last_calls(filled):
    ended = run("show", "--store", filled, "--last", "3", "--principal", "alice")
    assert ended.exit_code == 0, ended.output
    assert "the last 3 of 6 calls" in ended.stdout
    times = [line.split()[2] for line in ended.stdout.splitlines() if "alice" in line]
    assert times == ["12:07:00.123", "12:09:00.123", "12:11:00.123"]
    assert "BUDGET_SPENT" in ended.stdout


def test_the_store_is_found_through_the_servers_configuration(tmp_path):
    config = tmp_path / "digits.yaml"
    config.write_text("models: [{name: digits, backend: torch, factory: nowhere:nothing}]\n")
    with Store.open(store_of(config)) as store:
        store.write_calls([call(1)], [], writer="w", number=1)
    assert (tmp_path / ".gradwire" / "gradwire.db").exists()
    ended = run("export", "--config", str(config))
    assert ended.exit_code == 0, ended.output
    assert "id-1" in ended.stdout


@pytest.mark.parametrize(
    ("content", "url"),
    [
        ("state_dir: state", "sqlite:///{}/state/gradwire.db"),
        ("state_dir: /var/lib/gradwire", "sqlite:////var/lib/gradwire/gradwire.db"),
        ("store: sqlite:///calls.db", "sqlite:///{}/calls.db"),
        ("store: sqlite:////srv/calls.db", "sqlite:////srv/calls.db"),
        ("store: postgresql://u:secret@db/x", "postgresql+psycopg://u:secret@db/x"),
    ],
)
def test_a_store_is_where_the_configuration_says(tmp_path, content, url):
    (tmp_path / "c.yaml").write_text(content)
    assert store_of(tmp_path / "c.yaml") == url.format(tmp_path)


def test_a_configuration_that_says_nothing_sensible_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("store: 5")
    with pytest.raises(StoreConfigError, match="store and state_dir: expected text; given: 5"):
        store_of(tmp_path / "c.yaml")
    with pytest.raises(StoreConfigError, match="the file does not exist"):
        store_of(tmp_path / "nowhere.yaml")
    assert store_url(None, tmp_path, Path("s")) == f"sqlite:///{tmp_path}/s/gradwire.db"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export"], 2, "--store URL, or --config FILE"),
        (["export", "--store", "sqlite:///nowhere.db"], 2, "does not exist; start a server, which creates it"),
        (["export", "--store", "postgresql://u:s3cret@127.0.0.1:9/x"], 3, "cannot be reached"),
        (["export", "--store", "sqlite:///x.db", "--format", "parquet"], 2, "Parquet cannot be written to stdout"),
        (["show", "--store", "sqlite:///x.db", "--since", "yesterday"], 2, "not a time; expected, for example, 2026-11-21"),
    ],
    ids=["no store", "no file", "no server", "Parquet to stdout", "no moment"],
)
def test_what_is_wrong_is_told(tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    ended = run(*arguments)
    assert ended.exit_code == code
    assert message in " ".join(ended.output.replace("│", " ").split())
    assert "s3cret" not in ended.output
    assert not list(tmp_path.iterdir())


def test_without_pyarrow_the_extra_is_named(filled, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ended = run("export", "--store", filled, "--format", "parquet", "--output", str(tmp_path / "x.parquet"))
    assert ended.exit_code == 2
    assert "pip install 'gradwire[parquet]'" in ended.output
    assert not list(tmp_path.glob("x.parquet*"))


def test_a_file_that_cannot_be_written_is_told(filled, tmp_path):
    ended = run("export", "--store", filled, "--output", str(tmp_path / "nowhere" / "x.csv"))
    assert ended.exit_code == 2
    assert re.search(r"cannot write .*: No such file or directory", ended.output)


def test_a_reader_that_has_enough_ends_the_export_quietly(tmp_path):
    url = f"sqlite:///{tmp_path}/gradwire.db"
    with Store.open(url) as store:
        store.write_calls([call(number) for number in range(20_000)], [], writer="w", number=1)
    code = "import sys; from gradwire.server.commands.ledger import ledger; ledger(prog_name='gradwire ledger')"
    with subprocess.Popen(
        [sys.executable, "-c", code, "export", "--store", url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("at,")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 0


def test_moments_may_be_said_as_ages(url, store):
    now = microseconds(datetime.now(timezone.utc))
    old, new = call(1)._replace(at_us=now - 7200 * 10**6), call(2)._replace(at_us=now - 60 * 10**6)
    store.write_calls([old, new], [], writer="w", number=1)
    assert "id-1" not in (shown := run("export", "--store", url, "--since", "1h").stdout)
    assert "id-2" in shown
    assert "id-1" in run("export", "--store", url, "--since", "3h ago", "--until", "90m").stdout


def test_forget_removes_what_is_too_old_once_it_is_confirmed(filled, store):
    used, until = store.usage(), (START + timedelta(minutes=9)).isoformat()
    refused = CliRunner().invoke(build([POINT]), ["ledger", "forget", "--store", filled, "--until", until], input="n\n")
    assert refused.exit_code == 1
    assert "Delete 9 calls before 2026-11-21 12:09:00 UTC permanently?" in refused.output
    assert store.count_calls() == 12
    ended = run("forget", "--store", filled, "--until", until, "--yes")
    assert ended.exit_code == 0, ended.output
    assert "9 calls deleted" in ended.output
    assert [part.request_id for batch in store.calls() for part in batch] == ["id-9", "id-10", "id-11"]
    assert store.usage() == used
    assert "0 calls deleted" in run("forget", "--store", filled, "--until", until, "--yes").output
    assert run("forget", "--store", filled, "--yes").exit_code == 2
