"""Check of a remote model: tries every granted operation and compares gradients with central differences.

A check leaves the model unchanged: it tries fits on a clone and saves no version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from gradwire.client import arguments
from gradwire.client.card import ModelCard
from gradwire.client.check.differences import (
    COARSE,
    PRECISIONS,
    Agreement,
    Differences,
    Precision,
    agreement,
    differences,
    directions,
)
from gradwire.client.check.random_rows import random_rows
from gradwire.client.errors import AccessError, InvalidCall, LayerError, ModelFailed, ServerError, Unsupported
from gradwire.client.estimator import RemoteEstimator
from gradwire.wire.names import OPERATIONS
from gradwire.wire.tensors import Array

ROWS = 4
"""Rows per trial: enough to show a wrong division by rows, few enough for a budget."""

Verdict: TypeAlias = Literal["ok", "wrong", "unclear", "not granted"]

_EPS = {4: 6e-8, 8: 1.2e-16}
_ALL_CLASSES_NBYTES = 64 << 20
"""Most bytes of a gradient of all classes; above, gradients of single classes are checked."""


@dataclass(frozen=True)
class Finding:
    """Result of the check of one operation."""

    operation: str
    verdict: Verdict
    text: str


class _Wrong(Exception):
    """An answer contradicts the card or the mathematics."""


class _Unclear(Exception):
    """An operation cannot be checked."""


def check_model(remote: RemoteEstimator, x: Array | None = None, y: Array | None = None, seed: int = 0) -> Iterator[Finding]:
    """Checks a model's operations one after the other.

    Args:
        remote: The model.
        x: Rows to use; None: random rows within the clip values.
        y: Labels of the rows; None: random labels.
        seed: Seed of everything random.

    Yields:
        One finding per operation, in the order of the contract.

    Raises:
        InvalidCall: No rows are given, and the card does not describe rows well enough.
        GradwireError: The server no longer answers.
    """
    rng = np.random.default_rng(seed)
    card = remote.card

    def trial(begin: int, precisions: dict[int, Precision] = PRECISIONS) -> _Trial:
        rows = rows_for(card, rng) if x is None else arguments.rows(x[begin : begin + ROWS], card).astype(card.input_dtype)
        labels = random_labels(card, len(rows), rng) if y is None else np.asarray(y)[begin : begin + ROWS]
        return _Trial(remote, rows, labels, rng, precisions)

    first = trial(0)
    for operation in OPERATIONS:
        if operation in card.operations:
            finding = _finding(operation, first)
            if operation in _COMPARED and finding.verdict == "unclear":
                finding = _finding(operation, trial(0, COARSE))
            if operation in _COMPARED and finding.verdict == "wrong":
                # Sometimes a row lies among so many kinks that no difference is right; wrong gradients are wrong elsewhere too.
                finding = _finding(operation, trial(ROWS if x is not None and len(x) >= 2 * ROWS else 0))
            yield finding
        elif operation in _ASKED:
            yield _not_granted(operation, first)
        else:
            yield Finding(operation, "not granted", "not on the card")


def rows_for(card: ModelCard, rng: np.random.Generator) -> Array:
    """Makes random rows ``(ROWS, *input_shape)`` for a check. Raises InvalidCall if the card does not describe rows."""
    if -1 in card.input_shape:
        raise InvalidCall(f"{card.name!r} takes rows of any size, {card.input_shape}; pass rows of your own")
    if card.clip_values is None and card.input_dtype.kind in "iu":
        raise InvalidCall(f"{card.name!r} takes {card.input_dtype} and its card has no clip values; pass rows of your own")
    return random_rows(card, (ROWS, *card.input_shape), rng)


def random_labels(card: ModelCard, n: int, rng: np.random.Generator) -> Array:
    """Makes random class indices ``(n,)``, or targets ``(n, *output_shape)`` of a regression."""
    if card.task == "regression":
        return rng.standard_normal((n, *card.output_shape))
    return rng.integers(0, card.nb_classes, n)


@dataclass
class _Trial:
    """Inputs of a check, and the differences of the outputs once they are known."""

    remote: RemoteEstimator
    x: Array
    y: Array
    rng: np.random.Generator
    precisions: dict[int, Precision]
    _along_outputs: Differences | None = field(default=None, init=False)

    @property
    def card(self) -> ModelCard:
        return self.remote.card

    @property
    def close(self) -> float:
        """Tolerance between two computations of one answer, relative to it: order of sums, TF32, bfloat16."""
        return 1e-2 if self.card.output_dtype.itemsize < 8 else 1e-8

    def against_loss(self, gradient: Array) -> Agreement:
        """Compares the gradients of the rows' losses, in the shape of the rows, with differences."""

        def losses(rows: Array) -> Array:
            repeated = np.concatenate([self.y] * (len(rows) // len(self.x)))
            return self.remote.compute_loss(rows, repeated)[:, None]

        return agreement(self._differences(losses, gradient), gradient[:, None])

    def against_outputs(self, gradient: Array, gradients: Array, columns: Array | None = None) -> Agreement:
        """Compares gradients ``(n, k, *row)`` with differences of the outputs.

        Args:
            gradient: Direction of half of the differences, in the shape of the rows.
            gradients: The gradients to compare.
            columns: ``(n, k, C)``: the combinations of outputs that were differentiated; None: each output alone.
        """
        if self.card.postprocessing_defences:
            raise _Unclear("shapes are right; not compared with differences, because predict answers outputs changed by defences")
        if self.card.output_kind == "labels":
            raise _Unclear("shapes are right; not compared with differences, because predict answers labels")
        if self._along_outputs is None:
            self._along_outputs = self._differences(lambda rows: self.remote.predict(rows).reshape(len(rows), -1), gradient)
        found = self._along_outputs
        if columns is not None:
            changes = np.einsum("sknc,njc->sknj", found.changes, columns)
            errors = found.errors * np.abs(columns).sum(axis=(1, 2))
            found = Differences(found.moves, changes, errors, found.tolerance)
        return agreement(found, gradients)

    def _differences(self, values: Callable[[Array], Array], gradient: Array) -> Differences:
        nbytes = min(self.card.output_dtype.itemsize, self.card.input_dtype.itemsize)
        spread = float(np.mean(np.subtract(*self.card.clip_values[::-1]))) if self.card.clip_values else float(self.x.std()) or 1.0
        along = directions(gradient.astype(np.float64), self.rng)
        precision = self.precisions.get(nbytes, self.precisions[4])
        return differences(values, self.x, along, spread, precision, _EPS.get(nbytes, _EPS[4]))


# The check of each operation. Each returns a text, or raises _Wrong or _Unclear.


def _predict(trial: _Trial) -> str:
    card, remote, n = trial.card, trial.remote, len(trial.x)
    outputs = remote.predict(trial.x)
    shape = card.output_shape or outputs.shape[1:]
    _expect(outputs, (n, *shape), card.output_dtype)
    one_by_one = _apart(remote.predict(trial.x, batch_size=1), outputs)
    if one_by_one > trial.close:
        raise _Wrong(
            f"rows one by one give other outputs than together: {one_by_one:.0%} apart; each row's outputs must depend on it alone"
        )
    if card.output_kind == "labels" and not (np.sort(outputs, axis=1) == np.eye(shape[0])[-1]).all():
        raise _Wrong(f"outputs must be one-hot rows; the first is {outputs[0]}")
    if card.output_kind == "probabilities" and not ((outputs >= -1e-6) & (outputs <= 1 + 1e-6)).all():
        raise _Wrong(f"outputs must be probabilities; they range from {outputs.min():g} to {outputs.max():g}")
    more = _more_answers(trial, outputs)
    return f"{outputs.dtype} {outputs.shape}, {card.output_kind}; together or one by one: {one_by_one:.1e} apart{more}"


def _more_answers(trial: _Trial, outputs: Array) -> str:
    """Checks the other answers of predict that the card lists."""
    remote, x, found = trial.remote, trial.x, []
    if "logits" in trial.card.answers:
        _expect(remote.predict(x, logits=True), outputs.shape, None)
        found.append("logits")
    if "uncertainty" in trial.card.answers:
        uncertainty = remote.predict_uncertainty(x)
        _expect(uncertainty, (len(x), 1), None)
        if (uncertainty < 0).any():
            raise _Wrong(f"uncertainty is a variance and must not be negative; the least is {uncertainty.min():g}")
        found.append("uncertainty")
    if "members" in trial.card.answers:
        members = remote.predict(x, raw=True)
        _expect(members, (len(members), *outputs.shape), None)
        if not trial.card.postprocessing_defences and _apart(members.sum(axis=0), outputs) > trial.close:
            raise _Wrong("the members' answers must add up to the outputs")
        found.append(f"{len(members)} members")
    return f"; also {', '.join(found)}" if found else ""


def _loss(trial: _Trial) -> str:
    remote, n = trial.remote, len(trial.x)
    rows, total, mean = (remote.compute_loss(trial.x, trial.y, reduction) for reduction in ("none", "sum", "mean"))
    _expect(rows, (n,), None)
    _expect(total, (), None)
    if abs(float(total) - rows.sum(dtype=np.float64)) > trial.close * (np.abs(rows).sum() + 1e-12):
        raise _Wrong(f'"sum" is {float(total):g}; the rows\' losses add up to {rows.sum():g}')
    divisor = float(total) / float(mean) if float(mean) else n
    if not 0 < divisor < np.inf:
        raise _Wrong(f'"mean" is {float(mean):g} and "sum" {float(total):g} of {n} rows')
    weighted = abs(divisor - n) > trial.close * n
    of = f"the rows' weights, {divisor:.3g}" if weighted else f"{n} rows"
    return f'{trial.card.loss or "loss"}: "sum" adds up, "mean" divides by {of}{_loss_of_predictions(trial, rows)}'


def _loss_of_predictions(trial: _Trial, losses: Array) -> str:
    if trial.card.postprocessing_defences:
        return ""
    try:
        apart = _apart(trial.remote.compute_loss_from_predictions(trial.remote.predict(trial.x), trial.y), losses)
    except Unsupported:
        return ""
    if apart > trial.close:
        raise _Wrong(f"the loss of known predictions is {apart:.0%} off the loss of their rows")
    return f"; of known predictions: {apart:.1e} apart"


def _loss_gradient(trial: _Trial) -> str:
    remote, n = trial.remote, len(trial.x)
    gradient = remote.loss_gradient(trial.x, trial.y)
    _expect(gradient, trial.x.shape, None)
    one_by_one = _apart(remote.loss_gradient(trial.x, trial.y, batch_size=1), gradient)
    if one_by_one > trial.close:
        raise _Wrong(f"with batch_size=1 it is {one_by_one:.0%} off; a mean must divide by the rows of the call, not of a batch")
    divisor: float = 1
    if trial.card.loss_reduction == "mean":
        total, mean = (float(remote.compute_loss(trial.x, trial.y, reduction)) for reduction in ("sum", "mean"))
        divisor = total / mean if mean else n
    found = trial.against_loss(gradient * divisor)
    return f"{_judged(found, trial.card)}; {trial.card.loss_reduction} over {n} rows, batch_size=1: {one_by_one:.1e} apart"


def _class_gradient(trial: _Trial) -> str:
    card, remote, n = trial.card, trial.remote, len(trial.x)
    classes = card.output_shape[0] if card.output_shape else card.nb_classes
    label = trial.rng.integers(0, classes, n)
    labelled = remote.class_gradient(trial.x, label)
    _expect(labelled, (n, 1, *trial.x.shape[1:]), None)
    single = remote.class_gradient(trial.x[:1], int(label[0]))
    _same(single, labelled[:1], trial, "one class for all rows and one class per row")
    if classes * labelled.nbytes > _ALL_CLASSES_NBYTES:
        found = trial.against_outputs(labelled[:, 0], labelled, np.eye(classes)[label][:, None])
        return f"{_judged(found, card)}; one class per row, because all {classes} would be {classes * labelled.nbytes >> 20} MiB"
    every = remote.class_gradient(trial.x)
    _expect(every, (n, classes, *trial.x.shape[1:]), None)
    _same(labelled[:, 0], every[np.arange(n), label], trial, "one class per row and every class")
    weights = trial.rng.standard_normal(classes)
    found = trial.against_outputs(np.tensordot(every, weights, (1, 0)), every)
    return f"{_judged(found, card)}; {classes} classes, single ones agree"


def _get_activations(trial: _Trial) -> str:
    card, remote = trial.card, trial.remote
    names = list(dict.fromkeys((*card.layer_names[:1], *card.layer_names[-1:])))
    if not names:
        raise _Unclear("the card lists no layers")
    shapes = []
    for name in names:
        by_name = remote.get_activations(trial.x, name)
        if by_name.shape[:1] != trial.x.shape[:1]:
            raise _Wrong(f"layer {name!r} has shape {by_name.shape} for {len(trial.x)} rows")
        _same(remote.get_activations(trial.x, card.layer_names.index(name)), by_name, trial, f"layer {name!r} by name and by index")
        shapes.append(f"{name} {by_name.shape}")
    return f"{len(card.layer_names)} layers, equal by name and by index: {', '.join(shapes)}"


def _vjp(trial: _Trial) -> str:
    card, remote, n = trial.card, trial.remote, len(trial.x)
    shape = card.output_shape or remote.predict(trial.x).shape[1:]
    cotangent = trial.rng.standard_normal((n, *shape)).astype(card.output_dtype)
    product = remote.vjp(trial.x, cotangent)
    _expect(product, trial.x.shape, None)
    found = trial.against_outputs(product, product[:, None], cotangent.reshape(n, 1, -1))
    return _judged(found, card)


def _fit(trial: _Trial) -> str:
    if "clone_for_refitting" not in trial.card.operations:
        raise _Unclear("not tried: it would change the model, and clones are not granted")
    clone = trial.remote.clone_for_refitting()
    try:
        before = clone.card.version
        clone.fit(trial.x, trial.y, nb_epochs=1, batch_size=2)
        if clone.card.version == before:
            raise _Wrong(f"after a fit the version is still {before!r}")
        return "an epoch on a clone, which was deleted"
    finally:
        clone.delete()


def _fit_generator(trial: _Trial) -> str:
    if "clone_for_refitting" not in trial.card.operations:
        raise _Unclear("not tried: it would change the model, and clones are not granted")
    clone = trial.remote.clone_for_refitting()
    try:
        clone.fit_generator([(trial.x[:2], trial.y[:2]), (trial.x[2:], trial.y[2:])][: (len(trial.x) + 1) // 2], nb_epochs=1)
        return "two batches on a clone, which was deleted"
    finally:
        clone.delete()


def _save(trial: _Trial) -> str:
    return f"{len(trial.remote.versions())} saved versions; none was saved or restored by this check"


def _clone(trial: _Trial) -> str:
    clone = trial.remote.clone_for_refitting()
    try:
        if clone.card.clone_of != trial.card.name or clone.card.input_shape != trial.card.input_shape:
            raise _Wrong(f"the clone's card says {clone.card.clone_of!r}, {clone.card.input_shape}")
        return f"made as {clone.card.name!r} and deleted"
    finally:
        clone.delete()


_TRIALS: dict[str, Callable[[_Trial], str]] = {
    "predict": _predict,
    "loss": _loss,
    "loss_gradient": _loss_gradient,
    "class_gradient": _class_gradient,
    "get_activations": _get_activations,
    "vjp": _vjp,
    "fit": _fit,
    "fit_generator": _fit_generator,
    "save": _save,
    "clone_for_refitting": _clone,
}
assert set(_TRIALS) == set(OPERATIONS)

_COMPARED = frozenset({"loss_gradient", "class_gradient", "vjp"})
"""Operations compared with differences."""

_ASKED: dict[str, Callable[[_Trial], object]] = {
    "predict": lambda trial: trial.remote.predict(trial.x[:1]),
    "loss": lambda trial: trial.remote.compute_loss(trial.x[:1], trial.y[:1]),
    "loss_gradient": lambda trial: trial.remote.loss_gradient(trial.x[:1], trial.y[:1]),
    "class_gradient": lambda trial: trial.remote.class_gradient(trial.x[:1], 0),
    "get_activations": lambda trial: trial.remote.get_activations(trial.x[:1], 0),
    "vjp": lambda trial: trial.remote.vjp(trial.x[:1], np.ones((1, *trial.card.output_shape), np.float32)),
}
"""Calls of operations that the card does not list, which a server must reject. None of them changes a model."""


def _finding(operation: str, trial: _Trial) -> Finding:
    try:
        return Finding(operation, "ok", _TRIALS[operation](trial))
    except _Unclear as e:
        return Finding(operation, "unclear", str(e))
    except (_Wrong, InvalidCall, Unsupported, ServerError, AccessError) as e:
        return Finding(operation, "wrong", str(e) if isinstance(e, _Wrong) else f"rejected although granted: {e}")


def _not_granted(operation: str, trial: _Trial) -> Finding:
    try:
        _ASKED[operation](trial)
    except (AccessError, Unsupported, LayerError) as e:
        return Finding(operation, "not granted", str(e))
    except (InvalidCall, ModelFailed) as e:
        return Finding(operation, "wrong", f"not on the card, but rejected for another reason: {e}")
    return Finding(operation, "wrong", "answered although it is not on the card")


def _judged(found: Agreement, card: ModelCard) -> str:
    """Describes the agreement of a gradient with differences. Raises _Wrong or _Unclear."""
    if found.wrong and card.preprocessing_defences:
        # Rounding to fewer bits, JPEG: their gradient is that of the identity, as in ART.
        raise _Unclear(f"shapes are right; {found.error:.1%} off differences, which gradients through defences may be")
    if found.wrong:
        times = "" if found.factor is None else f": it is {found.factor:.3g} times the right one"
        raise _Wrong(f"differs from central differences by {found.error:.1%}{times} (allowed {found.allowed:.2g})")
    if found.unclear:
        raise _Unclear("shapes are right; the outputs are too flat or too noisy around these rows to compare; try other rows")
    return f"differs from central differences by {found.error:.1e} (allowed {found.allowed:.2g})"


def _expect(array: Array, shape: tuple[int, ...], dtype: np.dtype[Any] | None) -> None:
    if array.shape != shape:
        raise _Wrong(f"shape {array.shape}; expected {shape}")
    if array.dtype.kind != "f" if dtype is None else array.dtype != dtype:
        raise _Wrong(f"dtype {array.dtype}; expected {dtype or 'floating point'}")
    if not np.isfinite(array).all():
        raise _Wrong(f"{np.count_nonzero(~np.isfinite(array))} of {array.size} numbers are NaN or infinite")


def _same(one: Array, other: Array, trial: _Trial, what: str) -> None:
    if one.shape != other.shape:
        raise _Wrong(f"{what} have shapes {one.shape} and {other.shape}")
    if (apart := _apart(one, other)) > trial.close:
        raise _Wrong(f"{what} are {apart:.0%} apart")


def _apart(one: Array, other: Array) -> float:
    """Returns the greatest difference, relative to the greatest number."""
    size = float(np.abs(other).max())
    return float(np.abs(one.astype(np.float64) - other).max()) / size if size else float(np.abs(one).max())
