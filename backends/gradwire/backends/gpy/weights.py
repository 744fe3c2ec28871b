"""Gaussian processes in files of GPy's own.

GPy makes what a saved model names by ``eval`` of the name, so that a forged file can run code. Nothing is handed to it before
every name has been found in the list below.
"""

from __future__ import annotations

import gzip
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from GPy.models import GPClassification

from gradwire.backends.errors import ModelConfigError

_INFERENCE = "GPy.inference.latent_function_inference.expectation_propagation"
_KERNELS = (
    "Add", "Bias", "Brownian", "ExpQuad", "Exponential", "Linear", "Matern32", "Matern52", "OU", "PeriodicExponential",
    "PeriodicMatern32", "PeriodicMatern52", "Prod", "RatQuad", "RBF", "StdPeriodic", "White", "WienerVelocity",
)  # fmt: skip
_KNOWN = {
    "GPy.core.GP",
    "GPy.models.GPClassification",
    f"{_INFERENCE}.EP",
    "GPy.likelihoods.Bernoulli",
    "GPy.likelihoods.link_functions.Probit",
    "GPy.likelihoods.link_functions.ScaledProbit",
    *(f"GPy.kern.{name}" for name in _KERNELS),
    *(f"GPy.mappings.{name}" for name in ("Constant", "Identity", "Linear")),
}
"""What ``GPClassification.save_model`` writes; of kernels, those that GPy can save and that take any number of features."""


def read(path: Path, trust_pickle: bool, base: Any) -> Any:
    """The model in a file that the operator configured.

    Args:
        path: .json or .zip (``save_model``), .npy (``numpy.save`` of ``param_array``), or .pkl with ``trust_pickle``.
        trust_pickle: Whether a file may be read that runs code meanwhile.
        base: What the factory made, or None. It has the training data of a file without them, and all but the parameters for .npy.

    Raises:
        ModelConfigError: It cannot be read, holds what is not known, or does not fit.
    """
    if path.suffix not in (".json", ".zip", ".npy", ".pkl", ".pickle"):
        raise ModelConfigError("weights", f"{path} is of no known format; expected .json or .zip of save_model, .npy, or .pkl")
    if not path.is_file():
        raise ModelConfigError("weights", f"{path} is not there; expected a file")
    if path.suffix == ".npy":
        return _with_parameters(base, path)
    if path.suffix in (".json", ".zip"):
        return _built(_content(path), base, path)
    if not trust_pickle:
        raise ModelConfigError(
            "weights", f"{path} is a pickle, which runs code when it is read; save it with save_model, or set trust_pickle: true"
        )
    try:
        with path.open("rb") as file:
            return pickle.load(file)
    except Exception as e:
        raise ModelConfigError("weights", f"{path} cannot be read: {type(e).__name__}: {e}") from e


def _content(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        # GPy's .zip is gzip.
        content = json.loads(gzip.decompress(data) if path.suffix == ".zip" else data)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as e:
        raise ModelConfigError("weights", f"{path} is not what GPy's save_model writes: {type(e).__name__}: {e}") from e
    strange = [name for name in _classes(content) if not isinstance(name, str) or name not in _KNOWN]
    if strange or not isinstance(content, dict):
        holds = repr(strange[0]) if strange else type(content).__name__
        raise ModelConfigError(
            "weights", f"{path} holds {holds:.200}, which is no part of a GPClassification that GPy's save_model writes"
        )
    return content


def _classes(content: Any) -> list[Any]:
    """Every name in a file that GPy would evaluate."""
    found, left = [], [content]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if "class" in part:
                found.append(part["class"])
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)
    return found


def _built(content: dict[str, Any], base: Any, path: Path) -> Any:
    data = None
    if content.get("X") is None or content.get("Y") is None:
        if base is None:
            raise ModelConfigError(
                "weights", f"{path} was saved without its training data; give a factory whose model has them, or save them too"
            )
        data = (np.array(base.X), np.array(base.Y))
    try:
        return GPClassification.from_dict(content, data)
    except Exception as e:  # of whatever is missing, too much or of another size
        raise ModelConfigError("weights", f"{path} makes no GPClassification: {type(e).__name__}: {e}") from e


def _with_parameters(base: Any, path: Path) -> Any:
    if base is None:
        raise ModelConfigError("weights", f"{path} holds parameters alone; give a factory that makes their model")
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise ModelConfigError("weights", f"{path} is not a .npy file of numbers: {e}") from e
    expected = base.param_array.shape
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf" or values.shape != expected:
        given = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        names = ", ".join(base.parameter_names())
        raise ModelConfigError("weights", f"{path} holds {given}; the factory's model has {expected[0]} parameters: {names}")
    try:
        base.update_model(False)
        # Or else the approximation to the likelihood would stay that of the factory's parameters.
        base.inference_method.on_optimization_start()
        base[:] = values
        base.update_model(True)
    except Exception as e:
        raise ModelConfigError("weights", f"{path}: no posterior for {values}: {type(e).__name__}: {e}") from e
    return base
