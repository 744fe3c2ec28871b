"""TensorFlow models against central differences, plain TensorFlow and ART in the same process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import differences
import keras
import numpy as np
import pydantic
import pytest
import safetensors.numpy
import tensorflow as tf
import tensorflow_owners as owners

from gradwire.backends import errors
from gradwire.backends import load as load_estimator
from gradwire.backends.capabilities import Operation, capabilities
from gradwire.backends.tensorflow import Config, load
from gradwire.backends.tensorflow.model import TensorFlowModel
from gradwire.backends.training import FitOptions

X = np.random.default_rng(1).normal(size=(5, 6))
Y = np.array([0, 3, 1, 1, 2])
SOFT = np.random.default_rng(2).dirichlet(np.ones(4), size=5)
# Central differences in float64 with steps of 1e-5 are good to about 1e-9 on these models.
CLOSE = {"rtol": 1e-6, "atol": 1e-8}
EXACT = {"rtol": 1e-12, "atol": 1e-14}
ADAM = {"path": "keras.optimizers.Adam", "args": {"learning_rate": 0.05}}


def spec(name: str, **args: Any) -> dict[str, Any]:
    return {"path": f"keras.losses.{name}", "args": args}


ENTROPY = spec("SparseCategoricalCrossentropy", from_logits=True)


def config(owner: Any = owners.Mlp, /, owner_args: dict[str, Any] | None = None, **keys: Any) -> Config:
    factory = {"path": f"tensorflow_owners:{owner.__name__}", "args": owner_args or {}}
    return Config(backend="tensorflow", **{"factory": factory, "input_shape": (6,), "nb_classes": 4, "loss": ENTROPY, **keys})


def model(owner: Any = owners.Mlp, /, owner_args: dict[str, Any] | None = None, **keys: Any) -> TensorFlowModel:
    return load(config(owner, owner_args, **keys))


def predict(m: TensorFlowModel, x: Any) -> Any:
    return m.predict(x, training_mode=False)


def weights_of(m: TensorFlowModel) -> dict[str, Any]:
    return {name: variable.numpy() for name, variable in m._network.variables.items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# Losses.

BINARY = np.array([0, 1, 1, 0, 1])
BINARY_SOFT = np.stack([1 - SOFT[:, 0], SOFT[:, 0]], axis=1)
LOSSES = [
    pytest.param("", ENTROPY, 4, Y, Y, id="sparse entropy of logits"),
    pytest.param("", spec("SparseCategoricalCrossentropy", from_logits=True, reduction="sum"), 4, Y, Y, id="sum"),
    pytest.param("", spec("SparseCategoricalCrossentropy", from_logits=True, ignore_class=1), 4, Y, Y, id="a class ignored"),
    pytest.param("softmax", spec("SparseCategoricalCrossentropy"), 4, Y, Y, id="sparse entropy of probabilities"),
    pytest.param("", spec("CategoricalCrossentropy", from_logits=True), 4, Y, np.eye(4)[Y], id="entropy"),
    pytest.param("", spec("CategoricalCrossentropy", from_logits=True, label_smoothing=0.1), 4, SOFT, SOFT, id="soft, smoothing"),
    pytest.param("softmax", spec("CategoricalCrossentropy", label_smoothing=0.1), 4, SOFT, SOFT, id="soft, probabilities"),
    pytest.param("", spec("CategoricalFocalCrossentropy", from_logits=True), 4, Y, np.eye(4)[Y], id="focal"),
    pytest.param("sigmoid", spec("BinaryCrossentropy"), 4, SOFT, SOFT, id="binary entropy, an output a class"),
    pytest.param("", spec("BinaryCrossentropy", from_logits=True, label_smoothing=0.2), 1, BINARY, BINARY[:, None], id="binary"),
    pytest.param("sigmoid", spec("BinaryCrossentropy"), 1, BINARY_SOFT, BINARY_SOFT[:, 1:], id="binary, soft"),
    pytest.param("", spec("MeanSquaredError"), 4, Y, np.eye(4)[Y], id="squared error of one-hot rows"),
    pytest.param("", spec("MeanSquaredError", reduction="sum"), 4, SOFT, SOFT, id="squared error, sum"),
    pytest.param("", spec("Huber"), 4, SOFT, SOFT, id="huber"),
    pytest.param("", spec("CategoricalHinge"), 4, Y, np.eye(4)[Y], id="hinge"),
    pytest.param("softmax", spec("KLDivergence"), 4, SOFT, SOFT, id="divergence"),
    pytest.param("softmax", spec("sparse_categorical_crossentropy"), 4, Y, Y, id="a function of Keras"),
    pytest.param("", spec("categorical_crossentropy", from_logits=True), 4, SOFT, SOFT, id="a function with arguments"),
]


def with_loss(end: str, loss: Any, outputs: int) -> TensorFlowModel:
    return model(owners.Mlp, {"end": end, "outputs": outputs}, loss=loss, nb_classes=max(2, outputs))


@pytest.mark.parametrize(("end", "loss", "outputs", "y", "targets"), LOSSES)
def test_rows_sum_to_keras_own_loss_over_the_divisor(end: str, loss: dict[str, Any], outputs: int, y: Any, targets: Any) -> None:
    m = with_loss(end, loss, outputs)
    own = getattr(keras.losses, m.loss_name)
    if isinstance(own, type):
        value = float(own(**loss["args"], dtype="float64")(targets, predict(m, X)))
    else:
        value = float(np.mean(own(targets, predict(m, X), **loss["args"])))
    rows = m.loss(X, y, training_mode=False)
    assert rows.shape == (5,)
    total = rows.sum() / m.loss_divisor(y) if m.loss_reduction == "mean" else rows.sum()
    # Keras clips probabilities by 1e-7 where it does not see their logits.
    assert total == pytest.approx(value, rel=1e-5)
    assert m.loss_divisor(y) == pytest.approx(m.loss_divisor(y[:2]) + m.loss_divisor(y[2:]), rel=1e-12)
    np.testing.assert_allclose(m.loss_from_predictions(predict(m, X), y), rows, rtol=1e-5)


@pytest.mark.parametrize(
    ("end", "loss", "outputs", "y", "targets"),
    [
        *LOSSES,
        pytest.param("", ENTROPY, 4, SOFT, None, id="sparse entropy, soft"),
        pytest.param("softmax", spec("SparseCategoricalCrossentropy"), 4, SOFT, None, id="sparse entropy of probabilities, soft"),
        pytest.param("", ENTROPY, 4, 3 * SOFT, None, id="rows of another sum than 1"),
        pytest.param("softmax", spec("CategoricalCrossentropy"), 4, 3 * SOFT, None, id="probabilities, rows of another sum than 1"),
        pytest.param("", {"path": "tensorflow_owners:brier"}, 4, SOFT, None, id="the owner's own"),
        pytest.param("", {"path": "tensorflow_owners:make_brier"}, 4, Y, None, id="one that the owner makes"),
    ],
)
def test_loss_gradient_is_that_of_the_summed_rows(end: str, loss: dict[str, Any], outputs: int, y: Any, targets: Any) -> None:
    m = with_loss(end, loss, outputs)
    gradient = m.loss_gradient(X, y, training_mode=False)
    expected = differences.gradient(lambda x: m.loss(x, y, training_mode=False), X)
    np.testing.assert_allclose(gradient, expected, **CLOSE)
    assert np.abs(gradient).max() > 1e-3


def test_soft_labels_of_a_sparse_loss_are_those_of_the_categorical_one() -> None:
    categorical = model(loss=spec("CategoricalCrossentropy", from_logits=True))
    np.testing.assert_allclose(model().loss(X, SOFT, training_mode=False), categorical.loss(X, SOFT, training_mode=False), **EXACT)
    np.testing.assert_allclose(
        model().loss(X, np.eye(4)[Y], training_mode=False), categorical.loss(X, Y, training_mode=False), **EXACT
    )


def test_a_gradient_of_a_saturated_softmax_is_that_of_its_logits() -> None:
    ends, logits = with_loss("softmax", spec("SparseCategoricalCrossentropy"), 4), model()
    far = 1e4 * X
    gradient = ends.loss_gradient(far, Y, training_mode=False)
    np.testing.assert_allclose(gradient, logits.loss_gradient(far, Y, training_mode=False), **EXACT)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_regression_targets_never_broadcast(shape: tuple[int, ...]) -> None:
    m = model(owners.Mlp, {"outputs": 1}, loss=spec("MeanAbsoluteError"), task="regression", nb_classes=1)
    y = np.arange(5.0)
    np.testing.assert_allclose(m.loss(X, y.reshape(shape), training_mode=False), np.abs(predict(m, X)[:, 0] - y), **EXACT)
    assert m.output_kind == "values"
    with pytest.raises(errors.InvalidLabel, match=r"\(5, 2\).*\(5, 1\)"):
        m.loss(X, np.zeros((5, 2)), training_mode=False)


def test_labels_that_a_loss_is_not_defined_for_are_refused() -> None:
    with pytest.raises(errors.InvalidLabel, match="soft"):
        model(loss=spec("SparseCategoricalCrossentropy", from_logits=True, ignore_class=0)).loss(X, SOFT, training_mode=False)
    with pytest.raises(errors.InvalidLabel, match="4 outputs"):
        model(nb_classes=9).loss(X, np.full(5, 7), training_mode=False)
    with pytest.raises(errors.InvalidLabel, match="4 outputs"):
        model(nb_classes=9, loss=spec("MeanSquaredError")).loss(X, np.full(5, 7), training_mode=False)


def test_loss_that_reduces_by_itself_is_refused() -> None:
    m = model(loss={"path": "tensorflow_owners:mean_loss"})
    with pytest.raises(errors.ModelFailed, match=r"mean_loss returned \(\)"):
        m.loss(X, Y, training_mode=False)


def test_loss_object_of_others_is_left_as_it_is_and_none_counts_as_a_sum() -> None:
    theirs = keras.losses.MeanSquaredError(reduction=None)
    m = model(loss={"path": "keras.losses:MeanSquaredError", "target": theirs})
    m.loss(X, Y, training_mode=False)
    assert theirs.reduction is None
    assert m.loss_reduction == "sum"


# Gradients of outputs.


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_class_gradients_agree_with_differences(rows: int) -> None:
    m = model()
    x = X[:rows]
    expected = differences.gradient(lambda x: predict(m, x), x)
    np.testing.assert_allclose(m.class_gradient(x, None, training_mode=False), expected, **CLOSE)
    chosen = m.class_gradient(x, np.broadcast_to(Y[1], rows), training_mode=False)
    np.testing.assert_allclose(chosen, expected[:, [Y[1]]], **CLOSE)
    chosen = m.class_gradient(x, Y[:rows], training_mode=False)
    np.testing.assert_allclose(chosen, expected[np.arange(rows), Y[:rows]][:, None], **CLOSE)


def test_class_gradients_of_many_classes_are_a_loop_of_the_graph() -> None:
    m = model(owners.Mlp, {"outputs": 300}, nb_classes=300)
    every = m.class_gradient(X, None, training_mode=False)
    np.testing.assert_allclose(m.class_gradient(X[:1], None, training_mode=False), every[:1], **EXACT)
    np.testing.assert_allclose(m.class_gradient(X, np.full(5, 299), training_mode=False)[:, 0], every[:, 299], **EXACT)


def test_single_output_has_one_class_gradient() -> None:
    m = model(owners.Mlp, {"outputs": 1}, nb_classes=2, loss=spec("BinaryCrossentropy", from_logits=True))
    expected = differences.gradient(lambda x: predict(m, x), X)
    np.testing.assert_allclose(m.class_gradient(X, None, training_mode=False), expected, **CLOSE)
    np.testing.assert_allclose(m.class_gradient(X, np.zeros(5, np.int64), training_mode=False), expected, **CLOSE)
    with pytest.raises(errors.InvalidLabel, match="1 output"):
        m.class_gradient(X, np.ones(5, np.int64), training_mode=False)


@pytest.mark.parametrize("layer", [None, "first", -1, 0])
def test_vjp_agrees_with_differences(layer: str | int | None) -> None:
    m = model()

    def f(x: Any) -> Any:
        return predict(m, x) if layer is None else m.activations(x, layer, training_mode=False)

    cotangent = np.random.default_rng(4).normal(size=f(X).shape)
    expected = differences.gradient(lambda x: (f(x) * cotangent).sum(1), X)
    np.testing.assert_allclose(m.vjp(X, cotangent, layer, training_mode=False), expected, **CLOSE)


@pytest.mark.parametrize("owner", [owners.Mlp, owners.Untraceable])
def test_vjp_refuses_a_cotangent_of_another_shape(owner: Any) -> None:
    m = model(owner)
    for _ in range(2):  # When the function is made, and afterwards.
        with pytest.raises(errors.InvalidShape, match=r"\(5, 3\).*\(5, 4\).*outputs"):
            m.vjp(X, np.ones((5, 3)), None, training_mode=False)
        with pytest.raises(errors.InvalidShape, match=r"\(5, 4\).*\(5, 8\).*layer 'first'"):
            m.vjp(X, np.ones((5, 4)), "first", training_mode=False)
    assert m.vjp(X, np.ones((5, 8)), "first", training_mode=False).shape == X.shape


def test_no_way_back_to_the_inputs_is_an_error_and_not_zeros() -> None:
    m = model(owners.Detached)
    for x in (X[:1], X):
        for call in (
            lambda x: m.loss_gradient(x, Y[: len(x)], training_mode=False),
            lambda x: m.class_gradient(x, None, training_mode=False),
            lambda x: m.class_gradient(x, Y[: len(x)], training_mode=False),
            lambda x: m.vjp(x, np.ones((len(x), 4)), None, training_mode=False),
        ):
            with pytest.raises(errors.Unsupported, match="detached"):
                call(x)


def test_outputs_that_do_not_depend_on_the_inputs_have_zero_gradients_beside_one_that_does() -> None:
    m = model(owners.HalfDetached)
    for x in (X[:1], X):
        gradients = m.class_gradient(x, None, training_mode=False)
        assert np.abs(gradients[:, 0]).max() > 1e-3
        np.testing.assert_array_equal(gradients[:, 1:], 0)


# Layers.


def test_layers_are_found_by_index_and_by_path_at_any_depth() -> None:
    m = model(owners.Blocks)
    assert m.layer_names == ["stem", "blocks.0", "blocks.1.inner", "unused", "twice", "looped", "part", "head"]
    owner = owners.Blocks()
    first = owner.blocks[0](X)
    expected = {
        "stem": owner.stem(X),
        "blocks.0": first,
        "blocks.0.first": owner.blocks[0].first(X),
        "blocks.1.inner": owner.blocks[1]["inner"](first),
        "blocks.1.inner.last": owner.blocks[1]["inner"](first),
        "twice": owner.twice(tf.tanh(owner.twice(owner.blocks[1]["inner"](first) + owner.stem(X)[:, :6]))),
        "head": owner(tf.constant(X)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(m.activations(X, name, training_mode=False), value, **EXACT)
    np.testing.assert_array_equal(m.activations(X, 1, training_mode=False), m.activations(X, "blocks.0", training_mode=False))
    np.testing.assert_allclose(m.activations(X, -1, training_mode=False), predict(m, X), **EXACT)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (8, "0|stem, blocks"),
        (-9, "8 layers"),
        ("nose", "stem, blocks.*e.g. blocks.0.first"),
        ("", "no layer"),
        ("unused", "not called"),
        ("looped", "inside a loop"),
    ],
)
def test_layers_that_put_nothing_out_are_named(layer: str | int, text: str) -> None:
    with pytest.raises(errors.InvalidLayer, match=text):
        model(owners.Blocks).activations(X, layer, training_mode=False)


def test_modules_are_as_they_were_after_calls_and_failures() -> None:
    m = model(owners.Blocks)
    m.activations(X, "blocks.1.inner.last", training_mode=False)
    with pytest.raises(errors.InvalidLayer):
        m.activations(X, "looped", training_mode=False)
    owner = m._network.owner
    modules = (owner, owner.looped, *owner.submodules)
    assert all(type(module) in (tf.Module, *vars(owners).values()) for module in modules)


def test_functions_have_no_layers_and_all_else() -> None:
    m = load(
        Config(
            backend="tensorflow",
            factory=a_function,
            input_shape=(6,),
            nb_classes=4,
            loss=ENTROPY,
            optimizer=ADAM,
            input_dtype="float64",
        )
    )
    assert capabilities(m) == set(Operation) - {Operation.GET_ACTIVATIONS}
    expected = differences.gradient(lambda x: m.loss(x, Y, training_mode=False), X)
    np.testing.assert_allclose(m.loss_gradient(X, Y, training_mode=False), expected, **CLOSE)
    before, snapshot = predict(m, X), m.snapshot()
    m.train_step(X, Y, training_mode=True)
    assert not np.array_equal(predict(m, X), before)
    m.rollback(snapshot)
    np.testing.assert_array_equal(predict(m, X), before)


def a_function() -> Any:
    net = owners.Mlp()
    return tf.function(lambda x: net(x))


# Graphs.


def test_nothing_is_traced_again_whatever_the_number_of_rows() -> None:
    m = model(owners.Compiled, optimizer=ADAM)

    def every_operation(n: int) -> None:
        x, y = np.resize(X, (n, 6)), np.resize(Y, n)
        soft = np.resize(SOFT, (n, 4))
        m.loss_from_predictions(predict(m, x), y)
        for labels in (y, soft):
            m.loss(x, labels, training_mode=False)
            m.loss_gradient(x, labels, training_mode=False)
        m.class_gradient(x, None, training_mode=False)
        m.class_gradient(x, y, training_mode=False)
        m.vjp(x, soft, None, training_mode=False)
        m.vjp(x, m.activations(x, "first", training_mode=False), "first", training_mode=False)
        m.train_step(x, y, training_mode=True)

    for n in (1, 3):  # Gradients of all outputs have one graph for few rows and one for many.
        every_operation(n)
    before = m._graphs.traces()
    assert before == len(m._graphs._made)
    for n in range(1, 129, 7):
        every_operation(n)
    assert m._graphs.traces() == before
    assert not m.notes


def test_what_cannot_be_traced_runs_operation_by_operation_and_says_so() -> None:
    m, traced = model(owners.Untraceable, optimizer=ADAM), model(owners.Mlp, optimizer=ADAM)
    for each in (predict, lambda m, x: m.loss_gradient(x, Y[: len(x)], training_mode=False)):
        np.testing.assert_allclose(each(m, X), each(traced, X), **EXACT)
    for x in (X[:1], X):
        np.testing.assert_allclose(
            m.class_gradient(x, None, training_mode=False), traced.class_gradient(x, None, training_mode=False), **EXACT
        )
    np.testing.assert_allclose(m.activations(X, "last", training_mode=False), predict(traced, X), **EXACT)
    assert m.train_step(X, Y, training_mode=True) == pytest.approx(traced.train_step(X, Y, training_mode=True), rel=1e-12)
    assert "operation by operation" in m.notes[0]
    assert "predict" in m.notes[0]


def test_calls_in_training_mode_leave_nothing_behind() -> None:
    m = model(owners.Normalised, {"dropout": 0.5}, optimizer=ADAM)
    before, evaluated = weights_of(m), predict(m, X)
    trained = m.predict(X, training_mode=True)
    m.loss_gradient(X, Y, training_mode=True)
    m.class_gradient(X, None, training_mode=True)
    m.activations(X, 0, training_mode=True)
    m.vjp(X, np.ones((5, 4)), None, training_mode=True)
    assert not np.allclose(trained, evaluated)
    assert same(weights_of(m), before)
    np.testing.assert_array_equal(predict(m, X), evaluated)


@pytest.mark.parametrize("rows", [2, 5])
def test_class_gradients_in_training_mode_are_of_the_batch_together(rows: int) -> None:
    m, owner, x = model(owners.Normalised), owners.Normalised(), tf.constant(X[:rows])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        columns = tf.unstack(owner(x, training=True), axis=1)
    expected = np.stack([tape.gradient(column, x) for column in columns], 1)
    np.testing.assert_allclose(m.class_gradient(X[:rows], None, training_mode=True), expected, rtol=1e-9, atol=1e-12)


# What goes in and what comes out.


@pytest.mark.parametrize("make", [lambda x: x[:, ::-1], np.asfortranarray, lambda x: x.astype(">f8"), lambda x: x])
def test_any_layout_of_inputs_is_taken(make: Any) -> None:
    m = model()
    x = make(X.copy())
    x.flags.writeable = False
    gradient = m.loss_gradient(x, Y, training_mode=False)
    np.testing.assert_array_equal(gradient, m.loss_gradient(np.ascontiguousarray(x, np.float64), Y, training_mode=False))
    assert gradient.flags.writeable
    assert gradient.flags.c_contiguous


def test_answers_do_not_share_memory_with_the_model() -> None:
    m = model(owners.OwnVariable)
    predict(m, X[:2])[:] = 7
    np.testing.assert_array_equal(predict(m, X[:2]), np.ones((2, 4)))


def test_a_model_that_loses_rows_is_an_error() -> None:
    with pytest.raises(errors.ModelFailed, match=r"\(2, 4\) for 5 rows"):
        predict(model(owners.OwnVariable), X)


def test_a_full_device_is_told_as_such() -> None:
    m = model(owners.Full)
    assert predict(m, X[:2]).shape == (2, 4)
    with pytest.raises(errors.OutOfMemory, match="no room"):
        predict(m, X)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-3), ("bfloat16", 5e-2)])
def test_half_models_take_and_answer_float32(dtype: str, tolerance: float) -> None:
    half, full = model(owners.Mlp, {"dtype": dtype}), model(owners.Mlp, {"dtype": "float32"})
    assert half.input_dtype == full.input_dtype == np.float32
    x = X.astype(np.float32)
    for call in (predict, lambda m, x: m.loss_gradient(x, Y, training_mode=False)):
        assert call(half, x).dtype == np.float32
        # Half precision has 3 (float16) or 2 (bfloat16) digits.
        np.testing.assert_allclose(call(half, x), call(full, x), atol=tolerance)
    assert dtype in half.notes[0]


def test_variables_that_are_made_at_the_first_call_take_the_configured_dtype() -> None:
    assert model(owners.Lazy).input_dtype == np.float32
    m = model(owners.Lazy, input_dtype="float64")
    assert m.input_dtype == np.float64
    assert list(m._network.variables) == ["kernel"]
    np.testing.assert_allclose(predict(m, X), X @ owners.variable(3, 6, 4).numpy(), **EXACT)


def test_integer_inputs_predict_and_have_losses_but_no_gradients() -> None:
    m = model(owners.Embedded, input_shape=(7,), input_dtype="int64")
    tokens = np.random.default_rng(6).integers(0, 11, size=(4, 7))
    assert m.input_dtype == np.int64
    assert predict(m, tokens).dtype == np.float32
    assert m.loss(tokens, Y[:4], training_mode=False).shape == (4,)
    assert not {Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT, Operation.VJP} & capabilities(m)


def test_rows_of_any_length_are_taken_by_one_graph() -> None:
    m = model(owners.Sequence, input_shape=(-1, 3))
    for steps in (1, 4, 9):
        x = np.random.default_rng(steps).normal(size=(2, steps, 3))
        expected = differences.gradient(lambda x: m.loss(x, Y[:2], training_mode=False), x)
        np.testing.assert_allclose(m.loss_gradient(x, Y[:2], training_mode=False), expected, **CLOSE)
        activations = m.activations(x, "step", training_mode=False)
        assert activations.shape == (2, steps, 4)
        assert m.vjp(x, activations, "step", training_mode=False).shape == x.shape
        with pytest.raises(errors.InvalidShape, match=rf"\(2, {steps}, 4\)"):
            m.vjp(x, np.ones((2, steps + 1, 4)), "step", training_mode=False)
    assert m._graphs.traces() == len(m._graphs._made)


def test_an_output_is_chosen_by_its_name() -> None:
    np.testing.assert_allclose(predict(model(owners.Several, output_name="twice"), X), 2 * predict(model(), X), **EXACT)
    for name, text in ((None, "several outputs: twice, logits"), ("nose", "no output 'nose'")):
        with pytest.raises(errors.ModelConfigError, match=text) as e:
            model(owners.Several, output_name=name)
        assert e.value.key == "output_name"


def test_capabilities_follow_from_the_configuration() -> None:
    every = set(Operation)
    fit = {Operation.FIT, Operation.FIT_BATCHES}
    assert capabilities(model(optimizer=ADAM)) == every
    assert capabilities(model()) == every - fit
    assert capabilities(model(loss=None)) == every - fit - {Operation.LOSS, Operation.LOSS_GRADIENT}


@pytest.mark.parametrize("layer", [None, "first"])
def test_defences_in_front_are_in_the_gradients(layer: str | None) -> None:
    from conformance.case import Halve

    estimator = load_estimator.load(config(preprocessing_defences=[Halve], preprocessing={"mean": 0.3, "std": 0.5}))
    y = estimator.prepare_labels(Y, 5)
    expected = differences.gradient(lambda x: estimator.loss(x, y), X)
    np.testing.assert_allclose(5 * estimator.loss_gradient(X, y), expected, **CLOSE)


# Weights.


def test_weights_come_from_safetensors(tmp_path: Path) -> None:
    other = model(owners.Mlp, {"seed": 7})
    other.save(tmp_path / "w.safetensors")
    assert set(safetensors.numpy.load_file(tmp_path / "w.safetensors")) == {
        "first.kernel",
        "first.bias",
        "last.kernel",
        "last.bias",
    }
    np.testing.assert_array_equal(predict(model(weights=tmp_path / "w.safetensors"), X), predict(other, X))


def test_weights_that_do_not_fit_are_named_and_change_nothing(tmp_path: Path) -> None:
    m = model()
    before = weights_of(m)
    wrong = {**before, "last.bias": np.zeros((1, 9)), "extra": before["first.bias"]}
    del wrong["first.bias"]
    safetensors.numpy.save_file(wrong, tmp_path / "w.safetensors")
    text = r"missing: first\.bias; unexpected: extra; of another shape: last\.bias \(1, 9\), expected \(1, 4\)"
    with pytest.raises(errors.ModelConfigError, match=text):
        m.restore(tmp_path / "w.safetensors")
    assert same(weights_of(m), before)
    with pytest.raises(errors.ModelConfigError, match=text) as e:
        model(weights=tmp_path / "w.safetensors")
    assert e.value.key == "weights"


@pytest.mark.parametrize(
    ("name", "text"), [("gone.safetensors", "does not exist"), ("bad.safetensors", "not a readable"), ("w.h5", "'.h5'")]
)
def test_unreadable_weights_are_a_configuration_error(tmp_path: Path, name: str, text: str) -> None:
    if name != "gone.safetensors":
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(errors.ModelConfigError, match=text):
        model(weights=tmp_path / name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_weights_survive_save_and_restore(tmp_path: Path, dtype: str) -> None:
    m = model(owners.Mlp, {"dtype": dtype}, optimizer=ADAM)
    before = weights_of(m)
    m.save(tmp_path / "w.safetensors")
    m.train_step(X.astype("f4"), Y, training_mode=True)
    m.restore(tmp_path / "w.safetensors")
    assert same(weights_of(m), before)


# SavedModels.


def saved(owner: Any, path: Path, *specs: Any, signature: bool = True) -> Path:
    traced = [owner.__call__.get_concrete_function(*each) for each in specs]
    tf.saved_model.save(owner, str(path), {"serving_default": traced[0]} if signature else None)
    return path


def saved_model(path: Path, **keys: Any) -> TensorFlowModel:
    given = {"input_shape": (6,), "nb_classes": 4, "loss": ENTROPY, "optimizer": ADAM, **keys}
    return load(Config(backend="tensorflow", saved_model=path, **given))


ROWS = tf.TensorSpec([None, 6], tf.float64)
ONE_ROW = tf.TensorSpec([1, 6], tf.float64)


@pytest.mark.parametrize("signature", [None, "serving_default"])
def test_saved_models_have_all_operations_but_activations_and_clones(tmp_path: Path, signature: str | None) -> None:
    owner = owners.Compiled()
    owner(tf.constant(X[:1]))  # Saved too, and TensorFlow's first choice for any number of rows.
    m, traced = saved_model(saved(owner, tmp_path / "m", (ROWS,)), signature=signature), model(owners.Mlp, optimizer=ADAM)
    assert capabilities(m) == set(Operation) - {Operation.GET_ACTIVATIONS, Operation.CLONE}
    for call in (
        predict,
        lambda m, x: m.loss_gradient(x, Y, training_mode=False),
        lambda m, x: m.class_gradient(x, None, training_mode=False),
        lambda m, x: m.vjp(x, SOFT, None, training_mode=False),
    ):
        np.testing.assert_allclose(call(m, X), call(traced, X), **EXACT)
    before, snapshot = weights_of(m), m.snapshot()
    for _ in range(3):
        assert m.train_step(X, Y, training_mode=True) == pytest.approx(traced.train_step(X, Y, training_mode=True), rel=1e-9)
    assert not same(weights_of(m), before)
    m.save(tmp_path / "w.safetensors")
    trained = predict(m, X)
    m.rollback(snapshot)
    assert same(weights_of(m), before)
    m.restore(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(predict(m, X), trained)
    again = saved_model(tmp_path / "m", weights=tmp_path / "w.safetensors")
    np.testing.assert_array_equal(predict(again, X), trained)


class WithMode(owners.Mlp):
    @tf.function
    def __call__(self, x: Any, training: bool = False) -> Any:
        return super().__call__(x) * (2.0 if training else 1.0)


def test_saved_models_keep_their_training_mode(tmp_path: Path) -> None:
    both = saved_model(saved(WithMode(), tmp_path / "both", (ROWS, False), (ROWS, True), (ONE_ROW, True)))
    np.testing.assert_allclose(both.predict(X, training_mode=True), 2 * predict(both, X), **EXACT)
    only = saved_model(saved(WithMode(), tmp_path / "only", (ROWS, False)))
    np.testing.assert_array_equal(only.predict(X, training_mode=True), predict(only, X))


def test_exported_keras_models_are_saved_models(tmp_path: Path) -> None:
    theirs = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(4)])
    theirs.export(tmp_path / "m", verbose=False)
    m = saved_model(tmp_path / "m")
    x = X.astype("f4")
    np.testing.assert_allclose(predict(m, x), theirs(x), rtol=1e-5, atol=1e-6)
    assert m.loss_gradient(x, Y, training_mode=False).shape == x.shape
    before, snapshot = predict(m, x), m.snapshot()
    m.train_step(x, Y, training_mode=True)
    assert not np.array_equal(predict(m, x), before)
    m.rollback(snapshot)
    np.testing.assert_array_equal(predict(m, x), before)


def test_saved_models_that_take_no_rows_are_refused(tmp_path: Path) -> None:
    fixed = owners.Compiled()
    fixed(tf.constant(X))
    cases = {
        "gone": (tmp_path / "gone", None, "saved_model", "not a folder"),
        "empty": (tmp_path, None, "saved_model", "cannot be read"),
        "fixed": (
            saved(fixed, tmp_path / "fixed", signature=False),
            None,
            "saved_model",
            r"1 fixed numbers of rows.*TensorSpec\(\[None",
        ),
        "signature": (
            saved(owners.Compiled(), tmp_path / "named", (ROWS,)),
            "nose",
            "signature",
            "no signature 'nose'.*serving_default",
        ),
    }
    for path, signature, key, text in cases.values():
        with pytest.raises(errors.ModelConfigError, match=text) as e:
            saved_model(path, signature=signature)
        assert e.value.key == key
    with pytest.raises(errors.ModelConfigError, match="folder is for saved_model"):
        model(weights=tmp_path)


# Training.


def test_train_steps_are_those_of_plain_tensorflow() -> None:
    m, owner = model(owners.Normalised, optimizer=ADAM), owners.Normalised()
    owner(X)
    optimizer = keras.optimizers.Adam(0.05)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    variables = [*owner.trainable_variables, *owner.norm.trainable_variables]
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = entropy(Y, owner(X, training=True))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        assert m.train_step(X, Y, training_mode=True) == pytest.approx(float(loss), rel=1e-12)
    np.testing.assert_allclose(predict(m, X), owner(X), rtol=1e-9)
    assert "norm.2.moving_mean" in m._network.variables


def test_what_the_owner_froze_is_not_trained() -> None:
    m = model(owners.Mlp, {"frozen": True}, optimizer=ADAM)
    before = weights_of(m)
    m.train_step(X, Y, training_mode=True)
    after = weights_of(m)
    assert {name for name in after if not np.array_equal(after[name], before[name])} == {"last.kernel", "last.bias"}


TRAINED = [
    pytest.param(owners.Normalised, {"optimizer": ADAM}, id="optimizer"),
    pytest.param(owners.Mlp, {"train_step": {"path": "tensorflow_owners:momentum_step"}, "loss": None}, id="train step"),
]


@pytest.mark.parametrize(("owner", "keys"), TRAINED)
def test_one_snapshot_brings_back_weights_and_optimizer_any_number_of_times(owner: Any, keys: dict[str, Any]) -> None:
    m = model(owner, **keys)
    m.train_step(X, Y, training_mode=True)
    snapshot, before = m.snapshot(), weights_of(m)
    after = []
    for _ in range(3):
        m.train_step(X, Y, training_mode=True)
        m.train_step(X[::-1], Y, training_mode=True)
        after.append(weights_of(m))
        m.rollback(snapshot)
        assert same(weights_of(m), before)
    # With another optimizer state the same steps would end elsewhere.
    assert all(same(later, after[0]) for later in after)
    assert not same(after[0], before)


@pytest.mark.parametrize(("owner", "keys"), TRAINED)
def test_restored_model_trains_as_one_that_was_never_trained(tmp_path: Path, owner: Any, keys: dict[str, Any]) -> None:
    m, untouched = model(owner, **keys), model(owner, **keys)
    m.save(tmp_path / "w.safetensors")
    m.train_step(X, Y, training_mode=True)
    m.restore(tmp_path / "w.safetensors")
    for each in (m, untouched):
        each.train_step(X, Y, training_mode=True)
    assert same(weights_of(m), weights_of(untouched))


def test_the_owners_step_gets_what_the_loss_takes_and_may_tell_it() -> None:
    seen = []

    def step(model: Any, x: Any, y: Any) -> Any:
        seen.append((model, y.dtype, y.shape.rank))
        return tf.reduce_sum(model(x))

    # Without a loss as with ART: one row of classes each; with a sparse loss their indices.
    for loss, dtype, rank in ((None, tf.float64, 2), (ENTROPY, tf.int64, 1), (spec("MeanSquaredError"), tf.float64, 2)):
        m = model(loss=loss, train_step=step)
        assert m.train_step(X, Y, training_mode=True) == pytest.approx(predict(m, X).sum(), rel=1e-12)
        assert seen.pop()[1:] == (dtype, rank)
    silent = model(loss=None, train_step=owners.momentum_step)
    assert silent.train_step(X, Y, training_mode=True) is None


def test_a_fit_that_fails_leaves_the_weights() -> None:
    estimator = load_estimator.load(
        config(owners.Failing, optimizer={"path": "keras.optimizers.SGD", "args": {"learning_rate": 0.05}})
    )
    before = weights_of(estimator.model)  # type: ignore[arg-type]
    seen = []
    with pytest.raises(errors.ModelFailed, match="InvalidArgumentError: .*out of ideas") as failed:
        for progress in estimator.fit(X, np.zeros(5, np.int64), FitOptions(nb_epochs=500)):
            seen.append(progress.loss)
    assert len(seen) > 1
    assert "File" not in str(failed.value)
    assert same(weights_of(estimator.model), before)  # type: ignore[arg-type]


def test_fresh_model_is_independent() -> None:
    m = model(optimizer=ADAM)
    other = m.untrained_clone()
    before = predict(m, X)
    other.train_step(X, Y, training_mode=True)
    assert not np.array_equal(predict(other, X), before)
    np.testing.assert_array_equal(predict(m, X), before)


def test_fresh_refuses_a_factory_that_returns_the_served_model() -> None:
    with pytest.raises(errors.Unsupported, match="same model"):
        model(owners.always_the_same).untrained_clone()


# Configuration.


@pytest.mark.parametrize(
    ("owner", "keys", "key", "text"),
    [
        (owners.not_a_model, {}, "factory", "returned int; expected a tf.Module"),
        (owners.Mlp, {"device": "gpu:63"}, "device", "gpu:63 is not available"),
        (owners.Mlp, {"loss": spec("Nothing")}, "loss", "Nothing"),
        (owners.Mlp, {"loss": {"path": "tensorflow_owners:not_a_model"}}, "loss", "gives int; expected a callable"),
        (owners.Mlp, {"optimizer": {"path": "tensorflow_owners:make_brier"}}, "optimizer", "returned function; expected a keras"),
        (owners.Mlp, {"train_step": {"path": "tensorflow_owners:not_a_model"}}, "train_step", "gives int"),
        (owners.Mlp, {"input_shape": (5,)}, "input_shape", r"row of shape \[5\]"),
    ],
)
def test_wrong_configuration_names_its_key(owner: Any, keys: dict[str, Any], key: str, text: str) -> None:
    with pytest.raises(errors.ModelConfigError, match=text) as e:
        model(owner, **keys)
    assert e.value.key == key


@pytest.mark.parametrize(
    "keys",
    [
        {"loss": None, "optimizer": ADAM},
        {"optimizer": ADAM, "train_step": "tensorflow_owners:momentum_step"},
        {"factory": None},
        {"saved_model": "a folder"},
        {"device": "cuda"},
        {"input_dtype": "uint8"},
    ],
)
def test_configuration_that_makes_no_sense_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        config(**keys)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({}, "logits"),
        ({"loss": None}, "logits"),
        ({"loss": spec("SparseCategoricalCrossentropy")}, "probabilities"),
        ({"loss": spec("MeanSquaredError"), "task": "regression"}, "values"),
        ({"output": "probabilities"}, "probabilities"),
    ],
)
def test_kind_of_outputs_is_guessed_unless_said(keys: dict[str, Any], kind: str) -> None:
    assert model(**keys).output_kind == kind


# Parity with ART.

IMAGES = np.random.default_rng(8).random((6, 8, 8, 1)).astype(np.float32)
CLASSES = np.array([0, 4, 2, 2, 1, 3])
# The same operations in float32, in another order where rows are repeated.
FLOAT32 = {"rtol": 1e-4, "atol": 1e-6}


def cnn() -> Any:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.MaxPooling2D(2, name="pool"),
            layers.Flatten(name="flat"),
            layers.Dense(5, name="logits"),
        ]
    )


@pytest.fixture(scope="module")
def art_class() -> Any:
    from art.estimators.classification import TensorFlowV2Classifier

    return TensorFlowV2Classifier


def both(art_class: Any, owner: Any = None) -> tuple[TensorFlowModel, Any]:
    ours = load(
        Config(backend="tensorflow", factory=owner or cnn, input_shape=(8, 8, 1), nb_classes=5, loss=ENTROPY, optimizer=ADAM)
    )
    theirs = art_class(
        owner() if owner else cnn(),
        nb_classes=5,
        input_shape=(8, 8, 1),
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(0.05),
    )
    return ours, theirs


def test_answers_are_arts(art_class: Any) -> None:
    ours, theirs = both(art_class)
    one_hot = np.eye(5, dtype=np.float32)[CLASSES]
    np.testing.assert_allclose(predict(ours, IMAGES), theirs.predict(IMAGES), **FLOAT32)
    gradient = ours.loss_gradient(IMAGES, CLASSES, training_mode=False) / 6
    np.testing.assert_allclose(gradient, theirs.loss_gradient(IMAGES, one_hot), **FLOAT32)
    for label, canonical in ((None, None), (2, np.full(6, 2)), (CLASSES, CLASSES)):
        expected = theirs.class_gradient(IMAGES, label)
        np.testing.assert_allclose(ours.class_gradient(IMAGES, canonical, training_mode=False), expected, **FLOAT32)
    assert ours.layer_names == theirs.layer_names
    for layer in (*range(4), "pool", -1):
        expected = theirs.get_activations(IMAGES, layer)
        np.testing.assert_allclose(ours.activations(IMAGES, layer, training_mode=False), expected, **FLOAT32)


def test_fit_of_whole_batches_is_arts(art_class: Any) -> None:
    ours, theirs = both(art_class)
    theirs.fit(IMAGES, CLASSES, batch_size=6, nb_epochs=4)  # One batch holds all rows, so that their order does not count.
    for _ in range(4):
        ours.train_step(IMAGES, CLASSES, training_mode=True)
    # Adam divides by the root of small numbers, which enlarges the rounding of sums in another order.
    np.testing.assert_allclose(predict(ours, IMAGES), theirs.predict(IMAGES), rtol=1e-3, atol=1e-3)


def test_art_predicts_all_rows_at_once_whatever_batch_size_says(art_class: Any) -> None:
    seen = []

    def watched() -> Any:
        owner = cnn()
        # None stands for the batch size in our graphs, which are traced once.
        return lambda x, training=False: (seen.append(x.shape[0]), owner(x))[1]

    theirs = art_class(watched(), nb_classes=5, input_shape=(8, 8, 1))
    theirs.predict(IMAGES, batch_size=2)
    assert seen == [6]
    blocks = []
    estimator = load_estimator.load(Config(backend="tensorflow", factory=cnn, input_shape=(8, 8, 1), nb_classes=5))
    for begin in range(0, 6, 2):  # As the server cuts a call of batch_size 2.
        blocks.append(estimator.predict(IMAGES[begin : begin + 2]))
    np.testing.assert_allclose(np.concatenate(blocks), theirs.predict(IMAGES), **FLOAT32)


def test_art_takes_the_top_class_of_soft_labels_where_the_loss_is_sparse(art_class: Any) -> None:
    ours, theirs = both(art_class)
    soft = np.random.default_rng(9).dirichlet(np.ones(5), size=6)
    top = soft.argmax(1)
    for call, art in ((ours.loss, theirs.compute_loss), (lambda *a, **k: ours.loss_gradient(*a, **k) / 6, theirs.loss_gradient)):
        np.testing.assert_allclose(art(IMAGES, soft), call(IMAGES, top, training_mode=False), **FLOAT32)
        assert not np.allclose(art(IMAGES, soft), call(IMAGES, soft, training_mode=False), rtol=0.1)
    entropy = keras.losses.CategoricalCrossentropy(from_logits=True, reduction=None)
    expected = entropy(soft, predict(ours, IMAGES))
    np.testing.assert_allclose(ours.loss(IMAGES, soft, training_mode=False), expected, **FLOAT32)


def test_art_has_activations_of_sequential_models_alone(art_class: Any) -> None:
    def functional() -> Any:
        whole = cnn()
        return keras.Model(whole.inputs, whole.outputs)

    ours, theirs = both(art_class, functional)
    with pytest.raises(ValueError, match="not supported for non-Sequential"):
        theirs.get_activations(IMAGES, "conv")
    assert ours.activations(IMAGES, "conv", training_mode=False).shape == (6, 6, 6, 4)
