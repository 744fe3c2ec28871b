"""Every server's file in deploy/ is one that the server takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import environment
from deploy.tools import DEPLOY
from environments import MXNET, python_of

from gradwire.server.config.reading import read_config
from gradwire.server.trust.identity.listener import check_listener

FILES = sorted(str(path.relative_to(DEPLOY)) for path in [*DEPLOY.rglob("serve.yaml"), DEPLOY / "docker/demo.yaml"])
OWNERS = sorted(path.parent.name for path in DEPLOY.glob("compose/*/owners_code.py"))


def backends(path: Path) -> set[str]:
    return {model.get("backend", "") for model in yaml.safe_load(path.read_text())["models"]}


@pytest.mark.parametrize("file", FILES)
def test_the_server_takes_it(file: str) -> None:
    if "mxnet" in backends(DEPLOY / file):
        code = (
            "from pathlib import Path; from gradwire.server.config.reading import read_config; "
            f"read_config(Path({str(DEPLOY / file)!r}))"
        )
        subprocess.run([str(python_of(MXNET)), "-c", code], check=True, env=environment())
        return
    config = read_config(DEPLOY / file)
    check_listener(config)
    assert config.listen == "0.0.0.0:50051"
    assert str(config.state_dir) == "/var/lib/gradwire"


@pytest.mark.parametrize("group", OWNERS)
def test_the_models_to_begin_with_can_be_loaded(group: str) -> None:
    python = python_of(MXNET) if group == "mxnet" else Path(sys.executable)
    code = (
        "import sys; from pathlib import Path; from gradwire.server.config.reading import read_config\n"
        "from gradwire.server.engines.engine import load_models\n"
        "path = Path(sys.argv[1]); sys.path.insert(0, str(path.parent)); print(*load_models(read_config(path)))"
    )
    command = [str(python), "-c", code, str(DEPLOY / "compose" / group / "serve.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), timeout=110)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"{group}-")
