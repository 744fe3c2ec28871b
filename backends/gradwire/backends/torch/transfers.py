"""Transfers of arrays to a GPU and back, through pinned memory of a fixed size.

Invariant: two buffers, made when the model is loaded, are all the pinned memory that a model takes, for rows of any size. A
buffer is refilled only when its last contents have arrived. Not thread-safe.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from gradwire.backends.backend import Array

# Large enough that the bus is busy, small enough that a row block comes in several parts, of which one travels while the
# processor copies the next.
_BUFFER_NBYTES = 4 << 20


class Arrival(Protocol):
    """Marks the end of copies that were begun before `record`, as a ``torch.cuda.Event`` does."""

    def record(self) -> None:
        """Marks the copies that have been begun."""
        ...

    def synchronize(self) -> None:
        """Waits for the marked copies."""
        ...


class _AtOnce:
    """Marks copies inside host memory, which are done when they return."""

    def record(self) -> None:
        """Does nothing: no copy is under way."""

    def synchronize(self) -> None:
        """Does nothing: no copy is under way."""


class Staging:
    """Copies between arrays and tensors of one device, part by part through two buffers.

    While a part travels, the next one is copied into (or out of) the other buffer. Copies are in the order of the device's
    current stream, and so of the arithmetic before and after them.

    Args:
        device: Of the tensors. With the CPU nothing is pinned and nothing overlaps, but the answers are the same.
        buffer_nbytes: Of each of the buffers.
    """

    def __init__(self, device: torch.device, buffer_nbytes: int = _BUFFER_NBYTES) -> None:
        self._device = device
        on_gpu = device.type == "cuda"
        self._buffers = [torch.empty(buffer_nbytes, dtype=torch.uint8, pin_memory=on_gpu) for _ in range(2)]
        # torch has no types here.
        self._arrivals: list[Arrival] = [torch.cuda.Event() if on_gpu else _AtOnce() for _ in range(2)]  # type: ignore[no-untyped-call]

    def put(self, x: Array) -> torch.Tensor:
        """Copies an array to the device. Returns when the array is not read any more."""
        source = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        result = torch.empty(x.shape, dtype=_torch_dtype(x.dtype), device=self._device)
        target = result.view(-1).view(torch.uint8)
        for turn, first, last in self._parts(len(source)):
            buffer, arrival = self._buffers[turn][: last - first], self._arrivals[turn]
            arrival.synchronize()
            np.copyto(buffer.numpy(), source[first:last])
            target[first:last].copy_(buffer, non_blocking=True)
            arrival.record()
        return result

    def take(self, t: torch.Tensor) -> Array:
        """Copies a tensor to new, C-contiguous host memory."""
        source = t.contiguous().view(-1).view(torch.uint8)
        result: Array = np.empty(tuple(t.shape), _numpy_dtype(t.dtype))
        target = result.reshape(-1).view(np.uint8)
        under_way: tuple[int, int, int] | None = None
        for turn, first, last in self._parts(len(source)):
            # Waits for a `put` in this buffer; `_arrived` has waited for this loop's own copies.
            self._arrivals[turn].synchronize()
            self._buffers[turn][: last - first].copy_(source[first:last], non_blocking=True)
            self._arrivals[turn].record()
            self._arrived(under_way, target)
            under_way = turn, first, last
        self._arrived(under_way, target)
        return result

    def _arrived(self, part: tuple[int, int, int] | None, target: Array) -> None:
        if part is not None:
            turn, first, last = part
            self._arrivals[turn].synchronize()
            np.copyto(target[first:last], self._buffers[turn][: last - first].numpy())

    def _parts(self, nbytes: int) -> list[tuple[int, int, int]]:
        """The parts of a copy: the buffer, the first byte and the byte after the last."""
        size = len(self._buffers[0])
        return [(i % 2, first, min(first + size, nbytes)) for i, first in enumerate(range(0, nbytes, size))]


def _torch_dtype(dtype: np.dtype[np.generic]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[np.generic]:
    return torch.empty(0, dtype=dtype).numpy().dtype
