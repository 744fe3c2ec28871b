"""The weights of a torch module: read from files, written to files, copied and put back.

Invariant: a module gets all of its weights or keeps all that it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import safetensors
import safetensors.torch
import torch
from torch import nn

from gradwire.backends.errors import ModelConfigError

Copies: TypeAlias = dict[str, torch.Tensor]


def read(path: Path, trust_pickle: bool) -> Mapping[str, torch.Tensor]:
    """Reads tensors by name from a file into host memory. Raises ModelConfigError."""
    if not path.is_file():
        raise ModelConfigError("weights", f"{path} does not exist; expected a .safetensors file")
    if path.suffix == ".safetensors":
        return read_saved(path)
    if path.suffix not in (".pt", ".pth"):
        raise ModelConfigError(
            "weights", f"{path} ends in {path.suffix!r}; expected .safetensors, or .pt and .pth with trust_pickle: true"
        )
    if not trust_pickle:
        raise ModelConfigError(
            "weights",
            f"{path} is a pickle, which can run code when it is read. Convert it with safetensors.torch.save_model(model, "
            f"'{path.stem}.safetensors'), or, if you made it yourself, set trust_pickle: true",
        )
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as e:
        raise ModelConfigError("weights", f"{path} cannot be read: {type(e).__name__}: {e}") from e
    if isinstance(found, nn.Module):
        found = found.state_dict()
    if not isinstance(found, Mapping) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise ModelConfigError("weights", f"{path} holds {type(found).__name__}; expected a state_dict, or a whole module")
    return found


def read_saved(path: Path) -> Mapping[str, torch.Tensor]:
    """Reads a file that `save` wrote, under any name. Raises ModelConfigError."""
    try:
        tensors: Mapping[str, torch.Tensor] = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as e:
        raise ModelConfigError("weights", f"{path} is not a readable safetensors file: {e}") from e
    return tensors


def put(module: nn.Module, arrays: Mapping[str, torch.Tensor], source: Path) -> None:
    """Gives a module its weights. Raises ModelConfigError, before anything changes, if names or shapes differ."""
    own = {name: t for name, t in module.state_dict().items() if isinstance(t, torch.Tensor)}
    # A safearrays file holds one of several tied weights.
    present = {_storage(t) for name, t in own.items() if name in arrays}
    problems = {
        "missing": [name for name, t in own.items() if name not in arrays and _storage(t) not in present],
        "unexpected": [name for name in arrays if name not in own],
        "of another shape": [
            f"{name} {tuple(t.shape)}, expected {tuple(own[name].shape)}"
            for name, t in arrays.items()
            if name in own and t.shape != own[name].shape
        ],
    }
    if any(problems.values()):
        text = "; ".join(f"{problem}: {', '.join(found)}" for problem, found in problems.items() if found)
        raise ModelConfigError("weights", f"{source} does not fit {type(module).__name__}: {text}")
    module.load_state_dict(dict(arrays), strict=False)


def save(module: nn.Module, path: Path) -> None:
    """Writes a safetensors file."""
    safetensors.torch.save_model(module, str(path))


def copies(module: nn.Module) -> Copies:
    """Copies all tensors that a module holds, buffers outside its state_dict included, by name."""
    return {name: t.detach().clone() for name, t in _tensors(module).items()}


def put_back(module: nn.Module, before: Copies) -> None:
    """Restores copies in place, so that an optimizer keeps its hold of the parameters."""
    with torch.no_grad():
        for name, t in _tensors(module).items():
            t.copy_(before[name])


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _storage(t: torch.Tensor) -> tuple[Any, ...]:
    return (t.data_ptr(), t.shape, t.stride()) if t.numel() else (id(t),)
