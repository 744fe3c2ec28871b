"""Documents keep up with the code."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from gradwire.backends.mxnet.config import Config as MXNetConfig
from gradwire.backends.registry import backend, backend_names
from gradwire.server import serving
from gradwire.server.config.identity import IdentityConfig
from gradwire.server.config.limits import Limits
from gradwire.server.config.models import ServedModel
from gradwire.server.config.server import ServerConfig
from gradwire.server.trust.grants.grant import Budget, Grant

ROOT = Path(__file__).parent.parent
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
DOCUMENTS = [ROOT / "README.md", *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@cache
def keys() -> set[str]:
    """Every key that a YAML file may hold."""
    # MXNet is not installed here, and what it is configured with does not need it.
    schemas = [
        ServerConfig,
        Limits,
        IdentityConfig,
        Grant,
        Budget,
        MXNetConfig,
        *(backend(name).Config for name in backend_names() if name != "mxnet"),
    ]
    return {key for schema in schemas for key in schema.model_fields} | set(ServedModel.model_fields) - {"model"}


def test_every_key_is_explained() -> None:
    missing = [key for key in sorted(keys()) if not re.search(rf"^\| `{key}` \|", CONFIGURATION, re.MULTILINE)]
    assert not missing, f"docs/configuration.md has no rows for {missing}"


@pytest.mark.parametrize("key", sorted(set(re.findall(r"^\| `(\w+)` \| (?!default)", CONFIGURATION, re.MULTILINE))))
def test_no_key_is_explained_that_does_not_exist(key: str) -> None:
    assert key in keys()


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


def blocks(language: str) -> list[str]:
    """The README's code in a language, as a reader would paste it."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


OWNERS_CODE = """
from torch import nn

def digits_cnn():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
"""


def test_the_readmes_file_is_served_and_its_client_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml
    from safetensors.torch import save_model

    (tmp_path / "my_models.py").write_text(OWNERS_CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_models

    save_model(my_models.digits_cnn(), str(tmp_path / "digits.safetensors"))
    (file,) = blocks("yaml")
    models = {model.pop("name"): model for model in yaml.safe_load(file)["models"]}
    models["digits"]["weights"] = str(tmp_path / models["digits"]["weights"])
    use, attack = blocks("python")
    with serving(models) as address:
        names: dict[str, object] = {}
        exec(use.replace("127.0.0.1:50051", address), names)
        exec(attack, names)
    assert getattr(names["adversarial"], "shape", None) == (4, 1, 8, 8)
