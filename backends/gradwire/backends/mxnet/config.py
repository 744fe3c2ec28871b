"""The configuration keys of an MXNet model.

Invariant: MXNet is not imported here, so that a configuration can be read without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from gradwire.backends.config import ModelConfig, ObjectRef


def _by_name(value: Any) -> Any:
    """Replaces MXNet's own name of an optimizer, ``adam`` for example, by a call of `training.optimizer_named`."""
    path, args = (value.get("path"), value.get("args", {})) if isinstance(value, dict) else (value, {})
    if isinstance(path, str) and path.isidentifier() and isinstance(args, dict):
        return {"path": "gradwire.backends.mxnet.training:optimizer_named", "args": {"name": path, **args}}
    return value


OptimizerRef = Annotated[ObjectRef, BeforeValidator(_by_name)]


class Config(ModelConfig):
    """Keys of an MXNet model."""

    factory: ObjectRef | None = None
    """The owner's code; called without positional arguments, returns a ``mxnet.gluon.Block``."""
    symbol: Path | None = None
    """A graph that ``HybridBlock.export`` or ``Module.save_checkpoint`` wrote, a .json file; needs its ``weights``."""
    loss: ObjectRef | None = None
    """A loss class with its arguments, e.g. ``mxnet.gluon.loss.SoftmaxCrossEntropyLoss``; without it there are no losses."""
    optimizer: OptimizerRef | None = None
    """MXNet's name of an optimizer, or a function that returns one; without it there is no fit."""
    hybridize: bool = True
    """Traces a HybridBlock once; false runs its Python code in every call."""
    input_dtype: Literal["int64"] | None = None
    """For models whose first layer is an embedding; such inputs have no gradients."""
    device: str = Field("cpu", pattern=r"^(cpu|gpu(:\d+)?)$")
    gpu: ClassVar[str] = "gpu:0"

    @model_validator(mode="after")
    def _one_model(self) -> Config:
        if (self.factory is None) == (self.symbol is None):
            given = "neither" if self.factory is None else "both"
            raise ValueError(f"{given} of factory and symbol are set; a model comes from one of them")
        if self.symbol is not None and self.weights is None:
            raise ValueError("symbol needs weights, the .params file that was written beside it; set it too")
        if self.optimizer is not None and self.loss is None:
            raise ValueError("optimizer needs loss, which a model is fitted to; set it too")
        return self
