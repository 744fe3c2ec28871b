"""Gaussian processes in GPy's own file formats.

GPy calls ``eval`` on the names in a saved model, so that a forged file can run code. Files are passed to GPy only if every
name is in the list below.
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
"""Names in files of ``GPClassification.save_model``, with the kernels that GPy can save for any number of features."""


def read(path: Path, trust_pickle: bool, base: Any) -> Any:
    """Reads the model in a file that the operator configured.

    Args:
        path: .json or .zip (``save_model``), .npy (``numpy.save`` of ``param_array``), or .pkl with ``trust_pickle``.
        trust_pickle: If true, formats that run code while they are read are allowed.
        base: The factory's model, or None. It supplies training data that a file lacks, and all but the parameters for .npy.

    Raises:
        ModelConfigError: The file cannot be read, holds unknown names, or does not fit.
    """
    if path.suffix not in (".json", ".zip", ".npy", ".pkl", ".pickle"):
        raise ModelConfigError("weights", f"{path} has no known format; expected .json or .zip of save_model, .npy, or .pkl")
    if not path.is_file():
        raise ModelConfigError("weights", f"{path} does not exist; expected a file")
    if path.suffix == ".npy":
        return _with_parameters(base, path)
    if path.suffix in (".json", ".zip"):
        return _built(_content(path), base, path)
    if not trust_pickle:
        raise ModelConfigError(
            "weights",
            f"{path} is a pickle, which runs code when it is read; save the model with save_model, or set trust_pickle: true",
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
        raise ModelConfigError("weights", f"{path} is not a file of GPy's save_model: {type(e).__name__}: {e}") from e
    strange = [name for name in _classes(content) if not isinstance(name, str) or name not in _KNOWN]
    if strange or not isinstance(content, dict):
        holds = repr(strange[0]) if strange else type(content).__name__
        raise ModelConfigError(
            "weights", f"{path} holds {holds:.200}, which is not part of a GPClassification from GPy's save_model"
        )
    return content


def _classes(content: Any) -> list[Any]:
    """Lists every name in a file that GPy would evaluate."""
    names, left = [], [content]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if "class" in part:
                names.append(part["class"])
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)
    return names


def _built(content: dict[str, Any], base: Any, path: Path) -> Any:
    data = None
    if content.get("X") is None or content.get("Y") is None:
        if base is None:
            raise ModelConfigError(
                "weights", f"{path} was saved without its training data; save them too, or set a factory whose model has them"
            )
        data = (np.array(base.X), np.array(base.Y))
    try:
        return GPClassification.from_dict(content, data)
    except Exception as e:  # GPy raises any type for missing, superfluous or misshapen parts
        raise ModelConfigError("weights", f"{path} cannot be made into a GPClassification: {type(e).__name__}: {e}") from e


def _with_parameters(base: Any, path: Path) -> Any:
    if base is None:
        raise ModelConfigError("weights", f"{path} holds parameters alone; set a factory that makes their model")
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
        # Without this, the approximation to the likelihood would stay that of the factory's parameters.
        base.inference_method.on_optimization_start()
        base[:] = values
        base.update_model(True)
    except Exception as e:
        raise ModelConfigError("weights", f"{path}: no posterior for {values}: {type(e).__name__}: {e}") from e
    return base
