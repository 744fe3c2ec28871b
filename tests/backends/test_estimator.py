"""Estimators: preprocessing, label forms, blocks of a call, and fits as transactions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import differences
import numpy as np
import pytest
import torch
from torch import nn

import models
from gradwire.backends import errors
from gradwire.backends.capabilities import Operation
from gradwire.backends.estimator import Estimator
from gradwire.backends.load import load
from gradwire.backends.torch import Config
from gradwire.backends.training import FitOptions, FitProgress

X = np.random.default_rng(1).normal(size=(7, 6))
Y = np.array([0, 3, 1, 1, 2, 0, 3])
SOFT = np.random.default_rng(2).dirichlet(np.ones(4), size=7)
ADAM = {"path": "torch.optim.Adam", "args": {"lr": 0.05}}
WEIGHTED = {"path": "torch.nn.CrossEntropyLoss", "args": {"weight": [1.0, 2.0, 3.0, 0.5]}}


def estimator(factory: str = "mlp", factory_args: dict[str, Any] | None = None, **keys: Any) -> Estimator:
    given: dict[str, Any] = {
        "input_shape": (6,),
        "nb_classes": 4,
        "loss": "torch.nn.CrossEntropyLoss",
        "optimizer": ADAM,
        **keys,
    }
    return load(Config(backend="torch", factory={"path": f"models:{factory}", "args": factory_args or {}}, **given))


def state(e: Estimator) -> list[torch.Tensor]:
    """Weights, buffers and the optimizer's state."""
    model: Any = e.model
    moments = model._optimizer.state_dict()["state"]
    return [t.clone() for t in (*model._module.state_dict().values(), *(t for of in moments.values() for t in of.values()))]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(s, t) for s, t in zip(a, b, strict=True))


def exhaust(steps: Iterator[FitProgress]) -> list[FitProgress]:
    return list(steps)


ONE_EPOCH = FitOptions(batch_size=3, nb_epochs=1, seed=0)


# Operations.


@pytest.mark.parametrize(
    "form", [Y, Y[:, None], Y.astype(np.float32), Y.astype(np.uint8), np.eye(4)[Y], np.eye(4, dtype=np.float32)[Y]]
)
def test_every_form_of_the_same_labels_has_the_same_loss_and_gradient(form: np.ndarray) -> None:
    e = estimator()
    y = e.prepare_labels(form, 7)
    np.testing.assert_array_equal(e.loss(X, y), e.loss(X, Y))
    np.testing.assert_array_equal(e.loss_gradient(X, y), e.loss_gradient(X, Y))


