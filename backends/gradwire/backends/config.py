"""The keys that every model's configuration takes, whatever its backend."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gradwire.backends.errors import ModelConfigError

Number = float | list[float] | list[list[list[float]]]


class Object(BaseModel):
    """A reference to the operator's Python code: an import path, and arguments for a call."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(pattern=r"^[A-Za-z_][\w.]*[.:][A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
    """``package.module:name`` or ``package.module.name``."""
    args: dict[str, Any] = {}
    target: Any = Field(default=None, exclude=True, repr=False)
    """The object itself, in configurations made in Python instead of read from a file."""

    def resolve(self, key: str) -> Any:
        """Imports the object that the path names. ``key`` is the configuration key, for errors."""
        if self.target is not None:
            return self.target
        module_name, _, name = self.path.partition(":") if ":" in self.path else self.path.rpartition(".")
        try:
            resolved: Any = importlib.import_module(module_name)
            for part in name.split("."):
                resolved = getattr(resolved, part)
        except ModuleNotFoundError as e:
            raise ModelConfigError(
                key,
                f"{self.path!r} cannot be imported: {e}. Is the file's folder the one of the configuration, or on PYTHONPATH?",
            ) from e
        except AttributeError as e:
            raise ModelConfigError(key, f"{self.path!r}: {e}. Expected module:name of something that the module defines") from e
        except Exception as e:
            raise ModelConfigError(key, f"{self.path!r}: importing {module_name} raised {type(e).__name__}: {e}") from e
        return resolved

    def build(self, key: str, *positional: Any) -> Any:
        """Calls the object that the path names with the configured arguments."""
        target: Callable[..., Any] = self.resolve(key)
        try:
            return target(*positional, **self.args)
        except Exception as e:
            raise ModelConfigError(key, f"{self.path!r} called with {self.args} raised {type(e).__name__}: {e}") from e


def _object_from_text(value: Any) -> Any:
    if isinstance(value, str):
        return {"path": value}
    if callable(value):
        return {
            "path": f"{value.__module__}:{getattr(value, '__name__', type(value).__name__)}".replace("<lambda>", "lambda_"),
            "target": value,
        }
    return value


ObjectRef = Annotated[Object, BeforeValidator(_object_from_text)]
"""An `Object`; in YAML its path alone, or ``{path: ..., args: {...}}``; in Python also a callable."""


class Standardise(BaseModel):
    """Standardisation of model inputs, ``(x - mean) / std``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: Number = 0.0
    std: Number = 1.0


class ModelConfig(BaseModel):
    """Configuration keys that every backend takes. A backend's ``Config`` adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    gpu: ClassVar[str] = ""
    """Value of ``device`` for the first GPU that the process sees; empty for backends without GPUs."""

    backend: str
    weights: Path | None = None
    trust_pickle: bool = False
    """Allows weights in a format that runs code while it is read."""
    task: Literal["classification", "regression"] = "classification"
    input_shape: tuple[int, ...] = Field(min_length=1)
    """Sizes of a row's axes; -1 accepts any size."""
    nb_classes: int = Field(ge=1)
    clip_values: tuple[Number, Number] | None = None
    channels_first: bool | None = None
    preprocessing: Standardise | None = None
    preprocessing_defences: list[ObjectRef] = []
    postprocessing_defences: list[ObjectRef] = []
    output: Literal["logits", "probabilities", "values"] | None = None
    """Kind of the outputs; inferred from the loss or the framework if not set."""
    device: str = "cpu"
    max_batch_rows: int = Field(default=128, ge=1)
    warm_up: list[Annotated[int, Field(ge=1)]] = []
    """Numbers of rows for which every operation is computed once while the model loads, before the first call."""
    coalesce: bool = True
    """Allows rows of several calls to be computed together; without it an answer never depends on other callers."""

    @model_validator(mode="after")
    def _sizes(self) -> ModelConfig:
        if any(size != -1 and size < 1 for size in self.input_shape):
            raise ValueError(f"input_shape {list(self.input_shape)} has a size below 1; write -1 for an axis of any size")
        if self.task == "classification" and self.nb_classes == 1:
            raise ValueError("nb_classes is 1; a classifier needs at least 2, also with a single output")
        return self

    @property
    def made_of(self) -> tuple[str, ...]:
        """Names of the models of the same configuration that are loaded first and passed to the backend."""
        return ()

    def completed(self, members: Mapping[str, ModelConfig]) -> ModelConfig:
        """The configuration, with missing keys taken from the models that it is `made_of`. Raises ModelConfigError."""
        return self
