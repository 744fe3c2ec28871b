"""Modules compiled with ``torch.compile``, for any number of rows, and with the weights as they are at each call.

Invariant: the compiled module answers as the module itself does. Operations that need hooks, training mode or several backwards
of one pass are computed by the module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._dynamo import maybe_mark_dynamic
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from gradwire.backends.backend import Array
from gradwire.backends.errors import ModelConfigError

# A program for one row, one for few and one for many (torch's convolutions choose by the number of rows), with gradients and
# without; twice that where sizes of inputs are any.
_MAX_PROGRAMS = 16
_FEW_ROWS = 2


class Compiled:
    """A module's forward, compiled when it is first called.

    Args:
        module: Its parameters are frozen, and changed in place only.
        device: Where the module is.

    Raises:
        ModelConfigError: No compiler is installed, or this torch cannot keep the programs of several models apart.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        # Without isolate_recompiles all modules of the process share one limit of eight programs, and those beyond it run
        # uncompiled, with a warning in the log at most.
        if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
            raise ModelConfigError(
                "compile", f"torch {torch.__version__} compiles too few models a process; it needs 2.13 or newer"
            )
        check_compiler(device)
        compiling: Any = torch.compile  # its stubs lag behind
        self._forward: Callable[[torch.Tensor], Any] = compiling(module, isolate_recompiles=True, recompile_limit=_MAX_PROGRAMS)

    def __call__(self, inputs: torch.Tensor) -> Any:
        """Calls the compiled module."""
        # The number of rows alone: with images of any size too (dynamic=True) 128 rows of a CNN take 5.8 ms in place of 4.7.
        if len(inputs) > 1:
            maybe_mark_dynamic(inputs, 0)
        return self._forward(inputs)


def warm_up(
    answers: Callable[[Array, bool], list[Array]],
    input_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    max_rows: int,
    tolerance: float,
) -> None:
    """Compiles all programs, and compares their answers with the module's.

    Args:
        answers: Computes answers for model inputs, compiled or not.
        input_shape: Of a row; every size known.
        dtype: Of model inputs.
        max_rows: More are not computed at once.
        tolerance: How far answers may differ, in shares of the largest.

    Raises:
        ModelConfigError: The module cannot be compiled here, or answers differently when compiled.
    """
    x = np.random.default_rng(0).random((max_rows, *input_shape)).astype(dtype)
    for rows in sorted({max_rows, min(_FEW_ROWS, max_rows), 1}, reverse=True):
        try:
            expected = answers(x[:rows], False)
        except Exception:
            # The model does not take such rows, which calls will report.
            return
        try:
            found = answers(x[:rows], True)
        except Exception as e:
            raise ModelConfigError(
                "compile", f"torch.compile fails: {type(e).__name__}: {str(e).strip().splitlines()[0]}; leave compile out"
            ) from e
        for ours, plain in zip(found, expected, strict=True):
            if not np.allclose(ours, plain, rtol=0, atol=tolerance * np.abs(plain).max()):
                raise ModelConfigError(
                    "compile",
                    f"the compiled model answers {rows} rows differently, by up to {np.abs(ours - plain).max():.2g} of "
                    f"{np.abs(plain).max():.2g}; leave compile out",
                )


def check_compiler(device: torch.device) -> None:
    """Raises ModelConfigError if no C++ compiler is installed for a CPU's programs."""
    if device.type != "cpu":
        return
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as e:
        raise ModelConfigError(
            "compile",
            "torch.compile needs a C++ compiler to make a CPU's programs when the model is loaded: install g++ where the server "
            f"runs, name a compiler in the environment variable CXX, or leave compile out ({e})",
        ) from e
