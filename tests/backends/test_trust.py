"""Weights that run code when they are read: rejected before any of it runs, in every format of a backend.

Each file makes a folder if its code runs. With `trust_pickle: true` the same file does, which proves that its code works.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import keras
import numpy as np
import pytest
import skops.io
import torch
from keras import layers
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from gradwire.server.config.reading import parse_config
from gradwire.server.engines.engine import load_models
from gradwire.server.errors import ConfigError
from models import mlp


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.canary,)


def pickled(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(canary)))


def of_joblib(path: Path, canary: Path) -> None:
    joblib.dump(Bomb(canary), path)


def of_torch(path: Path, canary: Path) -> None:
    torch.save({"0.weight": Bomb(canary)}, path)


def of_skops(path: Path, canary: Path) -> None:
    skops.io.dump(FunctionTransformer(func=os.mkdir, kw_args={"path": str(canary)}), path)


def keras_layer(canary: Path) -> Any:
    # Runs when the layer is built from the file, to find out its output's shape.
    code = compile(f"lambda x: (__import__('os').makedirs({str(canary)!r}, exist_ok=True), x)[1]", "<bomb>", "eval")
    return keras.Sequential([keras.Input((6,)), layers.Lambda(eval(code)), layers.Dense(4)])


def of_keras(path: Path, canary: Path) -> None:
    keras_layer(canary).save(path)
    os.rmdir(canary)


def of_objects(path: Path, canary: Path) -> None:
    np.save(path, np.array([Bomb(canary)], object), allow_pickle=True)


def of_object_table(path: Path, canary: Path) -> None:
    np.savez(path, x=np.zeros((1, 6)), y=np.array([Bomb(canary)], object))


def of_gpy(path: Path, canary: Path) -> None:
    """GPy evaluates the names of classes in a file."""
    content = json.dumps({"class": f"__import__('os').mkdir({str(canary)!r})", "name": "gp"}).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".zip" else content)


def of_torch_zip_under_another_name(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb(canary)))


def jax_net() -> Any:
    import jax_models

    return jax_models.mlp()


def fitted() -> Any:
    return LogisticRegression().fit(np.eye(6), [0, 1, 0, 1, 0, 1])


TORCH = {"backend": "torch", "factory": mlp}
SKLEARN = {"backend": "sklearn", "factory": fitted}
KERAS = {"backend": "keras"}
TENSORFLOW = {"backend": "tensorflow", "factory": lambda: keras.Sequential([keras.Input((6,)), layers.Dense(4)])}
JAX = {"backend": "jax", "factory": jax_net}
GPY = {"backend": "gpy"}
Write = Callable[[Path, Path], None]

UNTRUSTED: list[tuple[dict[str, Any], str, Write]] = [
    (TORCH, "w.pt", of_torch),
    (TORCH, "w.pth", of_torch),
    (TORCH, "w.safetensors", of_torch),
    (TORCH, "w.safetensors", of_torch_zip_under_another_name),
    (SKLEARN, "w.pkl", pickled),
    (SKLEARN, "w.joblib", of_joblib),
    (SKLEARN, "w.skops", of_skops),
    (SKLEARN, "w.skops", of_joblib),
    (KERAS, "w.keras", of_keras),
    (KERAS, "w.h5", of_keras),
    (KERAS, "w.keras", pickled),
    (TENSORFLOW, "w.keras", of_keras),
    (TENSORFLOW, "w.weights.h5", pickled),
    (JAX, "w.pkl", pickled),
    (JAX, "w.safetensors", pickled),
    (GPY, "w.pkl", pickled),
    (GPY, "w.json", of_gpy),
    (GPY, "w.zip", of_gpy),
    (GPY, "w.npy", of_objects),
]


def read(model: dict[str, Any], **keys: Any) -> None:
    entry = {"name": "m", "input_shape": [6], "nb_classes": 4, **model, **keys}
    if model["backend"] in ("sklearn", "gpy"):
        entry["nb_classes"] = 2
    load_models(parse_config({"models": [entry]}, Path("/"), "test"))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(
    ("model", "name", "write"), UNTRUSTED, ids=[f"{m['backend']}-{name}-{write.__name__}" for m, name, write in UNTRUSTED]
)
def test_no_code_in_a_file_runs_without_the_operators_word(model: dict[str, Any], name: str, write: Write, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / name
    write(path, canary)
    with pytest.raises(ConfigError, match="weights"):
        read(model, weights=str(path))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("model", "name", "write"),
    [(TORCH, "w.pt", of_torch), (SKLEARN, "w.pkl", pickled), (SKLEARN, "w.joblib", of_joblib), (KERAS, "w.keras", of_keras),
     (JAX, "w.pkl", pickled), (GPY, "w.pkl", pickled)],
    ids=["torch", "sklearn", "joblib", "keras", "jax", "gpy"],
)  # fmt: skip
def test_the_same_files_run_code_if_the_operator_says_so(model: dict[str, Any], name: str, write: Write, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / name
    write(path, canary)
    with suppress(ConfigError):  # what the file holds besides the bomb is no model
        read(model, weights=str(path), trust_pickle=True)
    assert canary.exists()


def test_objects_in_a_table_are_not_unpickled(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "known.npz"
    of_object_table(path, canary)
    with pytest.raises(ConfigError, match="table"):
        read({"backend": "blackbox"}, table=str(path))
    assert not canary.exists()


def test_a_kept_version_that_was_forged_is_not_unpickled(tmp_path: Path) -> None:
    """A version forged by a user with write access to the state folder is read as weights, and never run."""
    canary, path = tmp_path / "canary", tmp_path / "v1"
    entry = {"name": "m", "backend": "sklearn", "factory": fitted, "input_shape": [6], "nb_classes": 2}
    for model, write in ((entry, of_joblib), ({**entry, "backend": "torch", "factory": mlp, "nb_classes": 4}, of_torch)):
        (estimator,) = load_models(parse_config({"models": [model]}, Path("/"), "test")).values()
        write(path, canary)
        with pytest.raises(Exception, match=r"v1"):
            estimator.restore(path, "v1")
        assert not canary.exists()
