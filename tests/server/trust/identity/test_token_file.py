"""``gradwire token``, and the file that it keeps."""

from __future__ import annotations

import hashlib
import stat
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import gradwire
from typer.testing import CliRunner

from gradwire.server.commands.times import end_of
from gradwire.server.commands.token import app
from gradwire.server.trust.identity.files import Watched
from gradwire.server.trust.identity.tokens import by_digest, change_tokens, new_token, parse, read_tokens

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)


def held(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load(file.read_text())["tokens"])


def test_a_token_is_printed_once_and_the_file_keeps_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    made = gradwire("token", "new", "alice", "--file", str(file), "--expires", "30d")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    assert token.startswith("gradwire_")
    assert len(token) == len("gradwire_") + 43  # 256 bits
    assert token not in file.read_text() + made.stderr
    assert held(file)[0]["sha256"] == hashlib.sha256(token.encode()).hexdigest()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.yaml"]


def test_tokens_are_listed_and_revoked_by_name_or_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"

    def token(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, "--file", str(file)])

    for name in ("alice", "alice", "bob"):
        assert token("new", name).exit_code == 0
    first = held(file)[0]["sha256"][:8]
    listed = token("list").stdout
    assert listed.count("alice") == 2
    assert first in listed
    assert token("revoke", "alice", "--id", first).stdout == f"revoked tokens of alice: {first}\n"
    assert [token["name"] for token in held(file)] == ["alice", "bob"]
    assert token("revoke", "alice").exit_code == 0
    assert [token["name"] for token in held(file)] == ["bob"]
    ended = token("revoke", "alice")
    assert ended.exit_code == 2
    assert "it has tokens of: bob" in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["new", "a b"], "not a principal's name"),
        (["new", "anonymous"], "choose another name"),
        (["new", "x" * 65], "at most 64"),
        (["new", "alice", "--expires", "2020-01-01"], "has passed"),
        (["new", "alice", "--expires", "soon"], "expected 12h, 30d or 8w"),
        (["new", "alice", "--expires", "999999w"], "expected 12h, 30d or 8w"),
        (["new", "alice", "--file", "nowhere/tokens.yaml"], "nowhere"),
        (["list", "--file", "nowhere.yaml"], "nowhere.yaml"),
        (["revoke", "alice", "--file", "nowhere.yaml"], "nowhere.yaml"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else "",
)
def test_what_is_asked_for_wrong_is_told_in_one_line(tmp_path: Path, arguments: list[str], told: str) -> None:
    options = [] if "--file" in arguments else ["--file", str(tmp_path / "tokens.yaml")]
    ended = CliRunner().invoke(app, [*arguments, *options])
    assert ended.exit_code == 2
    assert told in ended.stderr
    assert isinstance(ended.exception, SystemExit)
    assert not ended.stdout


def test_commands_at_once_lose_no_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"

    def add(number: int) -> None:
        change_tokens(file, lambda tokens: [*tokens, new_token(f"caller-{number}", NOW, None)[1]])

    threads = [threading.Thread(target=add, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_tokens(file)) == 16


def test_a_file_behind_a_link_is_replaced_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "tokens.yaml"
    link.symlink_to(tmp_path / "real" / "tokens.yaml")
    change_tokens(link, lambda tokens: [*tokens, new_token("alice", NOW, None)[1]])
    assert link.is_symlink()
    assert len(held(tmp_path / "real" / "tokens.yaml")) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tokens: [", "line 1"),
        ("tokens: [{name: alice, sha256: gradwire_secret, created: 2026-11-21T00:00:00Z}]", "sha256"),
        ("tokens: [{name: alice, token: gradwire_secret}]", "missing|Extra|required"),
        ("gradwire_secret", "dictionary"),
        ("", "dictionary"),
        ("tokens: [{name: 'gradwire secret', sha256: a, created: 2026-11-21}]", "name"),
    ],
    ids=["no YAML", "a token in place of its hash", "another key", "only a token", "nothing", "a wrong name"],
)
def test_an_error_about_the_file_repeats_no_secret(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        parse(text.encode())
    assert "gradwire_secret" not in str(caught.value)


def test_ends_are_durations_or_dates() -> None:
    assert end_of("12h", NOW) == NOW + timedelta(hours=12)
    assert end_of("30d", NOW) == NOW + timedelta(days=30)
    assert end_of("8w", NOW) == NOW + timedelta(weeks=8)
    assert end_of("2027-01-31", NOW) == datetime(2027, 1, 31, tzinfo=timezone.utc)
    assert end_of("2027-01-31T12:00:00+02:00", NOW) == datetime(2027, 1, 31, 10, tzinfo=timezone.utc)


def test_a_file_that_is_broken_or_gone_changes_nothing_until_it_makes_sense(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tokens.yaml"
    change_tokens(file, lambda tokens: [new_token("alice", NOW, None)[1]])
    watched = Watched([file], by_digest)
    assert not watched.poll()
    whole = file.read_text()
    file.write_text(whole[:30])
    assert not watched.poll()
    assert not watched.poll()
    assert caplog.text.count("last valid content stays in force") == 1
    file.unlink()
    assert not watched.poll()
    assert len(watched.value) == 1
    change_tokens(file, lambda tokens: [new_token(name, NOW, None)[1] for name in ("bob", "carol")])
    assert watched.poll()
    assert {token.name for token in watched.value.values()} == {"bob", "carol"}
