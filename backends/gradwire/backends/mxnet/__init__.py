"""MXNet backend: Gluon blocks and exported graphs.

`Config` can be read without MXNet, which is imported when `load` or `MXNetModel` is first looked up.
"""

from typing import TYPE_CHECKING, Any

from gradwire.backends.mxnet.config import Config

if TYPE_CHECKING:
    from gradwire.backends.mxnet.model import MXNetModel, load

__all__ = ["Config", "MXNetModel", "load"]


def __getattr__(name: str) -> Any:
    if name in ("MXNetModel", "load"):
        from gradwire.backends.mxnet import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
