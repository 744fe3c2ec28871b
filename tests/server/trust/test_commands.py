"""``gradwire grant``, ``revoke``, ``grants`` and ``usage``, as processes beside a server process."""

from __future__ import annotations

import csv
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from commands import gradwire
from server.trust.sites import ADMIN, SUMS, Site, site

X = np.ones((3, 6), np.float32)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    grants = [{"principal": "alice", "model": "sums", "access": "labels", "budget": {"forward": 12_000}}]
    with site(tmp_path_factory.mktemp("commands"), [SUMS], grants, ["bob"]) as started:
        yield started


def run(served: Site, command: str, *arguments: str, who: str = ADMIN) -> subprocess.CompletedProcess[str]:
    return gradwire(command, served.address, *arguments, GRADWIRE_TOKEN=served.tokens[who])


def cells(ended: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """The lines of a table; its columns are two blanks or more apart."""
    assert ended.returncode == 0, ended.stderr
    return [re.split(r"\s{2,}", line.strip()) for line in ended.stdout.splitlines() if line.strip()]


def test_a_grant_is_given_listed_used_and_revoked(served: Site) -> None:
    options = ("--access", "scores", "--decimals", "2", "--top-k", "1", "--forward", "10000", "--window", "1h",
               "--window-forward", "500", "--rows-per-s", "50", "--expires", "2027-01-31T12:00Z")  # fmt: skip
    given = cells(run(served, "grant", "bob", "sums", *options))
    assert given[0] == ["principal", "model", "access", "forward", "backward", "in each window", "rows/s", "expires"]
    local = datetime(2027, 1, 31, 12, tzinfo=timezone.utc).astimezone()
    window = "500 forward, any backward in 1:00:00"
    assert given[1] == ["bob", "sums", "scores, 2 decimals, top 1", "10,000", "any", window, "50", f"{local:%Y-%m-%d %H:%M}"]
    assert cells(run(served, "grants", "--principal", "bob")) == given
    assert [line[0] for line in cells(run(served, "grants"))] == ["principal", "alice", "bob"]
    with served.connect("bob") as bob:
        bob.estimator("sums").predict(X)
    shown = cells(run(served, "usage", who="bob"))
    assert shown[0] == ["principal", "model", "access", "forward", "left", "backward", "left", "refills", "expires"]
    assert shown[1][:7] == ["bob", "sums", "scores", "3", "497", "0", "any"]
    assert cells(run(served, "usage", "sums", "--principal", "bob"))[1] == shown[1]
    assert [line[:2] for line in cells(run(served, "usage", "--all"))[1:]] == [["alice", "sums"], ["bob", "sums"]]
    ended = run(served, "revoke", "bob", "sums")
    assert (ended.returncode, ended.stdout.strip()) == (0, "bob no longer has access to sums")
    assert [line[0] for line in cells(run(served, "grants"))] == ["principal", "alice"]


def test_an_end_may_be_said_as_a_time_from_now(served: Site) -> None:
    given = cells(run(served, "grant", "bob", "sums", "--access", "labels", "--expires", "36h"))
    assert abs(datetime.strptime(given[1][-1], "%Y-%m-%d %H:%M") - (datetime.now() + timedelta(hours=36))) < timedelta(minutes=2)
    run(served, "revoke", "bob", "sums")


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "access": (("--access", "all"), "access is 'all'; expected one of: labels, scores, gradients, trainer"),
    "beyond": (("--access", "trainer"), "access: 'trainer' exceeds the access of 'sums'; expected at most 'scores'"),
    "operation": (("--access", "labels", "--operation", "guess"), "operations contains 'guess'; expected names out of: predict"),
    "decimals": (
        ("--access", "labels", "--decimals", "2"),
        "decimals and top_k need access 'scores'; access 'labels' shows no scores",
    ),
    "rows": (("--access", "labels", "--forward", "-1"), "forward is -1; expected at least 0"),
    "window": (("--access", "labels", "--window", "soon"), "--window is 'soon'; expected a number and one of s, m, h, d, w"),
    "part of a second": (("--access", "labels", "--window", "0.4s"), "--window is '0.4s'; expected a whole number of seconds"),
    "half a window": (("--access", "labels", "--window", "1h"), "window_s goes with window_forward"),
    "expires": (("--access", "labels", "--expires", "tomorrow"), "--expires is 'tomorrow'; expected 12h, 30d, or a date such as"),
    "never": (("--access", "labels", "--expires", "99999999d"), "--expires is '99999999d'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_given_ends_with_2_and_one_line(served: Site, what: str) -> None:
    options, expected = WRONG[what]
    ended = run(served, "grant", "bob", "sums", *options)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error ")
    assert expected in ended.stderr.replace("\n", " ")
    assert "Traceback" not in ended.stderr


def test_names_that_are_not_there_end_with_2(served: Site) -> None:
    for arguments, expected in (
        (("grant", "bob", "gone", "--access", "labels"), "'gone' is not served here; expected one of: sums"),
        (("revoke", "nobody", "sums"), "'nobody' has no grant for 'sums'"),
        (("usage", "gone"), "'gone' is not served here"),
    ):
        ended = run(served, *arguments)
        assert (ended.returncode, expected in ended.stderr) == (2, True), ended.stderr


def test_others_than_admins_are_told_so(served: Site) -> None:
    for arguments in (
        ("grant", "alice", "sums", "--access", "scores"), ("revoke", "alice", "sums"), ("grants",), ("usage", "--all"),
        ("usage", "--principal", "bob"),
    ):  # fmt: skip
        ended = run(served, *arguments, who="alice")
        assert ended.returncode == 2
        assert "'alice' is not an admin of this server; identity.admins in its configuration lists them" in ended.stderr
    ended = run(served, "usage", who="alice")
    assert ended.returncode == 0


def test_no_server_ends_with_3(served: Site, free_port: int) -> None:
    ended = gradwire("grants", f"127.0.0.1:{free_port}", GRADWIRE_TOKEN=served.tokens[ADMIN])
    assert ended.returncode == 3


@pytest.mark.parametrize("command", ["grant", "revoke", "grants", "usage"])
def test_help_has_an_example(command: str) -> None:
    ended = gradwire(command, "--help")
    assert ended.returncode == 0
    assert "Example: gradwire" in ended.stdout


def test_what_admins_change_is_in_the_ledger(served: Site) -> None:
    run(served, "grant", "bob", "sums", "--access", "labels")
    run(served, "revoke", "bob", "sums")
    run(served, "usage")
    calls = served.folder / "calls.csv"
    config = served.folder / "server.yaml"
    ended = gradwire("ledger", "export", "--config", str(config), "--principal", ADMIN, "--output", str(calls))
    assert ended.returncode == 0, ended.stderr
    with calls.open() as file:
        written = [(call["operation"], call["model"], call["request_id"]) for call in csv.DictReader(file)]
    assert ("grant", "sums", "to bob: labels") in written
    assert ("revoke", "sums", "of bob") in written
