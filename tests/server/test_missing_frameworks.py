"""A server whose model needs a framework that is not there ends at start and says what to install.

Each backend is asked for in an environment that truly lacks its framework: MXNet's has no other framework, and no other has MXNet.
"""

from __future__ import annotations

from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml
from commands import gradwire
from environments import MXNET, python_of

from gradwire.backends.registry import backend_names

NEEDED = {
    "torch": ("torch",),
    "tensorflow": ("tensorflow", "keras"),
    "keras": ("tensorflow", "keras"),
    "tensorflow_v1": ("tensorflow",),
    "jax": ("jax",),
    "mxnet": ("mxnet",),
    "sklearn": ("sklearn",),
    "gpy": ("GPy",),
}
"""Modules by backend, of which a server names the first that it misses."""


def test_all_backends_but_those_of_numpy_alone_need_a_framework() -> None:
    assert set(backend_names()) - set(NEEDED) == {"blackbox", "ensemble"}


@pytest.mark.parametrize("backend", NEEDED)
def test_a_server_without_the_framework_ends_with_2_and_names_the_extra_to_install(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    model = {"name": "m", "backend": backend, "factory": "models:mlp", "input_shape": [6], "nb_classes": 4}
    path.write_text(yaml.safe_dump({"listen": "127.0.0.1:0", "models": [model]}))
    ended = gradwire("serve", str(path), python=None if backend == "mxnet" else python_of(MXNET))
    assert (ended.returncode, ended.stdout) == (2, "")
    # pip before 23.3 finds an extra by the very name that the installed package has for it, and otherwise only warns.
    extra = backend.replace("_", "-")
    assert extra in metadata("gradwire").get_all("Provides-Extra", [])
    said = [f"models[0] (m): backend: {backend!r} needs {module}, which is not installed: " for module in NEEDED[backend]]
    assert any(text + f"pip install 'gradwire[{extra}]'" in ended.stderr for text in said), ended.stderr
    assert "Traceback" not in ended.stderr
