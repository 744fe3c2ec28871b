"""Keras's own files, of whole models and of weights.

Invariant: code in a file does not run unless the operator trusts it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.tensorflow.device import keras

WEIGHTS = (".weights.h5", ".keras", ".safetensors")


def model(path: Path, trust: bool) -> Any:
    """Reads the model in a ``.keras`` file, not compiled. Raises ModelConfigError."""
    if path.is_dir():
        raise ModelConfigError("weights", f"{path} is a folder; expected a .keras file. A SavedModel is for backend: tensorflow")
    if not path.is_file():
        raise ModelConfigError("weights", f"{path} does not exist; expected a .keras file")
    if path.suffix != ".keras" and not (path.suffix == ".h5" and trust):
        raise ModelConfigError(
            "weights",
            f"{path} is not a .keras file; without a factory, expected one. An .h5 file of a whole model is read with "
            "trust_pickle: true, because Keras reads it without safe mode",
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except Exception as e:
        advice = ""
        if "safe_mode" in str(e) or "unsafe" in str(e).lower():
            advice = ". The file holds Python code: if you made it yourself, set trust_pickle: true"
        elif "custom" in str(e) or "locate" in str(e):
            advice = ". For classes of your own, give a factory, and weights saved with model.save_weights('NAME.weights.h5')"
        raise ModelConfigError("weights", f"{path} cannot be read: {type(e).__name__}: {e}{advice}") from e


def put(owner: Any, path: Path) -> None:
    """Gives a built model the weights of a ``.weights.h5`` or ``.keras`` file. Raises ModelConfigError."""
    if not path.is_file():
        raise ModelConfigError("weights", f"{path} does not exist; expected one of {', '.join(WEIGHTS)}")
    try:
        owner.load_weights(path)
    except Exception as e:
        raise ModelConfigError("weights", f"{path} does not fit the model: {type(e).__name__}: {e}") from e
