"""JAX models against central differences, plain JAX and ART in the same process."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import differences
import jax
import jax.numpy as jnp
import jax_models
import numpy as np
import optax
import pydantic
import pytest
import safetensors.numpy
from one_model import jax_nets, weights

from gradwire.backends import errors
from gradwire.backends.capabilities import Operation, capabilities
from gradwire.backends.jax import Config, JaxFunction, JaxModel, load
from gradwire.backends.jax.programs import padded, padded_rows
from gradwire.backends.load import load as load_estimator
from gradwire.backends.training import FitOptions

X = np.random.default_rng(1).normal(size=(5, 6))
Y = np.array([0, 3, 1, 1, 2])
SOFT = np.random.default_rng(2).dirichlet(np.ones(4), size=5)
BINARY = np.array([0, 1, 1, 0, 1])
BINARY_SOFT = np.stack([1 - SOFT[:, 0], SOFT[:, 0]], axis=1)
# Central differences in float64 with steps of 1e-5 are good to about 1e-9 on these models.
CLOSE = {"rtol": 1e-6, "atol": 1e-8}
CROSS_ENTROPY = "optax.softmax_cross_entropy_with_integer_labels"
ADAM = {"path": "optax.adam", "args": {"learning_rate": 0.05}}


def config(factory: Any = "mlp", factory_args: dict[str, Any] | None = None, **keys: Any) -> Config:
    given: dict[str, Any] = {"input_shape": (6,), "nb_classes": 4, "loss": CROSS_ENTROPY, "enable_x64": True, **keys}
    path = factory if callable(factory) else {"path": f"jax_models:{factory}", "args": factory_args or {}}
    return Config(backend="jax", factory=path, **given)


def model(factory: Any = "mlp", factory_args: dict[str, Any] | None = None, **keys: Any) -> JaxModel:
    return load(config(factory, factory_args, **keys))


def optax_loss(name: str, **args: Any) -> dict[str, Any]:
    return {"path": f"optax.losses.{name}", "args": args}


def predict(m: JaxModel, x: np.ndarray) -> np.ndarray:
    return m.predict(x, training_mode=False)


# Losses.

LOSSES = [
    pytest.param("", optax_loss("softmax_cross_entropy_with_integer_labels"), 4, Y, id="cross entropy of indices"),
    pytest.param("", optax_loss("softmax_cross_entropy_with_integer_labels"), 4, SOFT, id="cross entropy of indices, soft"),
    pytest.param("", optax_loss("softmax_cross_entropy"), 4, Y, id="cross entropy"),
    pytest.param("", optax_loss("softmax_cross_entropy"), 4, SOFT, id="cross entropy, soft"),
    pytest.param("", optax_loss("safe_softmax_cross_entropy"), 4, SOFT, id="safe cross entropy"),
    pytest.param("", optax_loss("poly_loss_cross_entropy", epsilon=1.5), 4, SOFT, id="poly loss"),
    pytest.param("", optax_loss("sigmoid_binary_cross_entropy"), 4, SOFT, id="bce, an output a class"),
    pytest.param("", optax_loss("sigmoid_binary_cross_entropy"), 1, BINARY, id="bce"),
    pytest.param("", optax_loss("sigmoid_binary_cross_entropy"), 1, BINARY_SOFT, id="bce, soft"),
    pytest.param("", optax_loss("sigmoid_focal_loss", alpha=0.3, gamma=1.5), 1, BINARY, id="focal"),
    pytest.param("", optax_loss("hinge_loss"), 1, BINARY, id="hinge"),
    pytest.param("", optax_loss("perceptron_loss"), 1, BINARY, id="perceptron"),
    pytest.param("", optax_loss("sparsemax_loss"), 1, BINARY, id="sparsemax"),
    pytest.param("", optax_loss("multiclass_hinge_loss"), 4, Y, id="hinge of classes"),
    pytest.param("", optax_loss("multiclass_perceptron_loss"), 4, Y, id="perceptron of classes"),
    pytest.param("", optax_loss("multiclass_sparsemax_loss"), 4, Y, id="sparsemax of classes"),
    pytest.param("log_softmax", optax_loss("kl_divergence"), 4, SOFT, id="divergence"),
    pytest.param("softmax", optax_loss("squared_error"), 4, Y, id="squared error"),
    pytest.param("softmax", optax_loss("l2_loss"), 4, SOFT, id="half squared error"),
    pytest.param("", optax_loss("huber_loss", delta=0.5), 4, SOFT, id="huber"),
    pytest.param("", optax_loss("log_cosh"), 4, SOFT, id="log cosh"),
    pytest.param("", optax_loss("cosine_distance"), 4, SOFT, id="cosine"),
    pytest.param("", {"path": "jax_models:brier_loss"}, 4, Y, id="the owner's own"),
    pytest.param("", {"path": "jax_models:margin_of_indices", "args": {"margin": 0.5}}, 4, Y, id="the owner's own, of indices"),
]


def of_loss(end: str, loss: dict[str, Any], nb_outputs: int, **keys: Any) -> JaxModel:
    labels = {"loss_labels": "indices"} if "of_indices" in loss["path"] else {}
    args = {"end": end, "nb_outputs": nb_outputs}
    return model("mlp", args, loss=loss, nb_classes=max(2, nb_outputs), **labels, **keys)


@pytest.mark.parametrize(("end", "loss", "nb_outputs", "y"), LOSSES)
def test_loss_gradient_is_that_of_the_summed_rows(end: str, loss: dict[str, Any], nb_outputs: int, y: np.ndarray) -> None:
    m = of_loss(end, loss, nb_outputs)
    gradient = m.loss_gradient(X, y, training_mode=False)
    rows = m.loss(X, y, training_mode=False)
    assert rows.shape == (5,)
    expected = differences.gradient(lambda x: m.loss(x, y, training_mode=False), X)
    np.testing.assert_allclose(gradient, expected, **CLOSE)
    assert np.abs(gradient).max() > 1e-3
    assert gradient.flags.c_contiguous
    assert gradient.flags.writeable
    np.testing.assert_allclose(m.loss_from_predictions(predict(m, X), y), rows, rtol=1e-12)


def targets_of(name: str, y: np.ndarray, nb_outputs: int) -> Any:
    """The form of labels that plain code gives to a loss of optax."""
    if name in ("softmax_cross_entropy_with_integer_labels", "multiclass_hinge_loss", "multiclass_perceptron_loss") or (
        name == "multiclass_sparsemax_loss"
    ):
        return y
    if nb_outputs == 1:
        positive = (y if y.ndim == 1 else y[:, 1])[:, None].astype(float)
        return 2 * positive - 1 if name in ("hinge_loss", "perceptron_loss") else positive
    return np.eye(nb_outputs)[y] if y.ndim == 1 else y


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("end", "loss", "nb_outputs", "y"),
    [case for case in LOSSES if "jax_models" not in case.values[1]["path"]],  # type: ignore[index]
)
def test_rows_reduce_to_plain_optax(end: str, loss: dict[str, Any], nb_outputs: int, y: np.ndarray, reduction: str) -> None:
    m = of_loss(end, loss, nb_outputs, loss_reduction=reduction)
    name = loss["path"].removeprefix("optax.losses.")
    if name == "softmax_cross_entropy_with_integer_labels" and y.ndim == 2:
        name = "softmax_cross_entropy"  # which is the same for rows
    function, params = jax_models.mlp(end=end, nb_outputs=nb_outputs)
    with jax.enable_x64(True):
        own = getattr(optax.losses, name)(function(params, jnp.asarray(X)), targets_of(name, y, nb_outputs), **loss["args"])
        expected = float(own.mean() if reduction == "mean" else own.sum())
    total = m.loss(X, y, training_mode=False).sum()
    assert m.loss_reduction == reduction
    assert (total / m.loss_divisor(y) if reduction == "mean" else total) == pytest.approx(expected, rel=1e-12)


def test_a_loss_that_reduces_by_itself_is_refused() -> None:
    with pytest.raises(errors.ModelFailed, match=r"\(\) for 8 rows"):
        model(loss="jax_models:reduced_loss").loss(X, Y, training_mode=False)


@pytest.mark.parametrize(
    ("keys", "y", "text"),
    [
        ({"loss": "optax.losses.multiclass_hinge_loss"}, SOFT, "soft"),
        ({"loss": "jax_models:margin_of_indices", "loss_labels": "indices"}, SOFT, "soft"),
        ({"nb_classes": 9}, np.full(5, 7), "4 outputs"),
        ({"nb_classes": 9}, np.full((5, 9), 1 / 9), "4 outputs"),
    ],
)
def test_labels_that_the_loss_has_no_meaning_for_are_refused(keys: dict[str, Any], y: np.ndarray, text: str) -> None:
    with pytest.raises(errors.InvalidLabel, match=text):
        model(**keys).loss(X, y, training_mode=False)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_regression_targets_never_broadcast(shape: tuple[int, ...]) -> None:
    m = model("mlp", {"nb_outputs": 1}, loss="optax.squared_error", task="regression", nb_classes=1)
    y = np.arange(5.0)
    np.testing.assert_allclose(m.loss(X, y.reshape(shape), training_mode=False), (predict(m, X)[:, 0] - y) ** 2, rtol=1e-10)
    assert m.output_kind == "values"
    with pytest.raises(errors.InvalidLabel, match=r"\(5, 2\).*\(5, 1\)"):
        m.loss(X, np.zeros((5, 2)), training_mode=False)


def test_regression_of_several_outputs_has_gradients() -> None:
    m = model(loss="optax.huber_loss", task="regression")
    y = np.random.default_rng(3).normal(size=(5, 4))
    expected = differences.gradient(lambda x: m.loss(x, y, training_mode=False), X)
    np.testing.assert_allclose(m.loss_gradient(X, y, training_mode=False), expected, **CLOSE)


# Gradients of outputs and layers.

KINDS = {
    "function": ("mlp", {}),
    "with layers": ("with_layers", {}),
    "linen": ("flax_linen", {}),
    "nnx": ("flax_nnx", {}),
    "equinox": ("equinox_mlp", {}),
    "equinox with state": ("equinox_stateful", {}),
    "equinox sequential": ("equinox_dropout", {}),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def of_kind(kind: str, **keys: Any) -> JaxModel:
    factory, args = KINDS[kind]
    return model(factory, args, **keys)


@kinds
def test_gradients_of_every_kind_agree_with_differences(kind: str) -> None:
    m = of_kind(kind)
    assert m.input_dtype == np.float64
    expected = differences.gradient(lambda x: predict(m, x), X)
    np.testing.assert_allclose(m.class_gradient(X, None, training_mode=False), expected, **CLOSE)
    np.testing.assert_allclose(m.class_gradient(X, Y, training_mode=False), expected[np.arange(5), Y][:, None], **CLOSE)
    of_loss_ = differences.gradient(lambda x: m.loss(x, Y, training_mode=False), X)
    np.testing.assert_allclose(m.loss_gradient(X, Y, training_mode=False), of_loss_, **CLOSE)
    cotangent = np.random.default_rng(4).normal(size=(5, 4))
    np.testing.assert_allclose(
        m.vjp(X, cotangent, None, training_mode=False), np.einsum("nk,nkf->nf", cotangent, expected), **CLOSE
    )
    assert np.abs(expected).max() > 1e-2


LAYERS = {
    "with layers": (["hidden", "logits"], ["hidden", "logits"]),
    "linen": (["block", "Dropout_0", "head"], ["block.linear", "block.norm", "block", "Dropout_0", "head"]),
    "nnx": (["linear", "norm", "drop", "tail"], ["drop", "linear", "norm", "tail", "tail.layers.1"]),
    "equinox": (["layers.0", "layers.1"], ["layers.0", "layers.1"]),
    "equinox with state": (["linear", "norm", "drop", "tail.1"], ["linear", "norm", "drop", "tail.1"]),
    "equinox sequential": (["layers.0", "layers.1", "layers.2", "layers.3"],) * 2,
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_have_activations_and_products_of_their_own(kind: str) -> None:
    m = of_kind(kind)
    top, every = LAYERS[kind]
    assert m.layer_names == top
    assert m._network.all_layers == every
    for name in every:
        activations = m.activations(X, name, training_mode=False)
        cotangent = np.random.default_rng(4).normal(size=activations.shape)
        expected = differences.gradient(lambda x, n=name, c=cotangent: (m.activations(x, n, training_mode=False) * c).sum(1), X)
        np.testing.assert_allclose(m.vjp(X, cotangent, name, training_mode=False), expected, **CLOSE)
    np.testing.assert_array_equal(m.activations(X, 0, training_mode=False), m.activations(X, top[0], training_mode=False))
    np.testing.assert_allclose(m.activations(X, -1, training_mode=False), predict(m, X), rtol=1e-12)


def test_a_function_of_all_activations_keeps_its_order() -> None:
    m = model("with_activations")
    assert m.layer_names == ["z_hidden", "a_logits", "pair"]
    np.testing.assert_array_equal(m.activations(X, "pair", training_mode=False), m.activations(X, 0, training_mode=False))


@pytest.mark.parametrize(("layer", "text"), [(3, r"0|block"), (-4, "3 layers"), ("nose", "block.linear"), ("", "no layer")])
def test_unknown_layers_are_named_with_those_that_exist(layer: str | int, text: str) -> None:
    for call in (
        lambda: model("flax_linen").activations(X, layer, training_mode=False),
        lambda: model("flax_linen").vjp(X, X, layer, training_mode=False),
    ):
        with pytest.raises(errors.InvalidLayer, match=text):
            call()


def test_a_layer_that_is_never_called_is_an_error() -> None:
    def spare() -> Any:
        import equinox as eqx

        class Spare(eqx.Module):
            used: eqx.nn.Linear
            unused: eqx.nn.Linear

            def __call__(self, x: Any) -> Any:
                return self.used(x)

        return Spare(*(eqx.nn.Linear(6, 4, key=key) for key in jax.random.split(jax.random.key(0))))

    with pytest.raises(errors.InvalidLayer, match="not called"):
        model(spare).activations(X, "unused", training_mode=False)


def test_single_output_has_one_class_gradient() -> None:
    m = model("mlp", {"nb_outputs": 1}, nb_classes=2, loss="optax.sigmoid_binary_cross_entropy")
    expected = differences.gradient(lambda x: predict(m, x), X)
    np.testing.assert_allclose(m.class_gradient(X, None, training_mode=False), expected, **CLOSE)
    np.testing.assert_allclose(m.class_gradient(X, np.zeros(5, np.int64), training_mode=False), expected, **CLOSE)
    with pytest.raises(errors.InvalidLabel, match="1 output"):
        m.class_gradient(X, np.ones(5, np.int64), training_mode=False)


@pytest.mark.parametrize("classes", [10, 11, 37])
def test_class_gradients_of_many_classes_come_in_parts(classes: int) -> None:
    m = model("mlp", {"nb_outputs": classes}, nb_classes=classes)
    every = m.class_gradient(X, None, training_mode=False)
    for k in range(classes):
        np.testing.assert_allclose(every[:, [k]], m.class_gradient(X, np.full(5, k), training_mode=False), rtol=1e-12, atol=1e-15)


def test_vjp_refuses_a_cotangent_of_another_shape() -> None:
    with pytest.raises(errors.InvalidShape, match=r"\(5, 3\).*\(5, 4\).*outputs"):
        model().vjp(X, np.ones((5, 3)), None, training_mode=False)
    with pytest.raises(errors.InvalidShape, match=r"\(5, 4\).*\(5, 8\).*layer 'hidden'"):
        model("with_layers").vjp(X, np.ones((5, 4)), "hidden", training_mode=False)


def test_no_way_back_to_the_inputs_is_an_error_and_not_zeros() -> None:
    m = model("detached")
    for call in (
        lambda: m.loss_gradient(X, Y, training_mode=False),
        lambda: m.class_gradient(X, None, training_mode=False),
        lambda: m.vjp(X, np.ones((5, 4)), None, training_mode=False),
    ):
        with pytest.raises(errors.Unsupported, match="stops gradients"):
            call()
    layered = model("rounded_layer")
    assert np.abs(layered.loss_gradient(X, Y, training_mode=False)).max() > 0
    assert layered.activations(X, "top", training_mode=False).dtype == np.int64
    with pytest.raises(errors.Unsupported, match="stops gradients"):
        layered.vjp(X, np.ones(5), "top", training_mode=False)


def test_gradients_go_back_through_defences_and_standardisation() -> None:
    from conformance.case import Halve

    keys = {"preprocessing": {"mean": 0.3, "std": 0.5}, "preprocessing_defences": [Halve]}
    estimator = load_estimator(config("with_dropout", **keys))
    for y in (Y, SOFT):
        expected = differences.gradient(lambda x, y=y: estimator.loss(x, y), X)
        np.testing.assert_allclose(estimator.loss_gradient(X, y) * 5, expected, **CLOSE)
    np.testing.assert_allclose(estimator.class_gradient(X, None), differences.gradient(estimator.predict, X), **CLOSE)


# Programs: what is compiled, and when.


@pytest.mark.parametrize("most", [1, 7, 100, 128])
def test_padded_sizes_are_few_and_never_above_what_is_computed_at_once(most: int) -> None:
    sizes = {padded_rows(rows, most) for rows in range(1, most + 1)}
    assert len(sizes) <= most.bit_length() + 1
    assert max(sizes) == most
    assert all(rows <= padded_rows(rows, most) < max(2, 2 * rows) for rows in range(1, most + 1))
    assert padded_rows(1000, most) == 1024


def test_padding_repeats_a_real_row() -> None:
    np.testing.assert_array_equal(padded(X, 8)[5:], np.repeat(X[:1], 3, axis=0))
    assert padded(X, 5) is X


def test_nothing_is_traced_after_warm_up_whatever_the_number_of_rows() -> None:
    m = model("with_layers", optimizer=ADAM)
    x = np.random.default_rng(5).normal(size=(128, 6))
    y = np.arange(128) % 4
    soft = np.random.default_rng(6).dirichlet(np.ones(4), size=128)

    def everything(n: int) -> None:
        m.predict(x[:n], training_mode=False)
        for labels in (y, soft):
            m.loss(x[:n], labels[:n], training_mode=False)
            m.loss_gradient(x[:n], labels[:n], training_mode=False)
            m.train_step(x[:n], labels[:n], training_mode=True)
        m.loss_from_predictions(soft[:n], y[:n])
        m.class_gradient(x[:n], None, training_mode=False)
        m.class_gradient(x[:n], y[:n], training_mode=False)
        for layer in (None, 0):
            m.vjp(x[:n], np.ones((n, 4 if layer is None else 8)), layer, training_mode=False)
        m.activations(x[:n], 0, training_mode=False)

    for n in (1, 2, 4, 8, 16, 32, 64, 128):
        everything(n)
    warm = m.programs.traces
    sizes, operations = 8, 13
    assert warm <= sizes * operations
    for n in range(1, 129):
        m.predict(x[:n], training_mode=False)
        m.loss_gradient(x[:n], y[:n], training_mode=False)
    for n in range(3, 129, 9):
        everything(n)
    assert m.programs.traces == warm


def test_a_fit_and_its_end_trace_nothing_anew() -> None:
    m = model("equinox_mlp", optimizer=ADAM)
    snapshot = m.snapshot()
    m.train_step(X, Y, training_mode=True)
    before, warm = predict(m, X), m.programs.traces
    m.train_step(X, Y, training_mode=True)
    assert not np.array_equal(predict(m, X), before)
    m.rollback(snapshot)
    predict(m, X)
    assert m.programs.traces == warm


def test_padding_rows_do_not_touch_the_real_ones() -> None:
    m = model("flax_linen", optimizer=ADAM)
    x = np.random.default_rng(7).normal(size=(8, 6))
    whole = predict(m, x)
    for n in range(1, 9):
        np.testing.assert_allclose(predict(m, x[:n]), whole[:n], rtol=1e-12)
    # A step in evaluation mode of 5 rows is padded to 8: it must be that of the 5 in plain JAX.
    with jax.enable_x64(True):
        module, variables = jax_models.flax_linen()

        def mean_loss(params: Any) -> Any:
            outputs = module.apply({**variables, "params": params}, jnp.asarray(X))
            return optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.asarray(Y)).mean()

        value, gradient = jax.value_and_grad(mean_loss)(variables["params"])
        updates, _ = optax.adam(0.05).update(gradient, optax.adam(0.05).init(variables["params"]))
        expected = optax.apply_updates(variables["params"], updates)
    assert m.train_step(X, Y, training_mode=False) == pytest.approx(float(value), rel=1e-12)
    for ours, theirs in zip(jax.tree.leaves(m._params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_rows_of_any_number_of_steps_keep_a_bounded_number_of_programs() -> None:
    m = model("mean_of_any", input_shape=(-1, 3))
    for steps in range(1, 70):
        x = np.random.default_rng(steps).normal(size=(2, steps, 3))
        assert predict(m, x).shape == (2, 4)
        assert m.programs.get(("predict", False), lambda: None)._cache_size() <= 64
    expected = differences.gradient(lambda x: m.loss(x, Y[:2], training_mode=False), x[:, :4])
    np.testing.assert_allclose(m.loss_gradient(x[:, :4], Y[:2], training_mode=False), expected, **CLOSE)


def test_more_rows_than_max_batch_rows_are_computed_too() -> None:
    m = model(max_batch_rows=4)
    x = np.random.default_rng(8).normal(size=(11, 6))
    np.testing.assert_allclose(predict(m, x), predict(model(), x), rtol=1e-12)


# Precision.


def test_a_model_in_float64_leaves_others_and_other_threads_in_float32() -> None:
    wide, narrow = model(), model(enable_x64=False)
    assert (wide.input_dtype, narrow.input_dtype) == (np.float64, np.float32)
    answers: list[Any] = []

    def ask() -> None:
        answers.append((predict(wide, X), predict(narrow, X), jnp.ones(1).dtype))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    ask()
    _, params = jax_models.mlp()
    exact = (
        np.tanh(X @ params["dense0"]["kernel"] + params["dense0"]["bias"]) @ params["dense1"]["kernel"] + params["dense1"]["bias"]
    )
    for in_64, in_32, plain in answers:
        assert (in_64.dtype, in_32.dtype, plain) == (np.float64, np.float32, np.float32)
        np.testing.assert_allclose(in_64, exact, rtol=1e-13)
        np.testing.assert_allclose(in_32, exact, rtol=1e-4, atol=1e-5)
    traces = wide.programs.traces
    predict(wide, X)
    assert wide.programs.traces == traces
    assert jnp.asarray(np.ones(1)).dtype == np.float32


def test_parameters_that_are_float64_already_are_known_by_themselves() -> None:
    with jax.enable_x64(True):
        module, variables = jax_models.flax_linen()
    m = model(lambda: (module, variables), enable_x64=False)
    assert m.input_dtype == np.float64
    expected = differences.gradient(lambda x: predict(m, x), X)
    np.testing.assert_allclose(m.class_gradient(X, None, training_mode=False), expected, **CLOSE)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-2), ("bfloat16", 1e-1)])
def test_half_models_take_and_answer_float32_and_keep_their_precision(dtype: str, tolerance: float, tmp_path: Path) -> None:
    def half(seed: int = 0) -> Any:
        function, params = jax_models.mlp(seed=seed, dtype="float32")
        return lambda p, x: function(p, x.astype(dtype)), jax.tree.map(lambda a: jnp.asarray(a, dtype), params)

    m, full = model(half, enable_x64=False), model(enable_x64=False)
    x = X.astype(np.float32)
    for call in (lambda m: predict(m, x), lambda m: m.loss_gradient(x, Y, training_mode=False)):
        answer = call(m)
        assert answer.dtype == np.float32
        # Half precision has 3 (float16) or 2 (bfloat16) digits.
        np.testing.assert_allclose(answer, call(full), atol=tolerance)
    assert any(dtype in note for note in m.notes)
    m.save(tmp_path / "w")
    other = model(lambda: half(1), enable_x64=False)
    other.restore(tmp_path / "w")
    assert all(leaf.dtype == dtype for leaf in other._weights)
    np.testing.assert_array_equal(predict(other, x), predict(m, x))


# Inputs and answers.


@pytest.mark.parametrize("make", [lambda x: x[:, ::-1], lambda x: np.asfortranarray(x), lambda x: x.astype(">f8"), lambda x: x])
def test_any_layout_of_inputs_is_taken_without_a_warning(make: Any) -> None:
    m = model()
    x = make(X.copy())
    x.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs, gradient = predict(m, x), m.loss_gradient(x, Y, training_mode=False)
    np.testing.assert_allclose(outputs, predict(m, np.ascontiguousarray(x, np.float64)), rtol=1e-13)
    assert gradient.flags.writeable
    assert gradient.flags.c_contiguous


def test_answers_share_no_memory_with_the_model_or_the_caller() -> None:
    m = model(lambda: (lambda params, x: x * 1, {"w": np.ones(3)}), loss=None)
    x = np.random.default_rng(0).normal(size=(8, 6))
    before = x.copy()
    predict(m, x)[:] = 7
    np.testing.assert_array_equal(x, before)
    constant = model(lambda: (lambda params, x: params["w"], {"w": np.ones((1, 4))}), loss=None)
    predict(constant, X[:1])[:] = 7
    np.testing.assert_array_equal(predict(constant, X[:1]), np.ones((1, 4)))


def test_parameters_are_the_models_own_copy() -> None:
    function, params = jax_models.mlp()
    m = model(lambda: (function, params))
    before = predict(m, X)
    params["dense0"]["kernel"][:] = 0
    np.testing.assert_array_equal(predict(m, X), before)


def test_integer_inputs_predict_and_have_losses_but_no_gradients() -> None:
    m = model("embedded", input_shape=(7,), nb_classes=3, input_dtype="int32", enable_x64=False)
    tokens = np.random.default_rng(6).integers(0, 11, size=(4, 7))
    assert m.input_dtype == np.int32
    assert predict(m, tokens).dtype == np.float32
    assert m.loss(tokens, Y[:4] % 3, training_mode=False).shape == (4,)
    can = capabilities(m)
    assert {Operation.PREDICT, Operation.LOSS} <= can
    assert not {Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT, Operation.VJP} & can


def test_capabilities_follow_from_the_configuration() -> None:
    every = set(Operation)
    fit = {Operation.FIT, Operation.FIT_BATCHES}
    assert capabilities(model("with_layers", optimizer=ADAM)) == every
    assert capabilities(model("with_layers", update_func="jax_models:art_update")) == every
    assert capabilities(model("with_layers")) == every - fit
    assert capabilities(model(optimizer=ADAM)) == every - {Operation.GET_ACTIVATIONS}
    assert capabilities(model("with_layers", loss=None)) == every - fit - {Operation.LOSS, Operation.LOSS_GRADIENT}


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({}, "logits"),
        ({"loss": None}, "logits"),
        ({"loss": "optax.squared_error"}, "probabilities"),
        ({"loss": "optax.squared_error", "task": "regression"}, "values"),
        ({"loss": None, "loss_func": "jax_models:art_loss"}, "logits"),
        ({"output": "probabilities"}, "probabilities"),
    ],
)
def test_kind_of_outputs_is_guessed_unless_said(keys: dict[str, Any], kind: str) -> None:
    assert model(**keys).output_kind == kind


# Training mode.

MODAL = ["linen", "nnx", "equinox with state", "equinox sequential"]


@pytest.mark.parametrize("kind", MODAL)
def test_calls_in_training_mode_leave_nothing_behind(kind: str) -> None:
    m = of_kind(kind, optimizer=ADAM)
    evaluated, before = predict(m, X), [np.asarray(leaf) for leaf in m._weights]
    trained = [
        m.predict(X, training_mode=True),
        m.loss(X, Y, training_mode=True),
        m.loss_gradient(X, Y, training_mode=True),
        m.class_gradient(X, None, training_mode=True),
        m.activations(X, 0, training_mode=True),
        m.vjp(X, np.ones((5, 4)), None, training_mode=True),
    ]
    assert all(np.isfinite(answer).all() and len(answer) == 5 for answer in trained)
    assert not np.allclose(trained[0], evaluated)
    assert not np.allclose(m.predict(X, training_mode=True), trained[0])  # Dropout draws anew.
    for leaf, was in zip(m._weights, before, strict=True):
        np.testing.assert_array_equal(leaf, was)
    np.testing.assert_array_equal(predict(m, X), evaluated)


def test_class_gradients_in_training_mode_are_of_one_pass() -> None:
    m = model("mlp", {"nb_outputs": 23}, nb_classes=23)
    dropping = JaxFunction(m._network._function.predict, jax_models.dense_params(6, 8, 23), training=jax_models.dropped)  # type: ignore[attr-defined]
    m = model(lambda: dropping, nb_classes=23)
    gradients = m.class_gradient(X, None, training_mode=True)
    # Without a bias between them, the gradients of outputs of one pass are combinations of the same eight rows.
    assert np.linalg.matrix_rank(gradients[0], tol=1e-9) <= 6
    kernel = jax_models.dense_params(6, 8, 23)["dense1"]["kernel"]
    recovered = np.linalg.lstsq(kernel.T, gradients[0], rcond=None)[0]
    np.testing.assert_allclose(kernel.T @ recovered, gradients[0], rtol=1e-9, atol=1e-12)


def test_batch_normalisation_in_training_mode_sees_the_rows_as_they_are() -> None:
    m = model("flax_linen")
    with jax.enable_x64(True):
        _, variables = jax_models.flax_linen()
        block = jax_models.Block(True, jnp.float64)
        inner = {name: variables[name]["block"] for name in ("params", "batch_stats")}
        expected, _ = block.apply(inner, jnp.asarray(X), True, mutable=["batch_stats"])
    # Five rows would be padded to eight, whose mean is another.
    np.testing.assert_allclose(m.activations(X, "block", training_mode=True), expected, rtol=1e-10)
    assert any("not padded" in note for note in m.notes)


def test_a_function_of_its_own_for_training_draws_dropout() -> None:
    m = model("with_dropout")
    first, second = (m.predict(X, training_mode=True) for _ in range(2))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, predict(m, X))


# Weights.


def test_names_of_weights_are_paths() -> None:
    from gradwire.backends.jax import weights as jax_weights

    def names(m: JaxModel) -> set[str]:
        return set(jax_weights.named(m._network, m._params, m._rest))

    assert names(model()) == {"dense0.kernel", "dense0.bias", "dense1.kernel", "dense1.bias"}
    assert {"params.block.linear.kernel", "batch_stats.block.norm.mean"} <= names(model("flax_linen"))
    assert {"linear.kernel", "tail.layers.1.bias"} <= names(model("flax_nnx"))
    assert {"layers.0.weight", "layers.1.bias"} <= names(model("equinox_mlp"))


@kinds
def test_save_and_restore_bring_everything_back(kind: str, tmp_path: Path) -> None:
    m = of_kind(kind, optimizer=ADAM)
    m.train_step(X, Y, training_mode=True)
    m.save(tmp_path / "version")
    trained = predict(m, X)
    other = m.untrained_clone()
    assert not np.array_equal(predict(other, X), trained)
    other.restore(tmp_path / "version")
    np.testing.assert_array_equal(predict(other, X), trained)
    m.save(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(predict(of_kind(kind, weights=tmp_path / "w.safetensors"), X), trained)


def test_integers_and_keys_among_the_parameters_are_kept_and_not_trained(tmp_path: Path) -> None:
    def odd(steps: int = 3, seed: int = 1) -> Any:
        params = {**jax_models.dense_params(6, 4), "steps": np.int32(steps), "key": jax.random.key(seed), "scale": 2.0}

        def function(params: Any, x: Any) -> Any:
            noise = jax.random.normal(params["key"], (4,))
            return params["scale"] * jax_models.dense(params, x, "dense0") * params["steps"] + noise

        return function, params

    m, other = model(odd, optimizer=ADAM), model(lambda: odd(5, 2))
    before = predict(m, X)
    m.train_step(X, Y, training_mode=True)
    assert int(m._rest["steps"]) == 3
    assert float(m._params["scale"]) != 2.0
    assert not np.array_equal(predict(m, X), before)
    m.save(tmp_path / "w")
    other.restore(tmp_path / "w")
    np.testing.assert_array_equal(predict(other, X), predict(m, X))


def test_weights_that_do_not_fit_are_named_and_change_nothing(tmp_path: Path) -> None:
    flat = {f"{layer}.{name}": array for layer, of in jax_models.dense_params(6, 8, 3).items() for name, array in of.items()}
    flat["extra"] = flat.pop("dense0.bias")
    safetensors.numpy.save_file(flat, tmp_path / "w.safetensors")
    text = r"missing: dense0\.bias; unexpected: extra; of another shape: .*dense1\.kernel \(8, 3\)"
    with pytest.raises(errors.ModelConfigError, match=text) as e:
        model(weights=tmp_path / "w.safetensors")
    assert e.value.key == "weights"
    m = model()
    before = predict(m, X)
    with pytest.raises(errors.ModelConfigError, match=text):
        m.restore(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(predict(m, X), before)


def test_pickled_weights_need_trust(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(jax_models.dense_params(6, 8, 4, seed=9)))
    with pytest.raises(errors.ModelConfigError, match="trust_pickle: true"):
        model(weights=path)
    np.testing.assert_array_equal(predict(model(weights=path, trust_pickle=True), X), predict(model("mlp", {"seed": 9}), X))


@pytest.mark.parametrize(
    ("name", "text"), [("gone.safetensors", "does not exist"), ("bad.safetensors", "not a readable"), ("w.h5", "'.h5'")]
)
def test_unreadable_weights_are_a_configuration_error(tmp_path: Path, name: str, text: str) -> None:
    if name != "gone.safetensors":
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(errors.ModelConfigError, match=text):
        model(weights=tmp_path / name)


# Training.


def test_train_steps_are_those_of_plain_flax_and_optax() -> None:
    m = model("flax_linen", {"normalise": True}, optimizer=ADAM)
    with jax.enable_x64(True):
        module, variables = jax_models.flax_linen()
        params, statistics = variables["params"], variables["batch_stats"]
        optimizer = optax.adam(0.05)
        state = optimizer.init(params)
        losses = []
        for step in range(3):
            key = jax.random.fold_in(jax.random.key(1), step)

            def mean_loss(params: Any, statistics: Any = statistics, key: Any = key) -> Any:
                outputs, changed = module.apply(
                    {"params": params, "batch_stats": statistics},
                    jnp.asarray(X),
                    train=True,
                    rngs={"dropout": jax.random.fold_in(key, 1)},
                    mutable=["batch_stats"],
                )
                return optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.asarray(Y)).mean(), changed["batch_stats"]

            (value, statistics), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            losses.append(float(value))
    assert [m.train_step(X, Y, training_mode=True) for _ in losses] == pytest.approx(losses, rel=1e-10)
    for ours, theirs in ((m._params, params), (m._rest["batch_stats"], statistics)):
        # A bias before a normalisation has the gradient 0, and Adam divides its rounding by 1e-8.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8), ours, theirs)


def test_one_snapshot_brings_back_weights_optimizer_and_dropout_any_number_of_times() -> None:
    for kind in MODAL:
        m = of_kind(kind, optimizer=ADAM)
        m.train_step(X, Y, training_mode=True)
        snapshot, before = m.snapshot(), predict(m, X)
        ends = []
        for _ in range(3):
            ends.append([m.train_step(X, Y, training_mode=True), m.train_step(X[::-1], Y, training_mode=True)])
            m.rollback(snapshot)
            np.testing.assert_array_equal(predict(m, X), before)
        assert ends[0] == ends[1] == ends[2]


def test_a_fit_that_is_closed_or_fails_leaves_the_weights() -> None:
    estimator = load_estimator(config("flax_nnx", optimizer=ADAM))
    before = estimator.predict(X)
    steps = estimator.fit(X, Y, FitOptions(batch_size=2, nb_epochs=50, seed=0))
    for _ in range(5):
        next(steps)
    steps.close()
    np.testing.assert_array_equal(estimator.predict(X), before)

    def failing() -> Any:
        yield X, Y
        raise RuntimeError("out of ideas")

    with pytest.raises(errors.ModelFailed, match="out of ideas"):
        list(estimator.fit_batches(failing(), True))
    np.testing.assert_array_equal(estimator.predict(X), before)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"path": "jax_models:frozen_first", "args": {"learning_rate": 0.1}},
        {"path": "optax.lbfgs"},
        {"path": "optax.polyak_sgd"},
        {"path": "optax.contrib.reduce_on_plateau"},
    ],
)
def test_optimizers_that_look_at_names_or_values_work(optimizer: dict[str, Any]) -> None:
    m = model(optimizer=optimizer)
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(m._params)]
    losses = [m.train_step(X, Y, training_mode=True) for _ in range(5)]
    assert m.programs.traces <= 2
    if "plateau" in optimizer["path"]:
        return  # It scales what others propose, and goes up by itself.
    assert losses[-1] < losses[0]  # type: ignore[operator]
    moved = [not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(m._params), before, strict=True)]
    assert moved == [not optimizer["path"].startswith("jax_models")] * 2 + [True, True]


def test_restored_model_trains_as_one_that_was_never_trained(tmp_path: Path) -> None:
    m, untouched = model(optimizer=ADAM), model(optimizer=ADAM)
    m.save(tmp_path / "w")
    m.train_step(X, Y, training_mode=True)
    m.restore(tmp_path / "w")
    for each in (m, untouched):
        each.train_step(X, Y, training_mode=True)
    np.testing.assert_array_equal(predict(m, X), predict(untouched, X))


def test_fresh_model_is_independent_and_untrained() -> None:
    m = model(optimizer=ADAM)
    initial = predict(m, X)
    m.train_step(X, Y, training_mode=True)
    trained = predict(m, X)
    other = m.untrained_clone()
    np.testing.assert_array_equal(predict(other, X), initial)
    other.train_step(X, Y, training_mode=True)
    np.testing.assert_array_equal(predict(m, X), trained)


# One model in every framework.


def test_the_nets_of_numbers_are_the_same_here() -> None:
    of_images, of_rows = (load_estimator(Config(**net)) for net in (jax_nets.CONV, jax_nets.DENSE))
    x = np.random.default_rng(0).uniform(-1, 1, (9, *weights.CONV_INPUT_SHAPE)).astype(np.float32)
    v = np.random.default_rng(0).uniform(-1, 1, (9, *weights.DENSE_INPUT_SHAPE)).astype(np.float32)
    close = {"rtol": 1e-5, "atol": 1e-5}
    for name, layer in jax_nets.LAYERS.items():
        np.testing.assert_allclose(of_images.get_activations(x, layer), weights.conv_forward(x)[name], **close)
    np.testing.assert_allclose(of_images.predict(x), weights.conv_forward(x)["logits"], **close)
    np.testing.assert_allclose(of_rows.predict(v), weights.dense_forward(v)["logits"], **close)


# Configuration.


@pytest.mark.parametrize(
    ("factory", "keys", "key", "text"),
    [
        ("not_a_model", {}, "factory", "returned int; expected .*JaxFunction"),
        ("looks_at_numbers", {}, "factory", "jax.jit cannot trace"),
        (lambda: (lambda p, x: x, {"name": "text"}), {}, "factory", r"hold str at \['name'\]"),
        (lambda: jax_models.flax_linen()[0], {}, "factory", "without its variables"),
        (lambda: jax_models.equinox_stateful()[0], {}, "factory", "takes a state"),
        ("mlp", {"device": "cuda:63"}, "device", "cuda:63 is not available"),
        ("mlp", {"loss": "optax.nothing"}, "loss", "nothing"),
        ("mlp", {"loss": optax_loss("huber_loss", epsilon=1)}, "loss", "epsilon"),
        ("mlp", {"optimizer": "optax.adam"}, "optimizer", "learning_rate"),
        ("mlp", {"optimizer": "jax_models:not_a_model"}, "optimizer", "returned int; expected an optax"),
        ("flax_linen", {"loss": None, "loss_func": "jax_models:art_loss"}, "loss_func", "plain function"),
    ],
)
def test_wrong_configuration_names_its_key(factory: Any, keys: dict[str, Any], key: str, text: str) -> None:
    with pytest.raises(errors.ModelConfigError, match=text) as e:
        model(factory, **keys)
    assert e.value.key == key


@pytest.mark.parametrize(
    "keys",
    [
        {"loss": None, "optimizer": ADAM},
        {"loss_func": "jax_models:art_loss"},
        {"optimizer": ADAM, "update_func": "jax_models:art_update"},
        {"loss": None, "loss_labels": "rows"},
        {"device": "tpu"},
        {"input_dtype": "int64"},
    ],
)
def test_configuration_that_makes_no_sense_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        config(**keys)


def test_a_device_without_room_is_told_apart_from_other_errors() -> None:
    from gradwire.backends.jax.programs import Scope

    with pytest.raises(errors.OutOfMemory, match="max_batch_rows"), Scope(False):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 5 bytes")
    with pytest.raises(jax.errors.JaxRuntimeError), Scope(True):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
    assert jnp.ones(1).dtype == np.float32


ALONE = """
import json, os, sys
import numpy as np
from gradwire.backends.jax import Config, load

