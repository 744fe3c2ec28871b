"""Plan of a load, checked against the model's card before the first call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire.client import arguments
from gradwire.client.check.random_rows import random_rows
from gradwire.client.errors import InvalidCall
from gradwire.client.load.calls import Inputs, all_classes_nbytes, check_size, checked, granted
from gradwire.client.server import Server, connect
from gradwire.client.settings import Retry
from gradwire.client.transport.credentials import ClientCertificate

_LARGE_NBYTES = 256 << 20
"""Most bytes of a gradient of all classes; larger ones are measured only if named."""


@dataclass(frozen=True)
class Target:
    """A model and the arguments of `connect`; picklable, so that other processes can connect."""

    address: str
    model: str
    token: str | None = None
    tls: str | bool | None = None
    certificate: ClientCertificate | None = None
    timeout_s: float | None = 60.0
    same_host: bool = True

    def connect(self) -> Server:
        """Opens a connection without retries, which would hide failures in long latencies."""
        settings: dict[str, Any] = {"token": self.token, "tls": self.tls, "certificate": self.certificate}
        return connect(self.address, **settings, timeout_s=self.timeout_s, retry=Retry(attempts=1), same_host=self.same_host)

    def __repr__(self) -> str:  # without the token
        return f"Target({self.address!r}, {self.model!r})"


@dataclass(frozen=True)
class Step:
    """One measurement: ``concurrency`` clients, each with one call of ``rows`` rows at a time.

    Attributes:
        mix: Operations and their weights, which add up to 1.
        rows: Rows per call.
        concurrency: Number of clients.
    """

    mix: tuple[tuple[str, float], ...]
    rows: int
    concurrency: int


@dataclass(frozen=True)
class Load:
    """A planned load. Made by `plan`.

    Attributes:
        target: The model.
        inputs: Shapes of the arguments.
        steps: The measurements, in order.
        duration_s: Duration of each measurement.
        warmup_s: Duration of the warm-up before each, which is not counted.
        processes: Processes of clients; 0: threads of this process.
        rate_per_s: Calls per second of an open loop; None: a closed loop.
        seed: Seed of everything random.
        left_out: Measurements left out, and the reasons.
    """

    target: Target
    inputs: Inputs
    steps: tuple[Step, ...]
    duration_s: float
    warmup_s: float
    processes: int
    rate_per_s: float | None
    seed: int
    left_out: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Approximate duration of the whole load."""
        return len(self.steps) * (self.warmup_s + self.duration_s)


def plan(
    target: Target,
    operations: Sequence[str] = (),
    mix: Mapping[str, float] | None = None,
    rows: Sequence[int] = (1,),
    concurrency: Sequence[int] = (1,),
    duration_s: float = 5.0,
    warmup_s: float = 1.0,
    processes: int = 1,
    rate_per_s: float | None = None,
    shape: Sequence[int] | None = None,
    layer: str | int | None = None,
    seed: int = 0,
) -> Load:
    """Plans a load and checks it against the model's card, which it fetches.

    Args:
        target: The model and the caller's credentials.
        operations: Names in `calls.OPERATIONS`, measured one after the other; empty: all that the card grants.
        mix: Instead of operations: several operations at the same time, with their weights.
        rows: Rows per call; each number is a separate measurement.
        concurrency: Number of clients; each number is a separate measurement.
        duration_s: Duration of each measurement.
        warmup_s: Duration of the warm-up before each.
        processes: Processes of clients; 0: threads of this process.
        rate_per_s: Calls per second of all clients together, in an open loop; None: a closed loop.
        shape: Shape of a row, for models that accept rows of any size.
        layer: The layer for activations; None: the one before the last.
        seed: Seed of everything random.

    Raises:
        InvalidCall, NotGranted: Wrong arguments, or not possible with this model.
        GradwireError: The server does not answer.
    """
    for name, value in (("duration_s", duration_s), ("rate_per_s", rate_per_s)):
        if value is not None and not 0 < value < math.inf:
            raise InvalidCall(f"{name} is {value!r}; expected a number greater than 0")
    if not 0 <= warmup_s < math.inf:
        raise InvalidCall(f"warmup_s is {warmup_s!r}; expected 0 or more seconds")
    if operations and mix:
        raise InvalidCall("operations and mix cannot be combined; pass one of them")
    rows = [arguments.count("rows", n, 1) for n in dict.fromkeys(rows)]
    concurrency = [arguments.count("concurrency", n, 1) for n in dict.fromkeys(concurrency)]
    inputs = _inputs(target, shape, layer)
    check_size(max(rows, default=1), inputs)
    names, left_out = [checked(name, inputs) for name in mix or operations] or granted(inputs.card), []
    steps = []
    for mixed in [_weights(mix)] if mix else [((name, 1.0),) for name in dict.fromkeys(names)]:
        for n in rows:
            nbytes = all_classes_nbytes(n, inputs)
            if mixed[0][0] == "class_gradient" and nbytes > _LARGE_NBYTES and not operations and not mix:
                left_out.append(f"class_gradient of {n} rows: an answer has {nbytes / (1 << 30):.1f} GiB; name it to measure it")
            else:
                steps += [Step(mixed, n, clients) for clients in concurrency]
    processes = arguments.count("processes", processes, 0)
    return Load(target, inputs, tuple(steps), duration_s, warmup_s, processes, rate_per_s, seed, tuple(left_out))


# Inside.


def _inputs(target: Target, shape: Sequence[int] | None, layer: str | int | None) -> Inputs:
    with target.connect() as server:
        remote = server.estimator(target.model)
        card = remote.card
        sizes = tuple(shape) if shape is not None else card.input_shape
        if any(size < 1 for size in sizes):
            given = f"shape is {sizes}" if shape is not None else "no shape is given"
            raise InvalidCall(
                f"{card.name!r} takes rows of shape {card.input_shape}, -1 for any size, and {given}; pass a complete shape"
            )
        output_shape = card.output_shape
        if not output_shape or min(output_shape) < 1:
            # The card does not have it.
            output_shape = remote.predict(random_rows(card, (1, *sizes), np.random.default_rng(0))).shape[1:]
        if layer is None and card.layer_names:
            # The last layer gives the outputs; the one before gives features.
            layer = card.layer_names[-2:][0]
        return Inputs(card, sizes, output_shape, layer)


def _weights(mix: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    if not all(0 < weight < math.inf for weight in mix.values()):
        raise InvalidCall(f"mix has weights {', '.join(f'{weight:g}' for weight in mix.values())}; expected numbers greater than 0")
    total = sum(mix.values())
    return tuple((name, weight / total) for name, weight in mix.items())
