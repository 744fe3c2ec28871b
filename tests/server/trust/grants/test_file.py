"""Grants as they are read and put together: what is wrong in a file, the store beside it, and the clock."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import gradwire
from server.trust.sites import SUMS, in_a_day, write_grants, write_tokens

from gradwire.server.trust.grants.book import GrantBook, WrongGrants, parse_grants, read_grants, stored_of
from gradwire.server.trust.grants.grant import Grant
from gradwire.server.values.clock import SteadyClock

ALICE: dict[str, Any] = {"principal": "alice", "model": "sums", "access": "labels"}


WRONG: dict[str, tuple[Any, str]] = {
    "not a list": ({"alice": "sums"}, r"grants\.yaml: grants: .*list.*given: \{'alice'"),
    "nothing": (None, r"grants\.yaml: is empty; expected a list of grants, or \[\] for none"),
    "an entry": (["alice"], r"grants\[0\]: .*dictionary.*given: 'alice'"),
    "a key": (
        [{**ALICE, "acess": "x"}],
        r"grants\[0\]: acess: unknown key; given: 'x'; expected one of: principal, model",
    ),
    "a key of a budget": (
        [{**ALICE, "budget": {"forwards": 1}}],
        r"grants\[0\]: budget\.forwards: unknown key; given: 1; expected one of: forward, backward, window_s",
    ),
    "no access": ([{"principal": "alice", "model": "sums"}], r"grants\[0\]: access: required, without a default; set it"),
    "an access": (
        [ALICE, {**ALICE, "access": "all"}],
        r"grants\[1\]: access: .*'labels', 'scores', 'gradients' or 'trainer'; given: 'all'",
    ),
    "a principal": ([{**ALICE, "principal": "a b"}], r"grants\[0\]: principal: given: 'a b'; expected 1 to 64 letters"),
    "a budget": ([{**ALICE, "budget": {"forward": -1}}], r"grants\[0\]: budget\.forward: .*greater than or equal to 0; given: -1"),
    "half a window": ([{**ALICE, "budget": {"window_s": 60}}], r"grants\[0\]: budget: window_s goes with window_forward"),
    "a pace": ([{**ALICE, "budget": {"rows_per_s": float("inf")}}], r"grants\[0\]: budget\.rows_per_s: .*finite.*given: inf"),
    "decimals of labels": (
        [{**ALICE, "decimals": 2}],
        r"grants\[0\]: decimals and top_k need access 'scores'; access 'labels' shows no scores",
    ),
    "decimals": ([{**ALICE, "access": "scores", "decimals": 16}], r"grants\[0\]: decimals: .*less than or equal to 15; given: 16"),
    "top_k": ([{**ALICE, "access": "scores", "top_k": 0}], r"grants\[0\]: top_k: .*greater than or equal to 1; given: 0"),
    "activations of scores": (
        [{**ALICE, "access": "scores", "activations": True}],
        r"grants\[0\]: activations needs access 'gradients'",
    ),
    "operations beyond": (
        [{**ALICE, "operations": ["fit"]}],
        r"grants\[0\]: operations must be among those of access 'labels'; fit needs",
    ),
    "an operation": ([{**ALICE, "operations": ["guess"]}], r"grants\[0\]: operations\.0: .*given: 'guess'"),
    "a time without a zone": (
        [{**ALICE, "expires": "2027-01-31T12:00:00"}],
        r"grants\[0\]: expires: given: 2027-01-31T12:00:00; expected a time with a time zone, for example 2027-01-31T12:00:00Z",
    ),
    "a date": (
        [{**ALICE, "expires": datetime(2027, 1, 31).date()}],
        r"grants\[0\]: expires: given: 2027-01-31; expected a time with a time zone",
    ),
    "a model": ([ALICE, {**ALICE, "model": "none"}], r"grants\[1\]: model: 'none' is not served here; expected one of: sums, more"),
    "beyond the model's access": (
        [{**ALICE, "access": "gradients"}],
        r"grants\[0\]: access: 'gradients' exceeds the access of 'sums'; expected at most 'scores'",
    ),
    "two": (
        [ALICE, {**ALICE, "access": "scores"}],
        r"grants\[1\]: principal: 'alice' already has a grant for 'sums', grants\[0\]; expected one",
    ),
}


def book() -> GrantBook:
    return GrantBook({"sums": "scores", "more": "scores"}, SteadyClock(), open_to_all=False)


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_in_a_file_is_named_with_its_place(what: str) -> None:
    content, expected = WRONG[what]
    text = b"# none yet\n" if content is None else yaml.safe_dump(content).encode()
    with pytest.raises(WrongGrants, match=expected) as caught:
        book().take_filed(read_grants(text, "grants.yaml"), "grants.yaml")
    assert str(caught.value).startswith("grants.yaml: ")


def test_labels_of_a_regression_are_not_given() -> None:
    values = GrantBook({"sums": "scores"}, SteadyClock(), open_to_all=False, without_classes=["sums"])
    with pytest.raises(WrongGrants, match="'sums' is a regression without classes; expected 'scores', 'gradients'"):
        values.take_filed([Grant(**ALICE)], "grants.yaml")
    values.take_filed([Grant(**{**ALICE, "access": "scores"})], "grants.yaml")


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(WrongGrants) as caught:
        parse_grants([{**ALICE, "access": "all"}, ALICE, {**ALICE, "principal": "", "top_k": 0}], "grants.yaml")
    assert [line.split(": ")[1:3] for line in str(caught.value).splitlines()] == [
        ["grants[0]", "access"], ["grants[2]", "principal"], ["grants[2]", "top_k"],
    ]  # fmt: skip


def test_a_file_that_is_wrong_is_not_served(tmp_path: Path) -> None:
    write_tokens(tmp_path / "tokens.yaml", ["alice"])
    write_grants(tmp_path, [{**ALICE, "access": "all"}])
    settings = {"identity": {"tokens": "tokens.yaml"}, "grants": "grants.yaml", "listen": "127.0.0.1:0", "models": [SUMS]}
    (tmp_path / "server.yaml").write_text(yaml.safe_dump(settings))
    ended = gradwire("serve", str(tmp_path / "server.yaml"))
    assert ended.returncode == 2
    assert "grants[0]: access" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_clock_that_steps_back_revives_no_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    over = in_a_day()
    grants = book()
    grants.take_filed([Grant(**ALICE, expires=over)], "grants.yaml")
    now_s = [over.timestamp() - 1]
    monkeypatch.setattr(time, "time", lambda: now_s[0])
    assert grants.of("alice", "sums") is not None
    now_s[0] += 2
    assert grants.of("alice", "sums") is None
    now_s[0] -= 3600
    assert grants.of("alice", "sums") is None
    assert grants.all() == []


def test_a_stored_grant_stays_within_what_a_stricter_configuration_gives() -> None:
    grants = book()
    grants.take_filed([Grant(**ALICE)], "grants.yaml")
    beyond = stored_of(Grant(principal="alice", model="sums", access="trainer"))
    unknown = replace(stored_of(Grant(principal="bob", model="sums", access="labels")), decimals=99)
    gone = stored_of(Grant(principal="carol", model="gone", access="labels"))
    grants.take_stored([beyond, unknown, gone, stored_of(Grant(principal="dave", model="sums", access="labels"))])
    assert [(grant.principal, grant.model) for grant in grants.all()] == [("dave", "sums")]
