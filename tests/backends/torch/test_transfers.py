"""Copies through two buffers of a fixed size: the same bytes arrive, and no buffer is used before it is free.

These tests run without a GPU: the buffers are not pinned, and the tests bring the marks of arrivals.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwire.backends.torch.transfers import Staging

CPU = torch.device("cpu")
DTYPES = ("float32", "float64", "int64", "int32")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=3), st.sampled_from(DTYPES), st.sampled_from([8, 24, 64, 4096]))
def test_what_is_put_can_be_taken(shape: list[int], dtype: str, buffer_nbytes: int) -> None:
    staging = Staging(CPU, buffer_nbytes)
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    t = staging.put(x)
    assert t.shape == x.shape
    np.testing.assert_array_equal(t.numpy(), x)
    taken = staging.take(t)
    assert (taken.dtype, taken.shape) == (x.dtype, x.shape)
    assert taken.flags.c_contiguous
    np.testing.assert_array_equal(taken, x)


def test_what_is_put_and_taken_has_memory_of_its_own() -> None:
    staging = Staging(CPU, 64)
    x = np.arange(40.0)
    t = staging.put(x)
    taken = staging.take(t)
    x[:] = 0
    t.zero_()
    staging.put(np.ones(40))
    np.testing.assert_array_equal(taken, np.arange(40.0))


def test_arrays_that_do_not_lie_in_order_arrive_in_order() -> None:
    staging = Staging(CPU, 32)
    x = np.arange(24.0).reshape(4, 6)
    np.testing.assert_array_equal(staging.put(x.T[::2]).numpy(), x.T[::2])
    expanded = torch.arange(4.0).expand(3, 4)
    np.testing.assert_array_equal(staging.take(expanded), expanded.numpy())
    np.testing.assert_array_equal(staging.take(torch.from_numpy(x).T), x.T)


def test_the_memory_is_that_of_two_buffers_whatever_comes() -> None:
    staging = Staging(CPU, 1024)
    before = [buffer.data_ptr() for buffer in staging._buffers]
    for rows in (1, 100, 10_000):
        staging.take(staging.put(np.zeros((rows, 16))))
    assert [buffer.data_ptr() for buffer in staging._buffers] == before
    assert sum(buffer.nbytes for buffer in staging._buffers) == 2048


class Slow:
    """Marks a buffer's arrivals. The buffer must not be written before a wait for them."""

    def __init__(self, events: list[str], name: str) -> None:
        self.events, self.name = events, name

    def record(self) -> None:
        self.events.append(f"begin {self.name}")

    def synchronize(self) -> None:
        self.events.append(f"await {self.name}")


@pytest.mark.parametrize("direction", ["put", "take"])
def test_a_buffer_is_waited_for_before_it_is_used_again_and_both_are_under_way_together(direction: str) -> None:
    staging = Staging(CPU, 8)
    events: list[str] = []
    staging._arrivals = [Slow(events, "a"), Slow(events, "b")]
    x = np.arange(4.0)
    staging.put(x) if direction == "put" else staging.take(torch.from_numpy(x))
    under_way: set[str] = set()
    most = 0
    for event in events:
        what, _, name = event.partition(" ")
        if what == "begin":
            assert name not in under_way, events
            under_way.add(name)
            most = max(most, len(under_way))
        else:
            under_way.discard(name)
    assert most == 2
    # An array is not the caller's again before it is read, and an answer not before it is there.
    assert direction == "put" or not under_way
