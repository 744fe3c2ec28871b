"""The weights of a Gluon block: read from files, written to files, copied and put back.

Invariant: a block gets all of its weights or keeps all that it has, and reading a file runs no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from gradwire.backends import weights_file
from gradwire.backends.backend import Array
from gradwire.backends.errors import ModelConfigError
from gradwire.backends.mxnet.device import mx

Copies: TypeAlias = list[Any]


def read(path: Path) -> dict[str, Array]:
    """Reads arrays by name from a .params or a .safetensors file. Raises ModelConfigError."""
    if path.suffix == ".safetensors":
        return read_saved(path)
    if path.suffix != ".params":
        raise ModelConfigError(
            "weights", f"{path} ends in {path.suffix!r}; expected .params, as save_parameters or export writes it, or .safetensors"
        )
    if not path.is_file():
        raise ModelConfigError("weights", f"{path} does not exist; expected a .params file")
    try:
        found = mx.nd.load(str(path))
    except mx.base.MXNetError as e:
        raise ModelConfigError("weights", f"{path} is not a readable .params file: {last_line(e)}") from e
    if not isinstance(found, dict):
        raise ModelConfigError("weights", f"{path} holds arrays without names; expected a file of save_parameters or export")
    return {name.removeprefix("arg:").removeprefix("aux:"): array.asnumpy() for name, array in found.items()}


def read_saved(path: Path) -> dict[str, Array]:
    """Reads a file that `save` wrote, under any name. Raises ModelConfigError."""
    return weights_file.read(path)


def put(block: Any, arrays: Mapping[str, Array], source: Path) -> None:
    """Gives a block its weights. Raises ModelConfigError, before anything changes, if names or shapes differ."""
    own = _best_names(block, arrays)
    # A file may hold one of several shared weights.
    present = {id(own[name]) for name in arrays if name in own}
    weights_file.check({name: p.shape for name, p in own.items() if name in arrays or id(p) not in present}, arrays, source)
    for name, array in arrays.items():
        own[name].set_data(mx.nd.array(array, dtype=own[name].dtype))


def save(block: Any, path: Path) -> None:
    """Writes a safetensors file."""
    weights_file.save({name: p.data().asnumpy() for name, p in named(block).items()}, path)


def copies(block: Any) -> Copies:
    """Copies all parameters of a block."""
    return [p.data().copy() for p in block.collect_params().values()]


def put_back(block: Any, before: Copies) -> None:
    """Restores copies in place, because a traced network holds the arrays."""
    for p, array in zip(block.collect_params().values(), before, strict=True):
        p.set_data(array)


def named(block: Any) -> dict[str, Any]:
    """A block's parameters by names that do not depend on other blocks of the process: ``body.0.weight``."""
    if isinstance(block, mx.gluon.SymbolBlock):
        return dict(block.collect_params().items())
    return dict(block._collect_params_with_prefix().items())


def _best_names(block: Any, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """The parameters under the kind of names that most arrays have."""
    parameters = block.collect_params()
    ways = [
        named(block),
        dict(parameters.items()),
        {name.removeprefix(block.prefix): p for name, p in parameters.items()},
    ]
    return max(ways, key=lambda own: len(own.keys() & arrays.keys()))


def last_line(error: Exception) -> str:
    """The last line of an error's text, which follows MXNet's stack traces."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
