"""The loss of a TensorFlow 1 graph taken row by row, and the targets that it expects.

Invariant: the loss of a row is the graph's own loss of that row alone. The sum of the rows' losses, divided by the number of rows
if the loss is a mean, is the graph's loss of all rows, except for terms that do not depend on rows (weight decay).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidLabel, ModelConfigError
from gradwire.backends.tensorflow_v1.graph import downstream, upstream
from gradwire.backends.tensorflow_v1.labels import LabelForm
from gradwire.backends.tensorflow_v1.network import Network
from gradwire.backends.tensorflow_v1.programs import Program

# Operations whose outputs do not depend on values, such as the number of rows, which means divide by.
_OF_SHAPES = ("Shape", "ShapeN", "Size", "Rank", "OnesLike", "ZerosLike")
_VARIABLES = ("ReadVariableOp", "VariableV2", "Variable")
# Relative to the greatest loss: the same rows in batches of other sizes, added up in another order, and by ``tf.losses`` in
# float32 whatever the graph's precision is.
_TOLERANCE = 1e-4
_HALF_TOLERANCE = 2e-2
_OR_ONE_NUMBER = {
    True: ", or their mean or sum",
    False: "; one number does not do if input_shape leaves sizes free",
}


class RowLoss:
    """A loss of rows, derived from the graph's own loss by `derive`.

    Args:
        network: The graph.
        form: The form of labels that its placeholder takes.
        tensor: The losses of the rows, ``(n,)``.
        gradient: Of the summed rows with respect to the input; None if it does not exist.
        reduction: How the graph's own loss treats rows.
        note: For the card.

    Attributes:
        name: Of the loss, for the card.
        reduction: How the graph's own loss treats rows.
        takes_outputs: Whether the loss can be computed from outputs alone.
        owners: The tensor of the graph's own loss: one number, or as ``tensor``.
    """

    def __init__(
        self, network: Network, form: LabelForm, tensor: Any, gradient: Any, reduction: Literal["mean", "sum"], note: str
    ) -> None:
        self.name = str(network.loss.op.name)
        self.reduction = reduction
        self.takes_outputs = network.of_output(tensor)
        self.owners = network.loss
        self.tensor, self.gradient, self.note = tensor, gradient, note
        self._network = network
        self._form = form
        self._of_outputs: Program | None = (
            network.program([tensor], [network.output, network.labels]) if self.takes_outputs else None
        )

    def targets(self, y: Array, row: tuple[int, ...]) -> Array:
        """Converts labels to the targets that the loss takes.

        Args:
            y: As `labels.canonical` returns them.
            row: The shape of a row of outputs; not used, because the labels placeholder has the shape of the targets.

        Raises:
            InvalidLabel: The placeholder cannot take the labels.
        """
        return self._form.array(y)

    def rows(self, outputs: Array, targets: Array) -> Array:
        """The loss of each row, ``(n,)``, for outputs in the shape of the output tensor and the result of `targets`."""
        assert self._of_outputs is not None, "the loss is one of outputs"
        found: Array = self._network.run(
            self._of_outputs, np.array(outputs, self._of_outputs.dtypes[0], order="C"), targets, training_mode=False
        )[0]
        return found

    def reduced(self, rows: Array, divisor: float) -> float:
        """The loss as the model's owner defined it, from `owners` or the rows, whose number is the `divisor`."""
        return float(rows.mean() if self.reduction == "mean" else rows.sum())

    def divisor(self, y: Array) -> float:
        """The number that a mean over the rows divides by: the rows, because their losses contain class weights."""
        return float(len(y))


def derive(network: Network, form: LabelForm, reduction: Literal["mean", "sum"] | None, probe: Array | None) -> RowLoss:
    """Derives the loss of rows from the graph's loss, by its values for a few rows together and alone.

    Args:
        network: The graph, with a loss.
        form: The form of labels that its placeholder takes.
        reduction: How the loss treats rows; None to find out, which gives "sum" for losses of rows.
        probe: Rows to try the graph with; None if sizes are free and the graph does not take the tried ones.

    Raises:
        ModelConfigError: The loss is neither the losses of the rows nor their mean nor their sum.
    """
    if not network.loss.dtype.is_floating:
        raise ModelConfigError(network.key, f"loss is of dtype {network.loss.dtype.name}; expected floats")
    samples = None if probe is None else _Samples(network, form, probe)
    shape = network.loss.shape if samples is None else tf.TensorShape(samples.together.shape)
    n = None if probe is None else len(probe)
    if shape.rank is not None and (shape.is_compatible_with([n]) or shape.is_compatible_with([n, 1])):
        with network.building():
            rows = network.loss if network.loss.shape.rank == 1 else tf.reshape(network.loss, [-1])
        return RowLoss(network, form, rows, network.gradient(rows), reduction or "sum", "")
    if shape.rank != 0 or samples is None:
        raise ModelConfigError(
            network.key,
            f"loss has shape {shape}; expected the losses of the rows, (None,){_OR_ONE_NUMBER[samples is not None]}",
        )
    reduction = reduction or samples.reduction()
    rows = _rows(network, reduction, samples)
    with network.building():
        count = tf.cast(tf.shape(network.input)[0], network.loss.dtype) if reduction == "mean" else None
    note = f"the graph's loss is the {reduction} over the rows of a call; the losses of single rows are taken out of it"
    return RowLoss(network, form, rows, network.gradient(network.loss, count), reduction, note)