def make():
    return lambda params, x: x @ params["w"], {"w": np.ones((3, 2), "f4")}

load(Config(backend="jax", factory=make, input_shape=[3], nb_classes=2)).predict(np.ones((1, 3), "f4"), training_mode=False)
print(json.dumps([os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"], "flax" in sys.modules, "equinox" in sys.modules]))
"""


@pytest.mark.parametrize(("given", "expected"), [({}, "false"), ({"XLA_PYTHON_CLIENT_PREALLOCATE": "true"}, "true")])
def test_jax_leaves_the_memory_of_gpus_to_others_and_flax_and_equinox_alone(given: dict[str, str], expected: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("XLA_PYTHON")} | given
    out = subprocess.run([sys.executable, "-c", ALONE], env=env, capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == [expected, False, False]


# Parity with ART.


@pytest.fixture(scope="module")
def art_class() -> Any:
    from art.experimental.estimators.classification.jax import JaxClassifier

    return JaxClassifier


# The same operations in float32, compiled in another order.
FLOAT32 = {"rtol": 1e-4, "atol": 1e-6}
ART_KEYS = {"enable_x64": False, "loss": None, "loss_func": "jax_models:art_loss", "update_func": "jax_models:art_update"}


def arts(art_class: Any, **more: Any) -> Any:
    function, params = jax_models.mlp(dtype="float32")
    return art_class(
        model=params,
        predict_func=function,
        loss_func=jax_models.art_loss,
        update_func=jax_models.art_update,
        input_shape=(6,),
        nb_classes=4,
        **more,
    )


def test_predictions_loss_gradients_and_fits_are_arts(art_class: Any) -> None:
    theirs, ours = arts(art_class), load_estimator(config("mlp", {"dtype": "float32"}, **ART_KEYS))
    x, rows = X.astype(np.float32), np.eye(4, dtype=np.float32)[Y]
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), **FLOAT32)
    np.testing.assert_allclose(ours.loss_gradient(x, Y), theirs.loss_gradient(x, rows), **FLOAT32)
    np.testing.assert_allclose(ours.loss_gradient(x, SOFT), theirs.loss_gradient(x, SOFT.astype(np.float32)), **FLOAT32)
    theirs.fit(x, rows, batch_size=5, nb_epochs=3)
    seen = list(ours.fit(x, Y, FitOptions(batch_size=5, nb_epochs=3)))
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), **FLOAT32)
    assert seen[-1].loss is not None


def test_the_two_forms_of_a_loss_have_the_same_gradient() -> None:
    whole, rows = model(loss=None, loss_func="jax_models:art_loss"), model()
    for y in (Y, SOFT):
        for call in ("loss", "loss_gradient"):
            expected = getattr(rows, call)(X, y, training_mode=False)
            np.testing.assert_allclose(getattr(whole, call)(X, y, training_mode=False), expected, rtol=1e-10, atol=1e-14)
    assert whole.loss_name == "art_loss"


def test_update_func_that_returns_other_parameters_changes_nothing() -> None:
    estimator = load_estimator(config("mlp", update_func="jax_models:wrong_update"))
    before = estimator.predict(X)
    with pytest.raises(errors.ModelFailed, match="update_func returned"):
        list(estimator.fit(X, Y, FitOptions()))
    np.testing.assert_array_equal(estimator.predict(X), before)


def test_art_leaves_preprocessing_out_of_the_loss_gradient_of_jax(art_class: Any) -> None:
    theirs = arts(art_class, preprocessing=(0.3, 0.5))
    x = X.astype(np.float32)
    in_64 = load_estimator(config(preprocessing={"mean": 0.3, "std": 0.5}))
    expected = differences.gradient(lambda x: in_64.loss(x, Y), X) / 5
    np.testing.assert_allclose(in_64.loss_gradient(X, Y), expected, **CLOSE)
    of_art = theirs.loss_gradient(x, np.eye(4, dtype=np.float32)[Y])
    np.testing.assert_allclose(of_art, expected * 0.5, **FLOAT32)
    assert not np.allclose(of_art, expected, rtol=0.1)


def test_art_has_no_class_gradients_losses_or_activations_of_jax(art_class: Any) -> None:
    theirs, ours = arts(art_class), load_estimator(config("with_layers", optimizer=ADAM))
    rows = np.eye(4, dtype=np.float32)[Y]
    for call in (
        lambda: theirs.class_gradient(X.astype(np.float32)),
        lambda: theirs.compute_loss(X.astype(np.float32), rows),
        lambda: theirs.get_activations(X.astype(np.float32), 0),
        lambda: theirs.fit_generator(None),
        lambda: theirs.save("model"),
    ):
        with pytest.raises(NotImplementedError):
            call()
    np.testing.assert_allclose(ours.class_gradient(X, None), differences.gradient(ours.predict, X), **CLOSE)
    assert ours.loss(X, Y).shape == (5,)
    assert ours.get_activations(X, 0).shape == (5, 8)


@pytest.mark.parametrize("label", [None, 2, "array"])
def test_class_gradients_are_those_of_plain_jax(label: Any) -> None:
    m = model()
    with jax.enable_x64(True):
        function, params = jax_models.mlp()
        jacobian = np.asarray(jax.vmap(jax.jacrev(lambda row: function(params, row[None])[0]))(jnp.asarray(X)))
    if label is None:
        np.testing.assert_allclose(m.class_gradient(X, None, training_mode=False), jacobian, rtol=1e-12)
        return
    chosen = Y if label == "array" else np.full(5, label)
    gradient = m.class_gradient(X, chosen, training_mode=False)
    np.testing.assert_allclose(gradient, jacobian[np.arange(5), chosen][:, None], rtol=1e-12)
