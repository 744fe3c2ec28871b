"""Every operation of every backend, over a socket: shapes, dtypes, label forms, gradients against finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conformance.cases import NEURAL, Case, with_operation

from gradwire.client import RemoteEstimator
from gradwire.client.errors import Unsupported

N = 7


def directional(f: Any, x: Any, direction: Any, step: float) -> Any:
    """Central difference of ``f`` along ``direction``, for each of its values."""
    return (np.asarray(f(x + step * direction), np.float64) - np.asarray(f(x - step * direction), np.float64)) / (2 * step)


def directions(x: Any, seed: int = 3) -> Any:
    # Signs: exact in every precision, and every input counts the same.
    return np.random.default_rng(seed).choice([-1.0, 1.0], x.shape).astype(x.dtype)


def inner(gradient: Any, direction: Any) -> Any:
    """Sums over a row's axes: (n, *in) to (n,), (n, k, *in) to (n, k)."""
    several = gradient.ndim > direction.ndim
    product = gradient.astype(np.float64) * (direction[:, None] if several else direction)
    return product.reshape(*product.shape[: 2 if several else 1], -1).sum(-1)


def test_the_card_shows_what_the_model_can_do(remote: RemoteEstimator, case: Case) -> None:
    card = remote.card
    assert card.operations == case.operations
    assert (card.access, card.version) == ("trainer", "initial")
    assert card.input_shape == tuple(case.config["input_shape"])
    assert (card.task, card.nb_classes) == (case.task, case.nb_classes)
    assert (card.output_kind == "values") == (case.task == "regression")
    assert card.output_shape == ((1,) if case.single_output else (case.nb_classes,))
    assert card.layer_names == case.layers


def test_predict_has_the_shape_and_dtype_of_the_card(remote: RemoteEstimator, case: Case) -> None:
    outputs = remote.predict(case.rows(N, 0))
    assert outputs.shape == (N, *remote.card.output_shape)
    assert outputs.dtype == remote.card.output_dtype


def test_rows_do_not_depend_on_their_company(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 1)
    whole = remote.predict(x)
    for batch_size in (1, 2, 3, 1000):
        np.testing.assert_allclose(remote.predict(x, batch_size=batch_size), whole, rtol=1e-5, atol=1e-6)
    one_by_one = np.concatenate([remote.predict(row[None]) for row in x])
    np.testing.assert_allclose(one_by_one, whole, rtol=1e-5, atol=1e-6)


