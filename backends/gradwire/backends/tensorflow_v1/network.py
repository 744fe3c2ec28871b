"""TensorFlow 1 graphs as networks: programs with all their feeds, and gradients that are built once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from gradwire.backends.backend import Array
from gradwire.backends.errors import ModelConfigError
from gradwire.backends.tensorflow_v1.graph import Graph, resolved, unfed, upstream
from gradwire.backends.tensorflow_v1.programs import Program
from gradwire.backends.tensorflow_v1.weights import Variables

_SCOPE = "gradwire"


class Network:
    """A graph, its variables, and its feeds besides rows.

    Args:
        graph: The owner's graph.
        key: The configuration key that it comes from, for errors.

    Raises:
        ModelConfigError: The graph cannot be run: a part is missing, or a placeholder or variable has no value.
    """

    def __init__(self, graph: Graph, key: str) -> None:
        graph = resolved(graph, key)
        self.session, self.input, self.output, self.labels = graph.session, graph.input, graph.output, graph.labels
        self.loss, self.train = graph.loss, graph.train
        self.key = key
        self._fixed, (evaluation, training) = _fixed(graph, key)
        self._values = {False: evaluation, True: training}
        self.has_modes = graph.learning is not None or bool(graph.training_feed_dict)
        self._check_feeds()
        self.variables = Variables(self.session)
        missing = self.variables.uninitialised(self.output)
        if missing:
            raise ModelConfigError(
                key,
                f"variables {', '.join(missing[:5])} have no value; run tf.compat.v1.global_variables_initializer() in the session",
            )

    def program(self, fetches: Sequence[Any], feeds: Sequence[Any], targets: Sequence[Any] = ()) -> Program:
        """Makes a program for `run`. Calls give ``feeds``; the network adds the other feeds."""
        return Program(self.session, fetches, [*feeds, *self._fixed], targets)

    def run(self, program: Program, *arrays: Any, training_mode: bool) -> list[Any]:
        """Runs a program in one of the two modes. Variables that the graph changes are put back."""
        values = self._values[training_mode]
        if not program.writes:
            return program(*arrays, *values)
        before = self.variables.values()
        try:
            return program(*arrays, *values)
        finally:
            self.variables.assign(before)

    def step(self, program: Program, *arrays: Any, training_mode: bool) -> list[Any]:
        """Runs a program as `run` does, and keeps the changes to variables."""
        return program(*arrays, *self._values[training_mode])

    @contextmanager
    def building(self) -> Iterator[None]:
        """Adds operations that are made inside the block to the graph."""
        with self.session.graph.as_default(), tf.name_scope(_SCOPE):
            yield

    def gradient(self, of: Any, weights: Any = None) -> Any:
        """The gradient of a summed or weighted tensor with respect to the input; None if it does not exist."""
        if not (of.dtype.is_floating and self.input.dtype.is_floating):
            return None
        with self.building():
            try:
                (found,) = tf.compat.v1.gradients(of, self.input, grad_ys=weights)
            except LookupError:  # An operation on the way has no gradient.
                return None
            # Gathered inputs have gradients that are slices.
            return None if found is None else tf.convert_to_tensor(found)

    def unfed(self, tensors: Sequence[Any], *given: Any) -> list[str]:
        """Names of placeholders that tensors need and that get no value, if ``given`` are fed with the input."""
        return unfed(tensors, [self.input, *given, *self._fixed])

    def of_output(self, tensor: Any) -> bool:
        """True if a tensor can be computed from outputs and labels alone."""
        needed = upstream([tensor], without=[self.output, self.labels, *self._fixed])
        return self.input.op not in needed and not unfed([tensor], [self.output, self.labels, *self._fixed])

    def _check_feeds(self) -> None:
        labels = () if self.labels is None else (self.labels,)
        for part, given in (("output", ()), ("loss", labels), ("train", labels)):
            tensor = getattr(self, part)
            missing = [] if tensor is None else self.unfed([tensor], *given)
            if missing:
                raise ModelConfigError(
                    self.key,
                    f"{part} needs a value for {', '.join(missing[:5])} too; give it in feed_dict, by the placeholder's name",
                )


def _fixed(graph: Graph, key: str) -> tuple[list[Any], tuple[list[Array], list[Array]]]:
    """The tensors fed besides rows and labels, and their values in evaluation and in training."""
    evaluation = dict(graph.feed_dict)
    training = {**evaluation, **graph.training_feed_dict}
    if graph.learning is not None:
        evaluation[graph.learning], training[graph.learning] = False, True
    for tensor in training.keys() - evaluation.keys():
        if tensor.op.type != "PlaceholderWithDefault":
            raise ModelConfigError(key, f"training_feed_dict has a value for {tensor.name} and needs one in feed_dict; give both")
        evaluation[tensor] = graph.session.run(tensor)
    tensors = list(evaluation)
    return tensors, ([_value(t, evaluation[t], key) for t in tensors], [_value(t, training[t], key) for t in tensors])


def _value(tensor: Any, value: Any, key: str) -> Array:
    try:
        array = np.array(value, tensor.dtype.as_numpy_dtype, order="C")
    except (TypeError, ValueError) as e:
        raise ModelConfigError(key, f"feed_dict: {value!r:.200} is no value for {tensor.name}: {e}") from e
    if not tensor.shape.is_compatible_with(array.shape):
        raise ModelConfigError(key, f"feed_dict: the value for {tensor.name} has shape {array.shape}; expected {tensor.shape}")
    return array
