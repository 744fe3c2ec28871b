"""The weights of a Gluon block: in files, and as values to go back to.

What holds: a block gets all of its weights or keeps all that it has, and nothing that is read runs code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from gradwire.backends import weights_file
from gradwire.backends.backend import Array
from gradwire.backends.errors import ModelConfigError, Unsupported
from gradwire.backends.mxnet import graphs
from gradwire.backends.mxnet.device import mx

Clones: TypeAlias = list[Any]

_ONES = ("gamma", "running_var", "moving_var")
_ZEROS = ("bias", "beta", "running_mean", "moving_mean")


def read(path: Path) -> dict[str, Array]:
    """Arrays by name from a .params or a .safetensors file. Raises ModelConfigError."""
    if path.suffix == ".safetensors":
        return weights_file.read(path)
    if path.suffix != ".params":
        raise ModelConfigError(
            "weights", f"{path} ends in {path.suffix!r}; expected .params, as save_parameters or export writes it, or .safetensors"
        )
    if not path.is_file():
        raise ModelConfigError("weights", f"{path} is not there; expected a .params file")
    try:
        found = mx.nd.load(str(path))
    except mx.base.MXNetError as e:
        raise ModelConfigError("weights", f"{path} is not a readable .params file: {_last_line(e)}") from e
    if not isinstance(found, dict):
        raise ModelConfigError("weights", f"{path} holds arrays without names; expected what save_parameters or export writes")
    return {name.removeprefix("arg:").removeprefix("aux:"): array.asnumpy() for name, array in found.items()}


def named(block: Any) -> dict[str, Any]:
    """A block's parameters by names that do not depend on what else was made in the process: ``body.0.weight``."""
    if isinstance(block, mx.gluon.SymbolBlock):
        return dict(block.collect_params().items())
    return dict(block._collect_params_with_prefix().items())


def put(block: Any, arrays: Mapping[str, Array], source: Path) -> None:
    """Gives a block its weights. Raises ModelConfigError, before anything changes, if names or shapes differ."""
    own = _best_names(block, arrays)
    # Of shared weights a file may hold one.
    present = {id(own[name]) for name in arrays if name in own}
    weights_file.check({name: p.shape for name, p in own.items() if name in arrays or id(p) not in present}, arrays, source)
    for name, array in arrays.items():
        own[name].set_data(mx.nd.array(array, dtype=own[name].dtype))


def save(block: Any, path: Path) -> None:
    """Writes a safetensors file."""
    weights_file.save({name: p.data().asnumpy() for name, p in named(block).items()}, path)


def clones(block: Any) -> Clones:
    """All that a block holds."""
    return [p.data().copy() for p in block.collect_params().values()]


def put_back(block: Any, before: Clones) -> None:
    """In place: a traced network holds the arrays."""
    for p, array in zip(block.collect_params().values(), before, strict=True):
        p.set_data(array)


def exported(symbol: Path, weights: Path, device: Any) -> Any:
    """The block of a graph that was written to a file, with its weights. Raises ModelConfigError."""
    if not symbol.is_file():
        raise ModelConfigError("symbol", f"{symbol} is not there; expected a .json file, as HybridBlock.export writes it")
    try:
        loaded = mx.sym.load(str(symbol))
        (loaded,) = graphs.repaired([loaded[len(loaded.list_outputs()) - 1]])
    except (mx.base.MXNetError, ValueError, KeyError) as e:
        raise ModelConfigError("symbol", f"{symbol} is not a readable graph: {_last_line(e)}") from e
    arrays = read(weights)
    inputs = [name for name in loaded.list_inputs() if name not in arrays]
    if len(inputs) != 1:
        raise ModelConfigError(
            "weights",
            f"{weights} lacks {', '.join(inputs) or 'nothing'} of what {symbol} takes; expected it to lack the rows' name alone",
        )
    dtype = next((array.dtype for array in arrays.values() if array.dtype.kind == "f"), "float32")
    block = mx.gluon.SymbolBlock(loaded, [mx.sym.var(inputs[0], dtype=dtype)])
    for name, parameter in block.collect_params().items():
        parameter.shape, parameter.dtype = arrays[name].shape, arrays[name].dtype
        parameter.initialize(init=mx.init.Zero(), ctx=device)
        parameter.set_data(mx.nd.array(arrays[name], dtype=arrays[name].dtype))
    return block


def initialise(block: Any) -> None:
    """Gives an exported graph the weights of one that was not trained, by what their names say they are: the rest is lost.

    Raises:
        Unsupported: A name does not say it.
    """
    for name, parameter in block.collect_params().items():
        array = mx.nd.zeros(parameter.shape, dtype=parameter.dtype)
        if name.endswith(_ONES):
            array[:] = 1
        elif array.ndim >= 2:
            mx.init.Xavier()._init_weight(name, array)
        elif not name.endswith(_ZEROS):
            raise Unsupported(f"the graph does not say how the weights {name!r} begin; a clone needs a model from a factory")
        parameter.set_data(array)


def _best_names(block: Any, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """The parameters under those of their names that the arrays have most of."""
    parameters = block.collect_params()
    ways = [
        named(block),
        dict(parameters.items()),
        {name.removeprefix(block.prefix): p for name, p in parameters.items()},
    ]
    return max(ways, key=lambda own: len(own.keys() & arrays.keys()))


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
