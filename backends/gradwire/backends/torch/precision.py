"""Mixed precision: in which dtype ``torch.autocast`` computes, and gradients whose small numbers survive it.

What holds: callers see outputs and gradients in the model's own dtype, and the weights stay in theirs.
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
    """What a model computes in.

    Args:
        device: Where.
        autocast: The configured dtype of autocast.
        amp: Whether there is autocast in any case, in fits too.
        module_dtype: Of the parameters.

    Attributes:
        dtype: Of autocast; None without.
        scaled: Whether gradients need to be scaled: see `gradient`.
        tolerance: How far two ways to compute the same may differ, in shares of the largest number.
        scaler: Of the losses of a fit.

    Raises:
        ModelConfigError: Autocast would change nothing.
    """

    def __init__(self, device: torch.device, autocast: str | None, amp: bool, module_dtype: torch.dtype) -> None:
        usual = torch.float16 if device.type == "cuda" else torch.bfloat16
        self.dtype = usual if autocast is None and amp else DTYPES.get(autocast or "")
        if autocast is not None and module_dtype is not torch.float32:
            raise ModelConfigError(
                "autocast",
                f"the parameters are {module_dtype}; expected torch.float32, which is all that autocast computes otherwise",
            )
        self._device = device
        self._fits = amp
        self._chosen = autocast is not None
        self.scaled = torch.float16 in (self.dtype, module_dtype)
        self.tolerance = 1e-3 if self.dtype is None and module_dtype in (torch.float32, torch.float64) else 5e-2
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp and self.dtype is torch.float16)

    def scope(self, fitting: bool) -> AbstractContextManager[object]:
        """What the module is called in."""
        if self.dtype is None or (fitting and not self._fits):
            return nullcontext()
        # The cache is of weights that are being fitted; CUDA graphs cannot be recorded with it.
        return torch.autocast(self._device.type, self.dtype, cache_enabled=fitting)

    def check(self, work: Callable[[], object]) -> None:
        """Tries something with the configured autocast. Raises ModelConfigError if it fails there, and without it does not."""
        if not self._chosen:
            return
        try:
            work()
        except Exception as e:
            dtype, self.dtype = self.dtype, None
            try:
                work()
            except Exception:
                # Not autocast's doing.
                return
            finally:
                self.dtype = dtype
            raise ModelConfigError(
                "autocast",
                f"{str(dtype).removeprefix('torch.')} does not work for this model on {self._device}, without it the model does "
                f"({type(e).__name__}: {str(e).splitlines()[0]}); try the other dtype, or leave it out",
            ) from e

    def loss_gradient(
        self, outputs: torch.Tensor, leaf: torch.Tensor, loss_rows: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Of the summed losses that ``loss_rows`` makes of the outputs."""
        if self.scaled:
            # In float32, so that the cotangent is not rounded before it is scaled.
            outputs_of_loss = outputs.float()
            rows = loss_rows(outputs_of_loss)
            return self.gradient(outputs, leaf, gradients.of(rows, outputs_of_loss, torch.ones_like(rows)))
        rows = loss_rows(outputs)
        return gradients.of(rows, leaf, torch.ones_like(rows))

    def gradient(self, outputs: torch.Tensor, leaf: torch.Tensor, cotangent: torch.Tensor) -> torch.Tensor:
        """The cotangent, in any precision, times the Jacobian of the outputs of rows that do not see each other.

        In float16 nothing is below 6e-8, and the loss of a row of which the model is sure has smaller gradients: each row's
        cotangent is brought to about 1 on its way through the module, by a power of two, which loses nothing.
        """
        if not self.scaled:
            return gradients.of(outputs, leaf, cotangent.to(outputs.dtype))
        # Not beyond what float32 holds the reciprocal of.
        exponent = torch.frexp(cotangent.flatten(1).abs().amax(1)).exponent.clamp(-100, 100)
        raised = torch.ldexp(cotangent, -_along(exponent, cotangent)).to(outputs.dtype)
        gradient = gradients.of(outputs, leaf, raised)
        return torch.ldexp(gradient, _along(exponent, gradient))


def _along(exponent: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return exponent.reshape(-1, *[1] * (rows.ndim - 1))
