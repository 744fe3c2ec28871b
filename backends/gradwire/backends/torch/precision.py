"""Mixed precision: the dtype of ``torch.autocast``, and gradients whose small numbers survive it.

Invariant: callers see outputs and gradients in the model's own dtype, and the weights keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.torch import gradients

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""By the names of the configuration."""


class Precision:
    """The precision that a model computes in.

    Args:
        device: Where the model is.
        autocast: The configured dtype of autocast.
        amp: Whether autocast is on in any case, in fits too.
        module_dtype: Of the parameters.

    Attributes:
        dtype: Of autocast; None without autocast.
        scaled: Whether gradients need to be scaled: see `gradient`.
        tolerance: How far two ways to compute the same may differ, in shares of the largest number.
        scaler: Scales the losses of a fit.

    Raises:
        ModelConfigError: Autocast would change nothing.
    """

    def __init__(self, device: torch.device, autocast: str | None, amp: bool, module_dtype: torch.dtype) -> None:
        usual = torch.float16 if device.type == "cuda" else torch.bfloat16
        self.dtype = usual if autocast is None and amp else DTYPES.get(autocast or "")
        if autocast is not None and module_dtype is not torch.float32:
            raise ModelConfigError(
                "autocast",
                f"the parameters are {module_dtype}; expected torch.float32, the only dtype that autocast changes",
            )
        self._device = device
        self._fits = amp
        self._chosen = autocast is not None
        self.scaled = torch.float16 in (self.dtype, module_dtype)
        self.tolerance = 1e-3 if self.dtype is None and module_dtype in (torch.float32, torch.float64) else 5e-2
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp and self.dtype is torch.float16)

    def scope(self, fitting: bool) -> AbstractContextManager[object]:
        """The context that the module is called in."""
        if self.dtype is None or (fitting and not self._fits):
            return nullcontext()
        # The cache is of weights that are being fitted; CUDA graphs cannot be recorded with it.
        return torch.autocast(self._device.type, self.dtype, cache_enabled=fitting)

    def check(self, work: Callable[[], object]) -> None:
        """Runs ``work`` with the configured autocast. Raises ModelConfigError if it fails with autocast alone."""
        if not self._chosen:
            return
        try:
            work()
        except Exception as e:
            dtype, self.dtype = self.dtype, None
            try:
                work()
            except Exception:
                # Autocast is not the cause.
                return
            finally:
                self.dtype = dtype
            raise ModelConfigError(
                "autocast",
                f"this model fails with {str(dtype).removeprefix('torch.')} on {self._device}, and works without autocast "
                f"({type(e).__name__}: {str(e).splitlines()[0]}); try the other dtype, or leave autocast out",
            ) from e

    def loss_gradient(
        self, outputs: torch.Tensor, leaf: torch.Tensor, loss_rows: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """The gradient of the summed losses that ``loss_rows`` computes from the outputs."""
        if self.scaled:
            # In float32, so that the cotangent is not rounded before it is scaled.
            outputs_of_loss = outputs.float()
            rows = loss_rows(outputs_of_loss)
            return self.gradient(outputs, leaf, gradients.of(rows, outputs_of_loss, torch.ones_like(rows)))
        rows = loss_rows(outputs)
        return gradients.of(rows, leaf, torch.ones_like(rows))

    def gradient(self, outputs: torch.Tensor, leaf: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
        """The cotangent, in any precision, times the Jacobian of the outputs of independent rows.

        The least float16 is 6e-8, and the loss of a row that the model is sure of has smaller gradients: each row's cotangent is
        scaled to about 1 on its way through the module, by a power of two, which loses nothing.
        """
        if not self.scaled:
            return gradients.of(outputs, leaf, cotangent.to(outputs.dtype))
        # float32 holds the reciprocals of all powers in this range.
        exponent = torch.frexp(cotangent.flatten(1).abs().amax(1)).exponent.clamp(-100, 100)
        raised = torch.ldexp(cotangent, -_along(exponent, cotangent)).to(outputs.dtype)
        gradient = gradients.of(outputs, leaf, raised)
        return torch.ldexp(gradient, _along(exponent, gradient))


def _along(exponent: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return exponent.reshape(-1, *[1] * (rows.ndim - 1))
