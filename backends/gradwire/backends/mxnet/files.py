"""Exported graphs of MXNet, read with their weights.

Invariant: reading a file runs no code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradwire.backends.errors import ModelConfigError, Unsupported
from gradwire.backends.mxnet import graphs
from gradwire.backends.mxnet.device import mx
from gradwire.backends.mxnet.weights import last_line, read

_ONES = ("gamma", "running_var", "moving_var")
_ZEROS = ("bias", "beta", "running_mean", "moving_mean")


def exported(symbol: Path, weights: Path, device: Any) -> Any:
    """Reads the block of an exported graph, with its weights. Raises ModelConfigError."""
    if not symbol.is_file():
        raise ModelConfigError("symbol", f"{symbol} does not exist; expected a .json file, as HybridBlock.export writes it")
    try:
        loaded = mx.sym.load(str(symbol))
        (loaded,) = graphs.repaired([loaded[len(loaded.list_outputs()) - 1]])
    except (mx.base.MXNetError, ValueError, KeyError) as e:
        raise ModelConfigError("symbol", f"{symbol} is not a readable graph: {last_line(e)}") from e
    arrays = read(weights)
    inputs = [name for name in loaded.list_inputs() if name not in arrays]
    if len(inputs) != 1:
        raise ModelConfigError(
            "weights",
            f"{weights} lacks {', '.join(inputs) or 'nothing'} of the inputs of {symbol}; expected it to lack the rows alone",
        )
    dtype = next((array.dtype for array in arrays.values() if array.dtype.kind == "f"), "float32")
    block = mx.gluon.SymbolBlock(loaded, [mx.sym.var(inputs[0], dtype=dtype)])
    for name, parameter in block.collect_params().items():
        parameter.shape, parameter.dtype = arrays[name].shape, arrays[name].dtype
        parameter.initialize(init=mx.init.Zero(), ctx=device)
        parameter.set_data(mx.nd.array(arrays[name], dtype=arrays[name].dtype))
    return block


def initialise(block: Any) -> None:
    """Resets an exported graph to initial weights, chosen by their names because the graph does not hold initialisers.

    Raises:
        Unsupported: A name does not tell the initial weights.
    """
    for name, parameter in block.collect_params().items():
        array = mx.nd.zeros(parameter.shape, dtype=parameter.dtype)
        if name.endswith(_ONES):
            array[:] = 1
        elif array.ndim >= 2:
            mx.init.Xavier()._init_weight(name, array)
        elif not name.endswith(_ZEROS):
            raise Unsupported(f"the graph does not hold initial weights {name!r}; a clone needs a model from a factory")
        parameter.set_data(array)
