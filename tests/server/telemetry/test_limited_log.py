"""Limit of log lines per second."""

from __future__ import annotations

import logging

import pytest

from gradwire.server.telemetry import limited_log
from gradwire.server.telemetry.limited_log import LimitedLog


def test_lines_beyond_twenty_a_second_are_counted_and_their_number_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = 7.0
    monkeypatch.setattr(limited_log.time, "monotonic", lambda: now_s)
    caplog.set_level(logging.INFO)
    log = LimitedLog(logging.INFO, "refused", "more were refused")
    for number in range(25):
        log.log(peer=f"peer {number}")
    assert [record.__dict__["peer"] for record in caplog.records] == [f"peer {number}" for number in range(20)]
    caplog.clear()
    now_s = 8.0
    log.log(peer="later")
    more, later = caplog.records
    assert (more.message, more.__dict__["number"]) == ("more were refused", 5)
    assert (later.message, later.__dict__["peer"], later.levelno) == ("refused", "later", logging.INFO)
