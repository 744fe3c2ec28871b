"""Client installed from a wheel, on the oldest and the newest Python here, and on the tests' own.

protobuf is installed at both ends of the range that the generated code allows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from owners import sums

from gradwire.server import serving

ROOT = Path(__file__).parent.parent.parent
OLDEST_PROTOBUF, NEWEST_PROTOBUF = "6.31.1", "7.36.2"
PYTHONS = ("3.10", "3.11", "3.13")


@lru_cache
def interpreter(version: str) -> str | None:
    """A Python of that version that starts, on PATH or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *(str(path / "bin/python") for path in sorted(pyenv.glob(f"{version}.*")))]
    for candidate in candidates:
        if candidate and subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return candidate
    return None


HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
MATRIX = [(version, NEWEST_PROTOBUF) for version in PYTHONS if version == HERE or interpreter(version)] + [(HERE, OLDEST_PROTOBUF)]

SMOKE = """
import pickle, sys
import numpy as np
import google.protobuf, gradwire.client
from gradwire.client import connect
from gradwire.client.errors import ShapeError, Unsupported
with connect(sys.argv[1]) as server:
    remote = server.estimator("sums")
    for n in (1, 7, 50_000):
        x = np.random.default_rng(n).random((n, 16)).astype(np.float32)
        np.testing.assert_allclose(remote.predict(x)[:, 0], x.sum(1), rtol=1e-4)
    x = np.arange(32).reshape(2, 16)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(remote)).predict(x)[:, 0], x.sum(1))
    for error, call in ((ShapeError, lambda: remote.predict(x[0])), (Unsupported, lambda: remote.loss_gradient(x, [0, 1]))):
        try:
            call()
        except error:
            continue
        raise AssertionError(error)
    assert remote.usage().forward > 50_000
print(sys.version_info[:2], google.protobuf.__version__, "fine")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    return str(next(folder.glob("gradwire-*.whl")))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving({"sums": {"backend": "blackbox", "factory": sums, "input_shape": [16], "nb_classes": 2}}) as address:
        yield address


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("version", "protobuf"), MATRIX)
def test_the_client_alone_works(version: str, protobuf: str, wheel: str, address: str, tmp_path: Path) -> None:
    python = sys.executable if version == HERE else interpreter(version)
    assert python is not None
    subprocess.run([python, "-m", "venv", str(tmp_path / "env")], check=True)
    own = str(tmp_path / "env/bin/python")
    subprocess.run([own, "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel, f"protobuf=={protobuf}"], check=True)
    done = subprocess.run([own, "-c", SMOKE, address], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.stdout.strip().endswith(f"{protobuf} fine"), done.stderr
    listed = subprocess.run([own, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True).stdout
    names = {line.partition("==")[0].lower().replace("_", "-") for line in listed.split()}
    own_dependencies = {"numpy", "grpcio", "protobuf", "googleapis-common-protos", "typing-extensions"}
    assert names - {"pip", "setuptools"} == {"gradwire"} | own_dependencies