@pytest.mark.parametrize(
    "loss", ["torch.nn.CrossEntropyLoss", WEIGHTED, {"path": "torch.nn.CrossEntropyLoss", "args": {"reduction": "sum"}}]
)
@pytest.mark.parametrize("y", [Y, SOFT])
def test_loss_gradient_is_that_of_the_models_own_reduction(loss: Any, y: np.ndarray) -> None:
    e = estimator(loss=loss)
    args = loss["args"] if isinstance(loss, dict) else {}
    own = nn.CrossEntropyLoss(**{k: torch.tensor(v).double() if isinstance(v, list) else v for k, v in args.items()})
    x = torch.from_numpy(X).requires_grad_()
    (expected,) = torch.autograd.grad(own(models.mlp()(x), torch.from_numpy(y)), x)
    np.testing.assert_allclose(e.loss_gradient(X, e.prepare_labels(y, 7)), expected.numpy(), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("loss", ["torch.nn.CrossEntropyLoss", WEIGHTED])
@pytest.mark.parametrize("y", [Y, SOFT])
def test_gradients_of_blocks_are_those_of_the_whole_call(loss: Any, y: np.ndarray) -> None:
    e = estimator(loss=loss)
    divisor = e.loss_divisor(y)
    blocks = [e.loss_gradient(X[rows], y[rows], divisor=divisor) for rows in (slice(0, 1), slice(1, 4), slice(4, 7))]
    np.testing.assert_allclose(np.concatenate(blocks), e.loss_gradient(X, y), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("label", [2, np.int64(2), np.full(7, 2, np.uint8)])
def test_one_class_of_all_rows_and_one_a_row_are_the_same(label: Any) -> None:
    e = estimator()
    gradient = e.class_gradient(X, e.prepare_label(label, 7))
    assert gradient.shape == (7, 1, 6)
    np.testing.assert_allclose(gradient[:, 0], e.class_gradient(X, e.prepare_label(None, 7))[:, 2], rtol=1e-12)


@pytest.mark.parametrize("label", [4, -1, np.array([0, 1, 2, 3, 4, 0, 0])])
def test_class_that_there_is_not_is_an_invalid_label(label: Any) -> None:
    with pytest.raises(errors.InvalidLabel, match="out of range"):
        estimator().prepare_label(label, 7)


@pytest.mark.parametrize("std", [2.0, [1.0, 2.0, 0.5, 4.0, 1.0, 3.0]])
def test_all_gradients_flow_back_through_standardisation(std: Any) -> None:
    e = estimator(preprocessing={"mean": 0.5, "std": std})
    module = models.mlp()
    with torch.no_grad():
        np.testing.assert_allclose(e.predict(X), module(torch.from_numpy((X - 0.5) / np.asarray(std))).numpy(), rtol=1e-12)
    close = {"rtol": 1e-6, "atol": 1e-8}  # Of central differences.
    jacobian = differences.gradient(e.predict, X)
    np.testing.assert_allclose(e.class_gradient(X, None), jacobian, **close)
    np.testing.assert_allclose(e.vjp(X, SOFT), np.einsum("nc,ncd->nd", SOFT, jacobian), **close)
    np.testing.assert_allclose(e.loss_gradient(X, Y) * 7, differences.gradient(lambda x: e.loss(x, Y), X), **close)
    hidden = differences.gradient(lambda x: e.get_activations(x, "1"), X)
    cotangent = np.random.default_rng(3).normal(size=(7, 8))
    np.testing.assert_allclose(e.vjp(X, cotangent, layer="1"), np.einsum("nc,ncd->nd", cotangent, hidden), **close)


def test_standardisation_a_channel_is_that_of_the_first_axis_of_images() -> None:
    e = estimator("cnn", nb_classes=5, input_shape=(1, 8, 8), preprocessing={"mean": [0.5], "std": [0.25]})
    images = np.random.default_rng(4).random((3, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = models.cnn()(torch.from_numpy((images - np.float32(0.5)) / np.float32(0.25))).numpy()
    np.testing.assert_allclose(e.predict(images), expected, rtol=1e-5, atol=1e-6)
    assert e.class_gradient(images, None).dtype == np.float32


def test_caller_may_bring_a_standardisation_of_its_own() -> None:
    e, own = estimator(preprocessing={"mean": 0.5, "std": 2.0}), estimator(preprocessing={"mean": 0.0, "std": 4.0})
    replaced = e.standardisation(0.0, 4.0)
    np.testing.assert_array_equal(e.predict(X, standardisation=replaced), own.predict(X))
    np.testing.assert_array_equal(e.loss_gradient(X, Y, standardisation=replaced), own.loss_gradient(X, Y))


def test_operations_that_a_model_lacks_say_what_it_has() -> None:
    e = estimator(loss=None, optimizer=None)
    for call in (
        lambda: e.loss(X, Y),
        lambda: e.loss_gradient(X, Y),
        lambda: e.loss_divisor(Y),
        lambda: e.loss_from_predictions(SOFT, Y),
        lambda: e.fit(X, Y, ONE_EPOCH),
    ):
        with pytest.raises(errors.Unsupported, match="has no"):
            call()
    assert e.predict(X).shape == (7, 4)


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [((7, 5), np.float64, errors.InvalidShape), ((6,), np.float64, errors.InvalidShape), ((0, 6), np.float64, errors.EmptyBatch)],
)
def test_rows_are_checked_before_they_are_held(shape: tuple[int, ...], dtype: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        estimator().check_rows(shape, np.dtype(dtype))


def test_tokens_must_be_integers() -> None:
    e = estimator("Embedded", input_shape=(7,), nb_classes=3, input_dtype="int64")
    assert e.check_rows((2, 7), np.dtype(np.int32)) == 2
    with pytest.raises(errors.InvalidDtype, match="int64"):
        e.check_rows((2, 7), np.dtype(np.float32))


def test_what_the_owners_code_raises_is_named() -> None:
    with pytest.raises(errors.ModelFailed, match="RuntimeError in predict") as raised:
        estimator().predict(X[:, :3])
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_labels_only_answers_hide_the_scores() -> None:
    e = estimator()
    np.testing.assert_array_equal(e.predict(X, labels_only=True), np.eye(4)[e.predict(X).argmax(1)])
    single = estimator(factory_args={"nb_outputs": 1}, nb_classes=2, loss="torch.nn.BCEWithLogitsLoss")
    np.testing.assert_array_equal(single.predict(X, labels_only=True)[:, 1], single.predict(X)[:, 0] > 0)


# Defences.

SQUEEZING = {"path": "art.defences.preprocessor.FeatureSqueezing", "args": {"clip_values": (0.0, 1.0), "bit_depth": 2}}
SMOOTHING = {"path": "art.defences.preprocessor.SpatialSmoothing", "args": {"window_size": 3, "channels_first": True}}


@pytest.mark.parametrize("specs", [[SMOOTHING], [SQUEEZING], [SQUEEZING, SMOOTHING]])
def test_defended_model_is_arts(specs: list[dict[str, Any]]) -> None:
    from art.defences import preprocessor
    from art.estimators.classification import PyTorchClassifier

    keys: dict[str, Any] = {"nb_classes": 5, "input_shape": (1, 8, 8), "clip_values": (0.0, 1.0)}
    e = estimator("cnn", preprocessing_defences=specs, preprocessing={"mean": 0.5, "std": 0.25}, **keys)
    # ART 1.20.1 takes no chain of these, and with numpy 2 feeds the float64 of FeatureSqueezing to a float32 model. They
    # pass gradients through, so that its classifier without them, at the defended rows, is what it means.
    art = PyTorchClassifier(models.cnn(), loss=nn.CrossEntropyLoss(), preprocessing=(0.5, 0.25), device_type="cpu", **keys)
    images = defended = np.random.default_rng(4).random((4, 1, 8, 8)).astype(np.float32)
    for spec in specs:
        defended = getattr(preprocessor, spec["path"].rpartition(".")[2])(**spec["args"])(defended)[0].astype(np.float32)
    one_hot = np.eye(5, dtype=np.float32)[[0, 4, 2, 1]]
    y = e.prepare_labels(one_hot, 4)
    close = {"rtol": 1e-4, "atol": 1e-5}  # float32, in another order of rows.
    np.testing.assert_allclose(e.predict(images), art.predict(defended), **close)
    np.testing.assert_allclose(e.loss(images, y), art.compute_loss(defended, one_hot), **close)
    np.testing.assert_allclose(e.loss_gradient(images, y), art.loss_gradient(defended, one_hot), **close)
    np.testing.assert_allclose(e.class_gradient(images, None), art.class_gradient(defended), **close)
    assert not np.allclose(e.predict(images), art.predict(images), **close)


def test_postprocessing_changes_predictions_and_nothing_else() -> None:
    rounding = {"path": "art.defences.postprocessor.Rounded", "args": {"decimals": 1}}
    defended, plain = estimator(postprocessing_defences=[rounding]), estimator()
    np.testing.assert_array_equal(defended.predict(X), plain.predict(X).round(1))
    np.testing.assert_array_equal(defended.loss(X, Y), plain.loss(X, Y))
    np.testing.assert_array_equal(defended.class_gradient(X, None), plain.class_gradient(X, None))


def test_label_smoothing_defence_trains_on_soft_labels() -> None:
    smoothing = {"path": "art.defences.preprocessor.LabelSmoothing", "args": {"max_value": 0.7}}
    defended, plain = estimator(preprocessing_defences=[smoothing]), estimator()
    whole = FitOptions(batch_size=7, nb_epochs=1)
    loss = exhaust(defended.fit(X, Y, whole))[0].loss
    soft = np.where(np.eye(4)[Y] == 1, 0.7, 0.1)
    assert loss == pytest.approx(plain.loss(X, soft).mean(), rel=1e-6)  # The defence computes in float32.
    np.testing.assert_array_equal(estimator(preprocessing_defences=[smoothing]).loss(X, Y), plain.loss(X, Y))


@pytest.mark.parametrize("key", ["preprocessing_defences", "postprocessing_defences"])
def test_defence_without_arts_interface_is_a_configuration_error(key: str) -> None:
    with pytest.raises(errors.ModelConfigError, match="ART's interface") as raised:
        estimator(**{key: ["models:LinearAscent"]})
    assert raised.value.key == key


# Loading.


@pytest.mark.parametrize(
    ("keys", "key"), [({"input_shape": (5,)}, "input_shape"), ({"nb_classes": 3}, "nb_classes"), ({"backend": "abacus"}, "backend")]
)
def test_configuration_that_does_not_fit_the_model_is_found_at_loading(keys: dict[str, Any], key: str) -> None:
    config = Config(**{"backend": "torch", "factory": "models:mlp", "input_shape": (6,), "nb_classes": 4, **keys})
    with pytest.raises(errors.ModelConfigError) as raised:
        load(config)
    assert raised.value.key == key


def test_clip_values_may_be_given_a_channel() -> None:
    class_count = 5
    e = estimator("cnn", nb_classes=class_count, input_shape=(1, 8, 8), clip_values=([0.0], [1.0]))
    assert e.output_shape == (class_count,)


# Fit.


def test_finished_fit_is_a_new_version_that_learnt() -> None:
    e = estimator()
    before = e.loss(X, Y).mean()
    progress = exhaust(e.fit(X, Y, FitOptions(batch_size=3, nb_epochs=20, seed=0)))
    assert [(p.epoch, p.batch) for p in progress[:4]] == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert {(p.nb_epochs, p.nb_batches) for p in progress} == {(20, 3)}
    assert e.version == "fit-1"
    assert e.loss(X, Y).mean() < before / 2
    exhaust(e.fit(X, Y, ONE_EPOCH))
    assert e.version == "fit-2"


def test_fit_visits_every_row_once_an_epoch_in_the_order_of_its_seed() -> None:
    def run(seed: int) -> tuple[list[float | None], list[torch.Tensor]]:
        e = estimator()
        losses = [p.loss for p in exhaust(e.fit(X, Y, FitOptions(batch_size=3, nb_epochs=2, seed=seed)))]
        return losses, state(e)

    (losses, weights), (again, weights_again), (other, _) = run(0), run(0), run(1)
    assert losses == again
    assert equal(weights, weights_again)
    assert losses != other
    still = estimator(optimizer={"path": "torch.optim.SGD", "args": {"lr": 0.0}})
    steps = exhaust(still.fit(X, Y, ONE_EPOCH))
    # Batches of 3, 3 and 1 rows.
    total = sum(rows * (p.loss or 0.0) for rows, p in zip((3, 3, 1), steps, strict=True))
    assert total == pytest.approx(still.loss(X, Y).sum(), rel=1e-12)


def test_drop_last_leaves_out_the_short_batch() -> None:
    assert len(exhaust(estimator().fit(X, Y, FitOptions(batch_size=3, nb_epochs=1, drop_last=True)))) == 2
    with pytest.raises(errors.InvalidValue, match="7 rows"):
        exhaust(estimator().fit(X, Y, FitOptions(batch_size=8, nb_epochs=1, drop_last=True)))


@pytest.mark.parametrize("options", [FitOptions(batch_size=0), FitOptions(nb_epochs=0)])
def test_fit_over_nothing_is_refused(options: FitOptions) -> None:
    with pytest.raises(errors.InvalidValue, match="at least 1"):
        estimator().fit(X, Y, options)


def test_fit_closed_early_leaves_weights_buffers_and_optimizer_as_they_were() -> None:
    e = estimator("normalised")
    exhaust(e.fit(X, Y, FitOptions(batch_size=7, nb_epochs=2)))
    before, predicted = state(e), e.predict(X)
    steps = e.fit(X, Y, FitOptions(batch_size=7, nb_epochs=3))
    next(steps)
    next(steps)
    assert not equal(state(e), before)
    steps.close()  # type: ignore[attr-defined]
    assert equal(state(e), before)
    np.testing.assert_array_equal(e.predict(X), predicted)
    assert e.version == "fit-1"


def test_failing_fit_leaves_everything_as_it_was() -> None:
    e = estimator("normalised")
    exhaust(e.fit(X, Y, FitOptions(batch_size=7, nb_epochs=1)))
    before = state(e)
    seen = []
    # Seven rows in threes: batch normalisation cannot train on the one that is left over.
    with pytest.raises(errors.ModelFailed, match="more than 1 value"):
        seen.extend(e.fit(X, Y, ONE_EPOCH))
    assert equal(state(e), before)
    assert e.version == "fit-1"


def test_fit_rolled_back_and_run_again_ends_where_it_would_have() -> None:
    e, straight = estimator(), estimator()
    steps = e.fit(X, Y, ONE_EPOCH)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    for each in (e, straight):
        exhaust(each.fit(X, Y, ONE_EPOCH))
    assert equal(state(e), state(straight))


def test_batches_as_they_come_are_one_transaction() -> None:
    def batches(fail: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield X[:3], Y[:3]
        if fail:
            raise ConnectionError("the client went away")
        yield X[3:], Y[3:]

    e = estimator()
    before = state(e)
    with pytest.raises(errors.ModelFailed, match="went away"):
        exhaust(e.fit_batches(batches(fail=True), training_mode=True))
    assert equal(state(e), before)
    assert [p.batch for p in exhaust(e.fit_batches(batches(fail=False), training_mode=True))] == [1, 2]
    assert e.version == "fit-1"


def test_fit_reads_memory_mapped_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped, plain = estimator(), estimator()
    exhaust(mapped.fit(np.load(tmp_path / "x.npy", mmap_mode="r"), Y, ONE_EPOCH))
    exhaust(plain.fit(X, Y, ONE_EPOCH))
    assert equal(state(mapped), state(plain))


def test_fit_trains_on_standardised_rows() -> None:
    e, plain = estimator(preprocessing={"mean": 0.5, "std": 2.0}), estimator()
    exhaust(e.fit(X, Y, ONE_EPOCH))
    exhaust(plain.fit((X - 0.5) / 2.0, Y, ONE_EPOCH))
    assert equal(state(e), state(plain))


def test_training_mode_of_a_call_leaves_the_model_as_it_was() -> None:
    e = estimator("normalised", {"dropout": 0.5})
    before, predicted = state(e), e.predict(X)
    assert not np.allclose(e.predict(X, training_mode=True), predicted)
    e.loss_gradient(X, Y, training_mode=True)
    e.class_gradient(X, None, training_mode=True)
    assert equal(state(e), before)
    np.testing.assert_array_equal(e.predict(X), predicted)


# Versions.


def test_reset_brings_back_the_weights_of_loading() -> None:
    e = estimator("normalised")
    before = state(e)
    for _ in range(2):
        exhaust(e.fit(X, Y, FitOptions(batch_size=7, nb_epochs=2)))
        assert not equal(state(e), before)
        e.reset()
        assert equal(state(e), before)
        assert e.version == "initial"


def test_saved_version_can_be_restored(tmp_path: Path) -> None:
    e = estimator()
    exhaust(e.fit(X, Y, ONE_EPOCH))
    saved = e.predict(X)
    e.save(tmp_path / "v.safetensors")
    exhaust(e.fit(X, Y, ONE_EPOCH))
    assert not np.array_equal(e.predict(X), saved)
    e.restore(tmp_path / "v.safetensors", "good")
    np.testing.assert_array_equal(e.predict(X), saved)
    assert e.version == "good"


def test_version_of_another_architecture_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    estimator(factory_args={"nb_outputs": 3}, nb_classes=3).save(tmp_path / "other.safetensors")
    e = estimator()
    exhaust(e.fit(X, Y, ONE_EPOCH))
    before = state(e)
    with pytest.raises(errors.BackendError, match="another shape"):
        e.restore(tmp_path / "other.safetensors", "other")
    assert equal(state(e), before)
    assert e.version == "fit-1"


def test_clone_is_untrained_and_independent() -> None:
    e = estimator(factory_args={"nb_outputs": 1}, nb_classes=2, loss="torch.nn.BCEWithLogitsLoss")
    untrained = e.predict(X)
    exhaust(e.fit(X, Y % 2, ONE_EPOCH))
    trained = e.predict(X)
    clone = e.untrained_clone()
    np.testing.assert_array_equal(clone.predict(X), untrained)  # The factory seeds its weights.
    exhaust(clone.fit(X, Y % 2, ONE_EPOCH))
    np.testing.assert_array_equal(e.predict(X), trained)
    assert (clone.version, clone.output_shape) == ("fit-1", (1,))
    assert Operation.FIT in clone.capabilities
