"""Small blocks of rows as CUDA graphs: a module's kernels are recorded once for each size and started all at once afterwards.

What holds: what is recorded has answered as the module does, or is not used; rows are padded to the next power of two, so
that there are few recordings, whatever the numbers of rows. Weights are read where they lie, and have to stay there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

Forward: TypeAlias = Callable[[torch.Tensor], Any]
Record: TypeAlias = Callable[[Forward, torch.Tensor], Forward]

# Of more rows the device is busy longer than the processor takes to start the kernels.
_MAX_ROWS = 32
# Recordings hold device memory: six sizes, with gradients and without, of images of a known size.
_MAX_RECORDINGS = 12
_TOLERANCE = 1e-3


class Graphed:
    """A module's forward that is replayed for few rows, and called for many.

    What it returns is overwritten by the next call: it must be read, and differentiated, before.

    Args:
        forward: The module, in evaluation mode, with frozen parameters that are only changed in place.
        record: Makes of a function and an example of its argument one that replays it for arguments of that shape.
    """

    def __init__(self, forward: Forward, record: Record | None = None) -> None:
        self._forward = forward
        self._record = record or recorded
        self._recordings: dict[tuple[Any, ...], Forward] = {}
        self.refused = ""
        """Why nothing is recorded any more; empty while all goes well."""

    def __call__(self, inputs: torch.Tensor) -> Any:
        n = len(inputs)
        if n > _MAX_ROWS or self.refused:
            return self._forward(inputs)
        rows = 1 << (n - 1).bit_length()
        # Real rows and not zeros, by which a model may divide.
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
            # Not the rows of the recording, which would also be answered by what replays nothing.
            other = _like(inputs.flip(0) * 0.5, inputs)
            agree = all(
                torch.allclose(ours, expected, rtol=0, atol=_TOLERANCE * float(expected.abs().max()))
                for ours, expected in zip(_answers(replay, other), _answers(self._forward, other), strict=True)
            )
        except Exception as e:
            # What looks at numbers, or needs memory in the middle, cannot be recorded.
            self.refused = f"{type(e).__name__}: {str(e).strip().splitlines()[0]}"
            return None
        if not agree:
            self.refused = "the recording answers something else"
            return None
        return replay


def recorded(forward: Forward, example: torch.Tensor) -> Forward:
    """A CUDA graph of the forward and, if the example requires a gradient, of its backward."""
    replay: Forward = torch.cuda.make_graphed_callables(forward, (example,))
    return replay


def last(result: Any) -> torch.Tensor:
    """The outputs in what a module returned."""
    found: torch.Tensor = result[-1] if isinstance(result, (tuple, list)) else result
    return found


def _like(values: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """A leaf with these values that is otherwise as the inputs are, in memory too."""
    return torch.empty_like(inputs).copy_(values.detach()).requires_grad_(inputs.requires_grad)


def _answers(forward: Forward, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Outputs, and where they are wanted gradients, as float32 copies."""
    outputs = last(forward(inputs))
    found = [outputs]
    if inputs.requires_grad:
        found.append(torch.autograd.grad(outputs.sum(), inputs)[0])
    return [answer.detach().float().clone() for answer in found]
