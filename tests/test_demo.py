"""The demo, as users run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import environment, gradwire

PNG = b"\x89PNG\r\n\x1a\n"


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.timeout(240)
def test_the_quick_demo_runs_draws_and_ends_by_itself(tmp_path):
    ended = gradwire("demo", "--quick", "--out", str(tmp_path / "out"), timeout_s=220)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for attack in ("FGSM", "PGD", "DeepFool", "HopSkipJump"):
        assert re.search(rf"(?m)^ *{attack} .*\d+\.\d%", ended.stdout), ended.stdout
    for picture in ("attacks.png", "robustness.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(PNG)
        assert str(tmp_path / "out" / picture) in ended.stdout.replace("\n", "")
    [pid] = re.findall(r"serving on 127\.0\.0\.1:\d+ \(pid (\d+)\)", ended.stdout)
    assert gone(int(pid))
    assert "ended with exit code 0" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_no_server_behind(tmp_path, number):
    command = [sys.executable, "-m", "gradwire.client.cli", "demo", "--quick", "--out", str(tmp_path)]
    environ = environment(PYTHONUNBUFFERED="1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        [pid] = next(found for line in lines if (found := re.findall(r"serving on \S+ \(pid (\d+)\)", line)))
        time.sleep(1)  # into the attacker's start
        process.send_signal(number)
        assert process.wait(60) != 0
        assert "ended with exit code 0" in process.stdout.read()
    assert gone(int(pid))


def test_what_is_attacked_was_not_trained_on():
    from gradwire.client.demo.digits import held_out
    from gradwire.server.demo.model import training_part

    attacked, trained = ({row.tobytes() for row in rows} for rows in (held_out()[0], training_part()[0]))
    assert not attacked & trained
    assert len(attacked | trained) == 1797  # all of scikit-learn's digits, each of them another


def test_the_written_configuration_can_be_served_again(tmp_path):
    from gradwire.server.config.reading import read_config
    from gradwire.server.demo.run import _YAML

    path = Path(tmp_path) / "demo.yaml"
    path.write_text(_YAML.format(name=path.name))
    assert [served.name for served in read_config(path).models] == ["digits", "digits-labels"]
