"""Programs that check deployments: those of the environment, then those of the system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import programs

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"


def tool(name: str, where: str) -> str:
    """The path of a program; skips the test, and says where it is to be had, if there is none."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        package = programs.PACKAGES.get(name)
        programs.lack(f"{name} is not installed: {f'apt-get install {package}' if package else where}")
    return found or ""


def passes(*command: str) -> str:
    """Runs a check, which must not find anything; returns its output."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout
