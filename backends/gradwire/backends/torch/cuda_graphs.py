"""CUDA graphs for small blocks of rows: a module's kernels are recorded once for each size and started together afterwards.

Invariant: a recording that answers differently from the module is not used. Rows are padded to the next power of two, so that
any numbers of rows need few recordings. Weights are read where they lie in memory, and have to stay there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

Forward: TypeAlias = Callable[[torch.Tensor], Any]
Record: TypeAlias = Callable[[Forward, torch.Tensor], Forward]

# With more rows the device is busy longer than the processor takes to start the kernels.
_MAX_ROWS = 32
# Recordings hold device memory: six sizes, with gradients and without, of images of a known size.
_MAX_RECORDINGS = 12
_TOLERANCE = 1e-3


class Graphed:
    """A module's forward that is replayed for few rows, and called for many.

    What it returns is overwritten by the next call: it must be read, and differentiated, before.

    Args:
        forward: The module, in evaluation mode, with frozen parameters that are only changed in place.
        record: Turns a function and an example of its argument into a function that replays it for arguments of that shape.
    """

    def __init__(self, forward: Forward, record: Record | None = None) -> None:
        self._forward = forward
        self._record = record or recorded
        self._recordings: dict[tuple[Any, ...], Forward] = {}
        self.refused = ""
        """The reason for not recording any more; empty while recordings succeed."""

    def __call__(self, inputs: torch.Tensor) -> Any:
        """Replays the recording for the inputs, and makes it at the first call of a size."""
        n = len(inputs)
        if n > _MAX_ROWS or self.refused:
            return self._forward(inputs)
        rows = 1 << (n - 1).bit_length()
        # Real rows and not zeros, because a model may divide by its rows.
        filled = inputs if rows == n else torch.cat([inputs, inputs[:1].detach().expand(rows - n, *inputs.shape[1:])])
        # By layout too: a recording reads its argument as it lay in memory.
        key = (filled.shape, filled.stride(), filled.dtype, filled.requires_grad)
        replay = self._recordings.get(key)
        if replay is None:
            if len(self._recordings) == _MAX_RECORDINGS:
                return self._forward(inputs)
            replay = self._recorded(filled)
            if replay is None:
                return self._forward(inputs)
            self._recordings[key] = replay
        return replay(filled)[:n]

    def _recorded(self, inputs: torch.Tensor) -> Forward | None:
        try:
            replay = self._record(lambda x: last(self._forward(x)), _like(inputs, inputs))
            # Not the rows of the recording, which a recording that replays nothing would answer too.
            other = _like(inputs.flip(0) * 0.5, inputs)
            agree = all(
                torch.allclose(ours, expected, rtol=0, atol=_TOLERANCE * float(expected.abs().max()))
                for ours, expected in zip(_answers(replay, other), _answers(self._forward, other), strict=True)
            )
        except Exception as e:
            # Modules that look at numbers, or that allocate memory in between, cannot be recorded.
            self.refused = f"{type(e).__name__}: {str(e).strip().splitlines()[0]}"
            return None
        if not agree:
            self.refused = "the recording answers something else"
            return None
        return replay


def recorded(forward: Forward, example: torch.Tensor) -> Forward:
    """Records a CUDA graph of the forward and, if the example requires a gradient, of its backward."""
    replay: Forward = torch.cuda.make_graphed_callables(forward, (example,))
    return replay


def last(result: Any) -> torch.Tensor:
    """Takes the outputs from a module's result."""
    found: torch.Tensor = result[-1] if isinstance(result, (tuple, list)) else result
    return found


def _like(values: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """A leaf with these values, in the layout and dtype of the inputs."""
    return torch.empty_like(inputs).copy_(values.detach()).requires_grad_(inputs.requires_grad)


def _answers(forward: Forward, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Outputs and, if the inputs require them, gradients, as float32 copies."""
    outputs = last(forward(inputs))
    found = [outputs]
    if inputs.requires_grad:
        found.append(torch.autograd.grad(outputs.sum(), inputs)[0])
    return [answer.detach().float().clone() for answer in found]
