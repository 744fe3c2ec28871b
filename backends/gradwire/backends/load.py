"""Loading of a configured model as an estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import BackendError, ModelConfigError
from gradwire.backends.estimator import Estimator
from gradwire.backends.preprocessing import Preprocessing, Standardisation
from gradwire.backends.registry import backend
from gradwire.backends.warm_up import warm_up


def load(config: ModelConfig, loaded: Mapping[str, Estimator] | None = None) -> Estimator:
    """Loads a model with its preprocessing, and predicts one row as a check.

    Args:
        config: The model's configuration.
        loaded: Loaded models by name, including the members of this one, if it has any. They are shared.

    Raises:
        ModelConfigError: A key of the configuration is wrong; the error names it.
    """
    loaded = loaded or {}
    members = _members(config, loaded)
    return load_completed(config.completed({name: member.config for name, member in members.items()}), loaded)


def load_completed(config: ModelConfig, loaded: Mapping[str, Estimator]) -> Estimator:
    """Loads a model as `load` does, from a configuration that is completed with its members' already."""
    members = _members(config, loaded)
    module = backend(config.backend)
    model = module.load(config, members) if members else module.load(config)
    estimator = Estimator(model, config, _preprocessing(config, model.input_dtype), _postprocessing(config))
    row = _probe(estimator)
    if row is not None:
        warm_up(model, config, row)
    return estimator


def _members(config: ModelConfig, loaded: Mapping[str, Estimator]) -> dict[str, Estimator]:
    missing = [name for name in config.made_of if name not in loaded]
    if missing:
        names = ", ".join(loaded) or "none"
        raise ModelConfigError("members", f"{missing[0]!r} is not a loaded model; loaded are: {names}")
    return {name: loaded[name] for name in config.made_of}


def _preprocessing(config: ModelConfig, dtype: np.dtype[Any]) -> Preprocessing:
    standardisation = None
    if config.preprocessing is not None:
        if dtype.kind != "f":
            raise ModelConfigError(
                "preprocessing", f"standardisation needs floating inputs, and the model takes {dtype}; leave the key out"
            )
        try:
            standardisation = Standardisation.of(config.preprocessing.mean, config.preprocessing.std, config.input_shape, dtype)
        except BackendError as e:
            raise ModelConfigError("preprocessing", str(e)) from e
    defences = [spec.build("preprocessing_defences") for spec in config.preprocessing_defences]
    for defence in defences:
        _check_interface(defence, "preprocessing_defences", "__call__", "estimate_gradient", "apply_fit", "apply_predict")
    return Preprocessing(defences, standardisation, dtype)


def _postprocessing(config: ModelConfig) -> list[Any]:
    defences = [spec.build("postprocessing_defences") for spec in config.postprocessing_defences]
    for defence in defences:
        _check_interface(defence, "postprocessing_defences", "__call__", "apply_predict")
    return defences


def _check_interface(defence: object, key: str, *names: str) -> None:
    missing = [name for name in names if not hasattr(defence, name)]
    if missing:
        raise ModelConfigError(
            key, f"{type(defence).__name__} has no {', '.join(missing)}; expected an object with ART's interface"
        )


_FREE_SIZE = 8
"""Size of free axes in the row that tries the model."""


def _probe(estimator: Estimator) -> Array | None:
    """Predicts one row, so that a wrong input shape or number of classes fails at start instead of in calls.

    A model that has not been fitted is not tried, and one that rejects the free sizes tried is accepted. A model that answers
    certain rows only has one of them as its ``example``, a model input.

    Returns:
        A model input, ``(1, *row)``, that the model answered; None if there is none.
    """
    config = estimator.config
    if not estimator.model.fitted:
        return None
    example = getattr(estimator.model, "example", None)
    if example is not None:
        outputs = estimator.model.predict(example, training_mode=False)
        estimator.output_shape, estimator.output_dtype = outputs.shape[1:], outputs.dtype
        return np.asarray(example)
    shape = tuple(_FREE_SIZE if size == -1 else size for size in config.input_shape)
    low = 0.0 if config.clip_values is None else np.min(config.clip_values[0])
    row = np.broadcast_to(np.asarray(low, estimator.model.input_dtype), (1, *shape)).copy()
    try:
        outputs = estimator.predict(row)
    except (BackendError, ValueError) as e:
        if -1 in config.input_shape:
            return None
        raise ModelConfigError("input_shape", f"the model does not take one row of shape {list(shape)}: {e}") from e
    binary = config.nb_classes == 2 and outputs.shape[1:] == (1,)
    if config.task == "classification" and outputs.shape != (1, config.nb_classes) and not binary:
        given = outputs.shape[1:]
        raise ModelConfigError("nb_classes", f"the model's output for a row has shape {given}; nb_classes is {config.nb_classes}")
    return estimator.preprocessing(row, None) if config.warm_up else None
