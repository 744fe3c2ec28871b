"""A developer's loop: tests are collected without frameworks, and what each needs is found out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import programs
import pytest
from backend_choice import scope
from commands import environment
from frameworks import REPOSITORY, frameworks_of, imported_modules
from needs import DATABASE, FRAMEWORK, PROCESS, needs_of
from placeholders import NeedsTheFramework, Placeholder

ABSENT = ("torch", "tensorflow", "keras", "jax", "GPy", "art", "ray")

COLLECTS = f"""
import pytest, sys
assert pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "tests"]) == 0
sys.exit(", ".join(name for name in {ABSENT} if name in sys.modules) or 0)
"""


@pytest.mark.timeout(400)
def test_all_tests_are_collected_without_a_framework() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", COLLECTS], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:] or ended.stdout[-2000:]


def test_imports_at_the_left_margin_are_found_and_no_others() -> None:
    source = "import a.b as c, d\nfrom e import (\n    f as g,\n    h,\n)\nfrom i import j  # why\ndef k():\n    import m\n"
    assert imported_modules(source) == ["a.b", "d", "e", "e.f", "e.h", "i", "i.j"]


def test_frameworks_are_found_through_modules_of_the_repository() -> None:
    assert frameworks_of("gradwire.backends.torch") == {"torch"}
    assert "jax" in frameworks_of("jax_models")
    assert not frameworks_of("gradwire.server")
    assert not frameworks_of("conformance.cases")


def test_a_placeholder_is_called_and_derived_from_but_not_read() -> None:
    torch = Placeholder("torch")
    assert torch.nn is torch.nn
    assert torch.float32.__name__ == "float32"

    class Net(torch.nn.Module):  # type: ignore[misc]
        pass

    assert Net.__name__ == "Net"
    for read in (bool, len, list, float):
        with pytest.raises(NeedsTheFramework):
            read(torch.tensor([1.0]))


@pytest.mark.parametrize("transport_of", [np.zeros(1)])
def test_a_test_without_anything_needs_nothing(request: pytest.FixtureRequest, transport_of: object) -> None:
    assert needs_of(request.node) == frozenset()


def test_a_test_that_starts_a_process_in_a_fixture_needs_a_process(request: pytest.FixtureRequest, started: int) -> None:
    assert needs_of(request.node) == {PROCESS}
    assert started == 0


@pytest.fixture
def started() -> int:
    return subprocess.run(["true"], check=True).returncode


@pytest.mark.parametrize("model", [{"backend": "torch", "factory": "models:mlp"}])
def test_a_test_of_a_model_of_torch_needs_a_framework(request: pytest.FixtureRequest, model: dict[str, str]) -> None:
    assert needs_of(request.node) == {FRAMEWORK}


@pytest.mark.parametrize("kind", [pytest.param("PostgreSQL", marks=pytest.mark.database)])
def test_a_parameter_may_need_a_database(request: pytest.FixtureRequest, kind: str) -> None:
    assert needs_of(request.node) == {DATABASE}


def test_one_process_has_the_cases_of_a_server_and_whole_files() -> None:
    operations = "tests/conformance/test_operations.py::test_a"
    assert scope(f"{operations}[keras-cnn]") == scope(f"{operations}[1-tensorflow_v1-cnn]") == "conformance tensorflow"
    assert scope(f"{operations}[sklearn-svc]") == scope("tests/conformance/test_access.py::test_b") == "conformance torch"
    assert scope("tests/wire/test_names.py::test_c[torch-cnn]") == "tests/wire/test_names.py"


def test_the_end_of_a_run_says_how_many_tests_a_package_adds() -> None:
    reasons = ["Skipped: nginx is not installed: apt-get install nginx-light"] * 2 + [
        "promtool is not installed: apt-get install prometheus"
    ]
    assert programs.advice([*reasons, "there is no GPU"]) == [
        "apt-get install nginx-light adds 2 tests",
        "apt-get install prometheus adds 1 test",
    ]


@pytest.mark.parametrize("required", [False, True])
def test_a_missing_program_skips_a_test_or_fails_it(required: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find", lambda name: None)
    monkeypatch.setenv("GRADWIRE_REQUIRE_PROGRAMS", str(int(required)))
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception), match="apt-get install nginx-light") as raised:
        programs.need("nginx")
    assert raised.type is (pytest.fail.Exception if required else pytest.skip.Exception)