class _Samples:
    """Values of the loss for rows together, and for each alone."""

    def __init__(self, network: Network, form: LabelForm, probe: Array) -> None:
        self._network, self._x = network, probe
        try:
            self._y = form.samples(len(probe))
        except InvalidLabel as e:
            raise ModelConfigError("nb_classes", f"the graph's placeholder for labels does not take so many classes: {e}") from e
        self._loss = network.program([network.loss], [network.input, network.labels])
        self.tolerance = _TOLERANCE if network.loss.dtype in (tf.float32, tf.float64) else _HALF_TOLERANCE
        every = range(len(probe))
        self.together = self._of(self._loss, every)
        self.alone = np.array([self._of(self._loss, [row]) for row in every]) if self.together.ndim == 0 else self.together

    def reduction(self) -> Literal["mean", "sum"]:
        """Finds out if the loss is a mean or a sum. Raises ModelConfigError if it is neither."""
        # A part that does not depend on rows adds itself once to a sum, whatever the number of rows.
        n = len(self.alone)
        constant = self.alone[0] + self.alone[1] - self._of(self._loss, [0, 1])
        mean = bool(self.alone.any()) and self.same(self.together, self.alone.mean())
        total = self.same(self.together, self.alone.sum() - (n - 1) * constant) and not self.same(constant, self.alone.mean())
        if not mean and not total:
            raise ModelConfigError(
                self._network.key,
                f"loss is {self.together:.6g} of {n} rows and {np.array2string(self.alone, precision=4)} of each alone: "
                "neither a mean nor a sum. Let loss be the tensor of the losses of the rows, (None,), or set loss_reduction",
            )
        return "mean" if mean else "sum"

    def are(self, rows: Any) -> bool:
        """True if a tensor holds the losses of the rows."""
        try:
            found = self._of(self._network.program([rows], [self._network.input, self._network.labels]), range(len(self.alone)))
        except tf.errors.OpError:
            return False
        return found.shape == self.alone.shape and self.same(found, self.alone)

    def same(self, a: Any, b: Any) -> bool:
        """True if values are equal within the tolerance."""
        return bool(np.allclose(a, b, rtol=0, atol=self.tolerance * max(float(np.abs(self.alone).max()), 1e-30)))

    def _of(self, program: Any, rows: Sequence[int]) -> Array:
        x, y = self._x[list(rows)].astype(program.dtypes[0]), self._y[list(rows)]
        return np.array(self._network.run(program, x, y, training_mode=False)[0], np.float64)


def _rows(network: Network, reduction: str, samples: _Samples) -> Any:
    """The losses of the rows as a tensor, if the graph's loss is one number.

    The loss of a row is taken out of the sum or mean that the graph makes: with respect to the tensors ``t`` that are the
    last to have rows, the loss is ``<g, t> + c`` with its gradient ``g`` and a ``c`` that does not depend on rows. A row's
    part of ``<g, t>``, times the number of rows for a mean, and ``c`` are the row's loss. Compared with the losses of single rows.
    """
    last = _last_with_rows(network)
    if len(last) == 1 and network.loss.op.type.lower() == reduction and last[0].shape.rank == 1 and samples.are(last[0]):
        return last[0]
    with network.building():
        weights = tf.compat.v1.gradients(network.loss, last, stop_gradients=last) if last else []
        used = [(t, g) for t, g in zip(last, weights, strict=True) if g is not None]
        if used:
            n = tf.shape(used[0][0])[0]
            sums = [tf.reduce_sum(tf.reshape(t * g, [n, -1]), 1) for t, g in used]
            parts = tf.add_n([tf.cast(part, network.loss.dtype) for part in sums])
            rows = parts * tf.cast(n, parts.dtype) if reduction == "mean" else parts
            if any(op.type in _VARIABLES for op in upstream([network.loss], without=[t for t, _ in used])):
                rows += network.loss - tf.reduce_sum(parts)
            if samples.are(rows):
                return rows
    raise ModelConfigError(
        network.key,
        f"loss is one number, from which the losses of single rows cannot be derived as parts of a {reduction}; "
        "let loss be the tensor of the losses of the rows, (None,)",
    )


def _last_with_rows(network: Network) -> list[Any]:
    """The last tensors before the loss that have an axis of rows."""
    of_rows = downstream(network.input, without=_OF_SHAPES)
    waiting, seen, found = [network.loss], {network.loss.name}, []
    while waiting:
        tensor = waiting.pop()
        with_rows = tensor.shape.rank is None or (tensor.shape.rank > 0 and tensor.shape.as_list()[0] is None)
        if tensor is not network.loss and with_rows and tensor.dtype.is_floating:
            found.append(tensor)
            continue
        for nearer in tensor.op.inputs:
            if nearer.name not in seen and nearer.op in of_rows:
                seen.add(nearer.name)
                waiting.append(nearer)
    return found
