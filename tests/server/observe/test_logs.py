"""The log of calls: each line says which call it is about, and nothing that is secret."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import server_process
from typer.testing import CliRunner

from gradwire.client import Retry, connect
from gradwire.client.errors import GradwireError
from gradwire.server.commands.token import app
from gradwire.server.process.logs import TextFormatter
from gradwire.v1.estimator_pb2 import CallHeader, PredictOpen
from gradwire.wire.frames import open_field

FAILING = {
    "name": "digits",
    "backend": "blackbox",
    "factory": "owner_of_failures:make",
    "input_shape": [4],
    "nb_classes": 2,
}
FACTORY = """
import logging
import numpy as np

def make():
    def predict(x):
        logging.getLogger("owner").info("asked")
        if x.flat[0] < 0:
            raise RuntimeError("no such rows")
        return np.full((len(x), 2), 0.5)
    return predict
"""
X = np.ones((2, 4), np.float32)


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_errors_of_calls_are_found_by_their_request_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner_of_failures.py").write_text(FACTORY)
    made = CliRunner().invoke(app, ["new", "alice", "--file", str(tmp_path / "tokens.yaml")])
    token = made.stdout.strip()
    (tmp_path / "grants.yaml").write_text("[{principal: alice, model: digits, access: scores}]")
    settings = {"identity": {"tokens": "tokens.yaml"}, "grants": "grants.yaml", "log_format": "json"}
    with server_process(tmp_path, [FAILING], **settings) as process:
        with connect(process.address, token=token, retry=Retry(attempts=1)) as server:
            digits = server.estimator("digits")
            ids = iter(["good-1", "failed-2", "good-4"])
            monkeypatch.setattr(server.connection, "new_request_id", lambda: next(ids))
            digits.predict(X)
            with pytest.raises(GradwireError):
                digits.predict(-X)
            with pytest.raises(GradwireError):
                refused = CallHeader(model="digits", request_id="refused-3")
                server.connection.call("Predict", open_field(PredictOpen(call=refused).SerializeToString()), [("x", X[:, :3])])
            digits.predict(X)
        told = lines(process.log)
        text = process.log.read_text()
    of_call = {"principal": "alice", "model": "digits", "operation": "predict"}
    (failed,) = [line for line in told if line.get("request_id") == "failed-2" and line["message"] == "call failed"]
    assert of_call.items() <= failed.items()
    assert "no such rows" in failed["exc_info"]
    (refused_line,) = [line for line in told if line.get("request_id") == "refused-3"]
    assert {**of_call, "message": "call refused", "outcome": "BAD_SHAPE", "levelname": "INFO"}.items() <= refused_line.items()
    assert not [line for line in told if line.get("request_id", "").startswith("good")]
    for line in told:
        if line["message"] in ("serving", "loaded"):
            assert "request_id" not in line
    assert token not in text


def test_what_callers_write_cannot_look_like_another_line() -> None:
    record = logging.makeLogRecord({"msg": "call refused", "levelname": "INFO", "request_id": "1\n12:00:00 INFO ended"})
    assert "\n" not in TextFormatter().format(record)