def test_many_blocks_give_what_single_rows_give(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(300, 2)
    outputs = remote.predict(x)
    assert outputs.shape[0] == 300
    for row in (0, 127, 128, 255, 256, 299):
        np.testing.assert_allclose(outputs[row], remote.predict(x[row : row + 1])[0], rtol=1e-5, atol=1e-6)


def test_inputs_of_any_number_type_and_layout_give_the_same(remote: RemoteEstimator, case: Case) -> None:
    x = np.round(case.rows(N, 3) * 2)
    expected = remote.predict(x)
    for dtype in ("float64", "float32", "float16", "int64", "uint8", "int16", "uint32", "bool" if x.max() <= 1 else "int8"):
        np.testing.assert_allclose(remote.predict(x.astype(dtype)), expected, rtol=1e-6)
    np.testing.assert_array_equal(remote.predict(np.asfortranarray(x)), expected)
    np.testing.assert_array_equal(remote.predict(x[::-1])[::-1], remote.predict(np.ascontiguousarray(x[::-1]))[::-1])
    np.testing.assert_allclose(remote.predict(x.tolist()), expected, rtol=1e-6)


@with_operation("loss")
def test_loss_reduces_to_the_sum_and_mean_of_its_rows(remote: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(300, 4), case.labels(300)
    rows = remote.compute_loss(x, y)
    assert rows.shape == (300,)
    np.testing.assert_allclose(remote.loss(x, y, reduction="sum"), rows.sum(), rtol=1e-5)
    np.testing.assert_allclose(remote.loss(x, y, reduction="mean"), rows.mean(), rtol=1e-5)
    assert remote.loss(x, y, reduction="mean").shape == ()


@with_operation("loss", where=lambda case: case.scores and case.loss_of_outputs)
def test_loss_of_predictions_is_the_loss(remote: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(N, 5), case.labels(N)
    expected = remote.compute_loss(x, y)
    np.testing.assert_allclose(remote.compute_loss_from_predictions(remote.predict(x), y), expected, rtol=1e-5, atol=1e-6)


@with_operation("loss_gradient")
def test_loss_gradient_is_that_of_the_loss(remote: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(N, 6), case.labels(N)
    gradient = remote.loss_gradient(x, y)
    assert gradient.shape == x.shape
    divisor = N if remote.card.loss_reduction == "mean" else 1
    direction = directions(x)
    expected = directional(lambda x: remote.compute_loss(x, y), x, direction, case.step)
    np.testing.assert_allclose(inner(gradient, direction) * divisor, expected, rtol=case.rtol, atol=case.rtol)


@with_operation("loss_gradient")
def test_a_mean_divides_by_the_rows_of_the_call_not_of_the_block(remote: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(150, 7), case.labels(150)
    whole = remote.loss_gradient(x, y)
    for batch_size in (1, 64, 149):
        blocks = remote.loss_gradient(x, y, batch_size=batch_size)
        np.testing.assert_allclose(blocks, whole, rtol=1e-4, atol=1e-6 * np.abs(whole).max())


@with_operation("loss_gradient", where=lambda case: case.task == "classification")
def test_all_forms_of_a_label_mean_the_same(remote: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(N, 8), case.labels(N)
    expected_loss, expected_gradient = remote.compute_loss(x, y), remote.loss_gradient(x, y)
    one_hot = np.eye(case.nb_classes)[y]
    for form in (
        y.tolist(),
        y.astype("int32"),
        y.astype("uint8"),
        y[:, None],
        y.astype(float),
        one_hot,
        one_hot.astype("f4"),
        one_hot.astype(int),
    ):
        np.testing.assert_array_equal(remote.compute_loss(x, form), expected_loss)
        np.testing.assert_array_equal(remote.loss_gradient(x, form), expected_gradient)


@with_operation("loss", where=lambda case: case.task == "regression")
def test_all_forms_of_a_target_mean_the_same(remote: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(N, 8), np.round(4 * np.abs(case.labels(N)))
    forms = [y.tolist(), y.astype("f4"), y.astype("int64"), y.astype("uint8"), y.astype("uint32"), np.asfortranarray(y)]
    if case.nb_classes == 1:
        forms += [y[:, 0], y[:, 0].astype("int32")]
    expected = remote.compute_loss(x, y)
    assert expected.shape == (N,)
    for form in forms:
        np.testing.assert_array_equal(remote.compute_loss(x, form), expected)
    if "loss_gradient" in case.operations:
        gradient = remote.loss_gradient(x, y)
        for form in forms:
            np.testing.assert_array_equal(remote.loss_gradient(x, form), gradient)


@with_operation("loss_gradient", where=lambda case: case.task == "classification")
def test_soft_labels_have_gradients_too(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 9)
    y = np.random.default_rng(0).dirichlet(np.ones(case.nb_classes), N)
    divisor = N if remote.card.loss_reduction == "mean" else 1
    direction = directions(x)
    expected = directional(lambda x: remote.compute_loss(x, y), x, direction, case.step)
    np.testing.assert_allclose(inner(remote.loss_gradient(x, y), direction) * divisor, expected, rtol=case.rtol, atol=case.rtol)


@with_operation("class_gradient")
def test_class_gradients_are_those_of_the_outputs(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 10)
    gradients = remote.class_gradient(x)
    assert gradients.shape == (N, *remote.card.output_shape, *x.shape[1:])
    if case.scores:
        direction = directions(x)
        expected = directional(remote.predict, x, direction, case.step)
        np.testing.assert_allclose(inner(gradients, direction), expected, rtol=case.rtol, atol=case.rtol)


@with_operation("class_gradient", where=lambda case: not case.single_output)
def test_class_gradients_of_chosen_classes_are_among_those_of_all(remote: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(130, 11), case.indices(130, 1)
    everything = remote.class_gradient(x)
    close = {"rtol": 1e-4, "atol": 1e-5 * np.abs(everything).max()}
    for label in (0, case.nb_classes - 1, np.int64(case.nb_classes // 2)):
        gradient = remote.class_gradient(x, label=label)
        assert gradient.shape == (130, 1, *x.shape[1:])
        np.testing.assert_allclose(gradient[:, 0], everything[:, label], **close)
    chosen = everything[np.arange(130), y]
    for labels in (y, y.tolist(), y.astype("int32"), y.astype("uint8")):
        np.testing.assert_allclose(remote.class_gradient(x, label=labels)[:, 0], chosen, **close)


@with_operation("class_gradient", where=lambda case: case.single_output)
def test_a_single_output_has_one_class_gradient(remote: RemoteEstimator, case: Case) -> None:
    assert remote.class_gradient(case.rows(3, 0)).shape == (3, 1, *case.config["input_shape"])


@with_operation("vjp")
def test_vjp_is_the_cotangent_times_the_class_gradients(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 12)
    cotangent = np.random.default_rng(1).normal(size=(N, *remote.card.output_shape)).astype(remote.card.output_dtype)
    product = remote.vjp(x, cotangent)
    assert product.shape == x.shape
    expected = np.einsum("nk,nk...->n...", cotangent, remote.class_gradient(x))
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@with_operation("vjp")
def test_a_custom_loss_has_a_gradient(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 13)
    # The sum of squares of the outputs; its derivative is twice the outputs.
    gradient = remote.custom_loss_gradient(lambda outputs: 2 * outputs, x)
    direction = directions(x)
    expected = directional(lambda x: (remote.predict(x).astype(np.float64) ** 2).sum(1), x, direction, case.step)
    np.testing.assert_allclose(inner(gradient, direction), expected, rtol=case.rtol, atol=case.rtol)


@with_operation("get_activations")
def test_activations_by_name_and_by_index_are_the_same(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 14)
    count = len(remote.layer_names)
    for index, layer in enumerate(remote.layer_names):
        activations = remote.get_activations(x, layer)
        assert activations.shape[0] == N
        np.testing.assert_array_equal(remote.get_activations(x, index), activations)
        np.testing.assert_array_equal(remote.get_activations(x, index - count), activations)
        np.testing.assert_allclose(remote.get_activations(x, layer, batch_size=2), activations, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(remote.get_activations(x, -1), remote.predict(x), rtol=1e-6)


@with_operation("get_activations")
def test_a_layer_has_a_vjp_of_its_own(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 15)
    layer = remote.layer_names[0]

    def half_of_squares(x: Any) -> Any:
        return (remote.get_activations(x, layer).astype(np.float64).reshape(N, -1) ** 2).sum(1) / 2

    gradient = remote.custom_loss_gradient(lambda activations: activations, x, layer_name=layer)
    direction = directions(x)
    expected = directional(half_of_squares, x, direction, case.step)
    np.testing.assert_allclose(inner(gradient, direction), expected, rtol=case.rtol, atol=case.rtol)


def test_training_mode_changes_nothing_for_later_calls(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 16)
    before = remote.predict(x)
    remote.predict(x, training_mode=True)
    remote.set_learning_phase(True)
    remote.predict(x)
    remote.set_learning_phase(False)
    np.testing.assert_array_equal(remote.predict(x), before)


def test_a_callers_own_standardisation_replaces_the_servers(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(N, 17)
    defence = 0.5 if "preprocessing_defences" in case.config else 1.0
    keys = case.config.get("preprocessing") or {"mean": 0.0, "std": 1.0}
    shape = (-1,) + (1,) * (len(case.config["input_shape"]) - 1 if case.config.get("channels_first") else 0)
    mean, std = (np.reshape(keys[key], shape if np.ndim(keys[key]) else ()) for key in ("mean", "std"))
    expected = remote.predict(x)
    remote.set_params(preprocessing=(0.0, 1.0))
    # The server now standardises with (0, 1): the standardised rows themselves, made here, must give the same.
    inputs = (x * defence - mean) / std / defence
    np.testing.assert_allclose(remote.predict(inputs), expected, rtol=1e-4, atol=1e-5)


@with_operation("loss_gradient")
def test_a_callers_own_standardisation_is_in_the_gradients(remote: RemoteEstimator, case: Case) -> None:
    remote.set_params(preprocessing=(0.0, 2.0))
    x, y = case.rows(N, 17), case.labels(N)
    direction = directions(x)
    divisor = N if remote.card.loss_reduction == "mean" else 1
    numeric = directional(lambda x: remote.compute_loss(x, y), x, direction, case.step)
    np.testing.assert_allclose(inner(remote.loss_gradient(x, y), direction) * divisor, numeric, rtol=case.rtol, atol=case.rtol)


@with_operation("predict", where=lambda case: not case.operations >= NEURAL)
def test_what_a_model_does_not_have_is_named(remote: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(2, 0), case.labels(2)
    calls = {
        "loss": lambda: remote.loss(x, y),
        "loss_gradient": lambda: remote.loss_gradient(x, y),
        "class_gradient": lambda: remote.class_gradient(x),
        "get_activations": lambda: remote.get_activations(x, 0),
        "vjp": lambda: remote.vjp(x, remote.predict(x)),
        "fit": lambda: remote.fit(x, y),
        "fit_generator": lambda: remote.fit_generator([(x, y)], nb_epochs=1),
        "save": lambda: remote.save("v"),
        "clone_for_refitting": remote.clone_for_refitting,
    }
    for operation in set(calls) - case.operations:
        with pytest.raises(Unsupported, match=operation):
            calls[operation]()
