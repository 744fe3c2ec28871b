"""Servers that know their callers, as processes, and what their owners and callers hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import ServerProcess, server_process
from typer.testing import CliRunner

from gradwire.server.commands.token import app

# A black box, because torch takes seconds to import and none of this is about models.
SUMS: dict[str, Any] = {
    "name": "sums",
    "backend": "blackbox",
    "factory": "owner_of_sums:make",
    "input_shape": [6],
    "nb_classes": 2,
}
FACTORY = "import numpy as np\n\n\ndef make():\n    return lambda x: np.stack([x.sum(1), -x.sum(1)], axis=1)\n"

GRANTED = ("alice", "dave", "erin", "node")

Serve = Callable[..., AbstractContextManager[ServerProcess]]


@pytest.fixture(scope="module")
def serve() -> Serve:
    """Starts a server process of one small model, ``sums``, for the principals in GRANTED."""

    @contextmanager
    def start(folder: Path, **settings: Any) -> Iterator[ServerProcess]:
        (folder / "owner_of_sums.py").write_text(FACTORY)
        if "identity" in settings:
            grants = [{"principal": name, "model": "sums", "access": "scores"} for name in GRANTED]
            (folder / "grants.yaml").write_text(yaml.safe_dump(grants))
            settings["grants"] = "grants.yaml"
        with server_process(folder, [SUMS], **settings) as server:
            yield server

    return start


@pytest.fixture(scope="module")
def new_token() -> Callable[..., str]:
    """``new_token(file, name)``: made by the command, as an owner would."""

    def make(file: Path, name: str, *options: str) -> str:
        ended = CliRunner().invoke(app, ["new", name, "--file", str(file), *options])
        assert ended.exit_code == 0, ended.output
        return ended.stdout.strip()

    return make


@pytest.fixture(scope="module")
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Waits until something holds: files are looked at about once a second."""

    def wait(holds: Callable[[], bool], timeout_s: float = 15.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < end_s, "it did not come to hold"
            time.sleep(0.1)

    return wait
