"""Documents keep up with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradwire.backends.registry import backend, backend_names
from gradwire.server.config import Limits, ServedModel, ServerConfig

ROOT = Path(__file__).parent.parent
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
DOCUMENTS = [ROOT / "README.md", *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def keys() -> set[str]:
    """Every key that a YAML file may hold."""
    schemas = [ServerConfig, Limits, *(backend(name).Config for name in backend_names())]
    return {key for schema in schemas for key in schema.model_fields} | set(ServedModel.model_fields) - {"model"}


@pytest.mark.parametrize("key", sorted(keys()))
def test_every_key_is_explained(key: str) -> None:
    assert re.search(rf"^\| `{key}` \|", CONFIGURATION, re.MULTILINE), f"docs/configuration.md has no row for {key}"


def test_no_key_is_explained_that_does_not_exist() -> None:
    explained = set(re.findall(r"^\| `(\w+)` \| (?!default)", CONFIGURATION, re.MULTILINE))
    assert explained <= keys()


def test_every_test_that_a_document_names_exists() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for document in DOCUMENTS:
        for name in re.findall(r"`(test_\w+)`", document.read_text()):
            assert f"def {name}(" in tests, f"{document.name} names {name}"


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"
