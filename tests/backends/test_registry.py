"""Backends by name: ours, those of other packages, and those whose framework is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.registry import backend, backend_names
from gradwire.client import connect
from gradwire.server import serving

THEIRS = """
import numpy as np
from gradwire.backends.config import ModelConfig

class Config(ModelConfig):
    slope: float = 1.0

class Line:
    input_dtype = np.dtype(np.float64)
    output_kind = "values"
    loss_name = ""
    loss_reduction = "sum"
    device = "cpu"
    fitted = True
    may_wait = False

    def __init__(self, slope):
        self.slope, self.layer_names, self.notes = slope, [], []

    def predict(self, x, *, training_mode):
        return x.sum(1, keepdims=True) * self.slope

    def class_gradient(self, x, label, *, training_mode):
        return np.full((len(x), 1, x.shape[1]), self.slope)

def load(config):
    return Line(config.slope)
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package that is installed beside ours and adds two backends."""
    (tmp_path / "their_backend.py").write_text(THEIRS)
    (tmp_path / "their_broken_backend.py").write_text("import a_framework_that_is_not_installed\n")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gradwire.backends]\nline = their_backend\nbroken = their_broken_backend\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("their_backend", None)


def model(**keys: Any) -> dict[str, Any]:
    return dict(input_shape=[3], nb_classes=1, task="regression", **keys)


@pytest.mark.usefixtures("theirs")
def test_a_backend_of_another_package_is_served_with_the_capabilities_that_it_defines() -> None:
    assert {"line", "torch", "blackbox"} <= set(backend_names())
    with serving({"line": model(backend="line", slope=2.0)}) as address, connect(address) as server:
        remote = server.estimator("line")
        assert remote.card.operations == {"predict", "class_gradient"}
        assert remote.card.task == "regression"
        x = np.arange(6.0).reshape(2, 3)
        np.testing.assert_array_equal(remote.predict(x), 2 * x.sum(1, keepdims=True))
        np.testing.assert_array_equal(remote.class_gradient(x), np.full((2, 1, 3), 2.0))


@pytest.mark.usefixtures("theirs")
def test_a_missing_framework_is_named_with_what_to_install() -> None:
    with pytest.raises(ModelConfigError, match=r"a_framework_that_is_not_installed.*pip install 'gradwire\[broken\]'"):
        backend("broken")


def test_an_unknown_backend_is_named_with_those_that_are_there() -> None:
    ours = "blackbox, ensemble, gpy, jax, keras, mxnet, sklearn, tensorflow, tensorflow_v1, torch"
    with pytest.raises(ModelConfigError, match=ours):
        backend("no-such-backend")
