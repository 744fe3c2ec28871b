"""A server process reads, completes and checks its configuration once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from commands import environment

SCRIPT = Path(__file__).with_name("counting_serve.py")
FACTORY = "import numpy as np\n\n\ndef make():\n    return lambda x: np.stack([x.sum(1), -x.sum(1)], axis=1)\n"
SUMS: dict[str, Any] = {"backend": "blackbox", "factory": "owner_of_sums:make", "input_shape": [6], "nb_classes": 2}


def test_the_configuration_is_read_completed_and_checked_once(tmp_path: Path) -> None:
    (tmp_path / "owner_of_sums.py").write_text(FACTORY)
    models = [{"name": "sums", **SUMS}, {"name": "both", "backend": "ensemble", "members": ["sums"]}]
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"listen": "127.0.0.1:0", "models": models}))
    command = [sys.executable, str(SCRIPT), str(file)]
    log = tmp_path / "stderr.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment())
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving on "), log.read_text()
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert json.loads(out) == {"read_text": 1, "safe_load": 1, "completed": 1, "check_listener": 1}, log.read_text()
