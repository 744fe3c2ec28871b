"""The layers of a torch module, their outputs, and the modes that they run in.

Invariant: no hook, mode or buffer outlives the block that needed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gradwire.backends import layer_names
from gradwire.backends.errors import ModelFailed


def names(module: nn.Module) -> list[str]:
    """Names of the top-level modules in ART's order, the last one included, so that ART's indices hold here.

    Not ``named_children``, which leaves out the second name of a module that is used twice.
    """
    return [name for name, child in module._modules.items() if child is not None]


def find(module: nn.Module, layer: str | int) -> tuple[str, nn.Module]:
    """Finds a layer by its index in `names`, or by its name at any depth, e.g. ``block1.conv``. Raises InvalidLayer."""
    every = {name: found for name, found in module.named_modules(remove_duplicate=False) if name}
    name = layer_names.find(layer, names(module), every)
    return name, every[name]


def outputs(result: Any, rows: int) -> torch.Tensor:
    """Takes the outputs ``(rows, ...)`` from a module's result: a tensor, or the last of several, as in ART."""
    if isinstance(result, (tuple, list)) and result:
        result = result[-1]
    if not isinstance(result, torch.Tensor):
        raise ModelFailed(
            f"the model returned {type(result).__name__}; expected a tensor, or a tuple whose last element is the outputs"
        )
    if result.shape[:1] != (rows,):
        raise ModelFailed(f"the model returned {tuple(result.shape)} for {rows} rows; expected one row of outputs each")
    return result.unsqueeze(1) if result.ndim == 1 else result


def runs_once(module: nn.Module, name: str) -> bool:
    """True if a layer is called once in every forward: only plain chains of layers lie around it.

    Anything else has a ``forward`` of its own, which may call a layer several times, and which may depend on the inputs.
    """
    around = [module.get_submodule(".".join(name.split(".")[:depth])) for depth in range(name.count(".") + 1)]
    target = module.get_submodule(name)
    same = [found for _, found in module.named_modules(remove_duplicate=False) if found is target]
    return len(same) == 1 and all(type(outer).forward is nn.Sequential.forward for outer in around)


class _Enough(Exception):
    """Ends a forward whose later layers are not needed."""


class Captured:
    """The last output of a layer; the first element of a tuple, which recurrent layers return.

    Args:
        name: Of the layer, for errors.
        stop: Whether to end the forward as soon as the layer has been called.
    """

    def __init__(self, name: str, stop: bool) -> None:
        self._name = name
        self._stop = stop
        self._output: torch.Tensor | None = None

    def hook(self, _module: nn.Module, _args: Any, output: Any) -> None:
        """Keeps an output; a forward hook of the layer."""
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not isinstance(output, torch.Tensor):
            raise layer_names.no_tensor(self._name, output, "a tensor")
        # A clone, because a later layer may work in place; gradients flow through it.
        self._output = output.clone()
        if self._stop:
            raise _Enough

    def output(self, rows: int) -> torch.Tensor:
        """``(rows, ...)``. Raises InvalidLayer if the layer was not run, or has no axis of rows in front."""
        if self._output is None:
            raise layer_names.uncalled(self._name)
        layer_names.check_output(self._name, self._output.shape, rows)
        return self._output


@contextmanager
def capturing(module: nn.Module, layer: str | int) -> Iterator[Captured]:
    """Keeps the layer's output while the block runs the module, which stops there if it can."""
    name, target = find(module, layer)
    captured = Captured(name, stop=runs_once(module, name))
    handle = target.register_forward_hook(captured.hook)
    try:
        yield captured
    except _Enough:
        pass
    finally:
        handle.remove()


@contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """Puts layers into training mode for the block; restores running statistics and evaluation mode afterwards."""
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.train()
    try:
        yield
    finally:
        module.eval()
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(kept[name])


def recurrent(module: nn.Module) -> list[nn.RNNBase]:
    """The recurrent layers, which `differentiable` takes."""
    return [layer for layer in module.modules() if isinstance(layer, nn.RNNBase)]


@contextmanager
def differentiable(layers: list[nn.RNNBase]) -> Iterator[None]:
    """Makes recurrent layers differentiable in evaluation mode on a GPU, where cuDNN refuses to.

    Such a layer differs between its modes in dropout alone: without it, training mode is evaluation mode. Switching cuDNN
    off instead would be for the whole process.
    """
    changed = [(layer, layer.dropout) for layer in layers if not layer.training]
    for layer, _ in changed:
        layer.training, layer.dropout = True, 0.0
    try:
        yield
    finally:
        for layer, dropout in changed:
            layer.training, layer.dropout = False, dropout
