"""What a load is to measure, checked against the model's card before anything is sent."""

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
"""Gradients of all classes beyond this are measured only if they are asked for by name."""


@dataclass(frozen=True)
class Target:
    """A model, and who asks it. As for `connect`; picklable, for processes of their own to connect."""

    address: str
    model: str
    token: str | None = None
    tls: str | bool | None = None
    certificate: ClientCertificate | None = None
    timeout_s: float | None = 60.0
    same_host: bool = True

    def connect(self) -> Server:
        """A new connection. Its calls are made once: those made again would hide failures in long latencies."""
        settings: dict[str, Any] = {"token": self.token, "tls": self.tls, "certificate": self.certificate}
        return connect(self.address, **settings, timeout_s=self.timeout_s, retry=Retry(attempts=1), same_host=self.same_host)

    def __repr__(self) -> str:  # without the token
        return f"Target({self.address!r}, {self.model!r})"


@dataclass(frozen=True)
class Step:
    """One measurement: so many clients, each with one call at a time of so many rows.

    Attributes:
        mix: Operations and their weights, which add up to 1.
        rows: Of each call.
        concurrency: Clients.
    """

    mix: tuple[tuple[str, float], ...]
    rows: int
    concurrency: int


@dataclass(frozen=True)
class Load:
    """What is to be measured. Made by `plan`.

    Attributes:
        target: The model.
        inputs: What calls look like.
        steps: The measurements, in their order.
        duration_s: How long each takes.
        warmup_s: What comes before each, and is not counted.
        processes: That clients are spread over, as far as there are clients; 0: threads of this process.
        rate_per_s: Calls a second of an open loop; None: a closed loop.
        seed: Of everything random.
        left_out: What is not measured although it could be, and why.
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
        """How long all of it takes, about."""
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
    """What to measure, checked against the model's card, which is asked for.

    Args:
        target: The model, and who calls.
        operations: By their names in `calls.OPERATIONS`, one after the other; none: all that the card grants.
        mix: In place of operations: several at the same time, with their weights.
        rows: Of a call; each number is a measurement of its own.
        concurrency: Clients; each number is a measurement of its own.
        duration_s: How long each measurement takes.
        warmup_s: Before each.
        processes: That clients are spread over; 0: threads of this process.
        rate_per_s: Calls a second of all clients together, in an open loop; None: a closed loop.
        shape: Of a row, for models that take rows of any size.
        layer: For activations; None: the one before the last.
        seed: Of everything random.

    Raises:
        InvalidCall, NotGranted: What is asked for makes no sense, or not with this model.
        GradwireError: The server cannot be asked.
    """
    for name, value in (("duration_s", duration_s), ("rate_per_s", rate_per_s)):
        if value is not None and not 0 < value < math.inf:
            raise InvalidCall(f"{name} is {value!r}; expected a number greater than 0")
    if not 0 <= warmup_s < math.inf:
        raise InvalidCall(f"warmup_s is {warmup_s!r}; expected 0 or more seconds")
    if operations and mix:
        raise InvalidCall("both operations and a mix are given; a mix is measured by itself, so leave one of them out")
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
            told = f"shape is {sizes}" if shape is not None else "no shape is given"
            raise InvalidCall(
                f"{card.name!r} takes rows of shape {card.input_shape}, -1 for any size, and {told}; say which, in full"
            )
        output_shape = card.output_shape
        if not output_shape or min(output_shape) < 1:
            # The card does not tell.
            output_shape = remote.predict(random_rows(card, (1, *sizes), np.random.default_rng(0))).shape[1:]
        if layer is None and card.layer_names:
            # The last one's are the outputs; features come from the one before.
            layer = card.layer_names[-2:][0]
        return Inputs(card, sizes, output_shape, layer)


def _weights(mix: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    if not all(0 < weight < math.inf for weight in mix.values()):
        raise InvalidCall(
            f"the mix has weights {', '.join(f'{weight:g}' for weight in mix.values())}; expected numbers greater than 0"
        )
    total = sum(mix.values())
    return tuple((name, weight / total) for name, weight in mix.items())
