"""TensorFlow 1 graphs against central differences and plain session code, beside eager TensorFlow in one process."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import differences
import numpy as np
import pydantic
import pytest
import safetensors.numpy
import tensorflow as tf
from conformance.case import Halve

from gradwire.backends import errors
from gradwire.backends.capabilities import Operation, capabilities
from gradwire.backends.load import load as load_estimator
from gradwire.backends.tensorflow_v1 import Config, Graph, TensorFlowV1Model, layers, load
from gradwire.backends.training import FitOptions
from gradwire.server.config.reading import parse_config

v1 = tf.compat.v1

X = np.random.default_rng(1).normal(size=(5, 6))
Y = np.array([0, 3, 1, 1, 2])
SOFT = np.random.default_rng(2).dirichlet(np.ones(4), size=5)
BINARY = np.array([0, 1, 1, 0, 1])
BINARY_SOFT = np.stack([1 - SOFT[:, 0], SOFT[:, 0]], axis=1)
# Central differences in float64 with steps of 1e-5 are good to about 1e-9 on these graphs.
CLOSE = {"rtol": 1e-6, "atol": 1e-8}

ROWS = ("float64", (None, 4))
INDICES = ("int64", (None,))
Labels = tuple[str, tuple[int | None, ...] | None]
Loss = Callable[[Any, Any], Any]


def cross_entropy(logits: Any, y: Any) -> Any:
    return tf.nn.softmax_cross_entropy_with_logits(labels=y, logits=logits)


def mean_cross_entropy(logits: Any, y: Any) -> Any:
    return tf.reduce_mean(cross_entropy(logits, y))


def sparse(logits: Any, y: Any) -> Any:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)


def dense(x: Any, units: int, name: str, **keys: Any) -> Any:
    with v1.variable_scope(name, **keys):
        initializer = v1.initializers.glorot_normal(seed=len(name))
        kernel = v1.get_variable("kernel", (x.shape[1], units), x.dtype, initializer)
        return tf.nn.bias_add(x @ kernel, v1.get_variable("bias", (units,), x.dtype, v1.initializers.constant(0.1)))


def initialised(graph: Any) -> Any:
    session = v1.Session(graph=graph)
    with graph.as_default():
        session.run(v1.global_variables_initializer())
    return session


def mlp(
    loss: Loss | None = mean_cross_entropy,
    labels: Labels = ROWS,
    nb_outputs: int = 4,
    dtype: str = "float64",
    end: Callable[[Any], Any] = lambda outputs: outputs,
    optimizer: Any = None,
    use_resource: bool = True,
    shape: tuple[int | None, ...] | None = (None, 6),
) -> Callable[[], Graph]:
    """A factory of graphs from 6 inputs to ``nb_outputs``, smooth everywhere."""

    def factory() -> Graph:
        with tf.Graph().as_default() as graph:
            x, y = v1.placeholder(dtype, shape, name="x"), v1.placeholder(*labels, name="y")
            inputs = x if shape is not None else tf.reshape(x, (-1, 6))
            hidden = tf.tanh(dense(inputs, 8, "hidden", use_resource=use_resource), name="tanh")
            outputs = end(dense(hidden, nb_outputs, "logits", use_resource=use_resource))
            value = None if loss is None else loss(outputs, y)
            train = None if optimizer is None else optimizer().minimize(tf.reduce_mean(value))
        return Graph(initialised(graph), x, outputs, labels=None if loss is None else y, loss=value, train=train)

    return factory


def config(factory: Callable[[], Any] | None = None, **keys: Any) -> Config:
    if "saved_model" not in keys and "meta_graph" not in keys:
        keys["factory"] = factory or mlp()
    return Config(backend="tensorflow_v1", **{"input_shape": (6,), "nb_classes": 4, **keys})


def model(factory: Callable[[], Any] | None = None, **keys: Any) -> TensorFlowV1Model:
    return load(config(factory, **keys))


def predict(m: TensorFlowV1Model, x: np.ndarray) -> np.ndarray:
    return m.predict(x, training_mode=False)


def own_loss(m: TensorFlowV1Model, x: np.ndarray, y: np.ndarray) -> float:
    """The session's loss of all rows together."""
    network = m._network
    return float(np.sum(network.session.run(network.loss, {network.input: x, network.labels: m._targets(y)})))


def nb_operations(m: TensorFlowV1Model) -> int:
    return len(m._network.session.graph.get_operations())


# Losses.

WEIGHTS = tf.constant([1.0, 2.0, 3.0, 0.5], tf.float64).numpy()


def with_decay(logits: Any, y: Any) -> Any:
    return mean_cross_entropy(logits, y) + 0.01 * tf.nn.l2_loss(v1.trainable_variables()[0])


LOSSES = [
    pytest.param(mean_cross_entropy, ROWS, 4, Y, id="mean"),
    pytest.param(mean_cross_entropy, ROWS, 4, SOFT, id="mean, soft"),
    pytest.param(lambda o, y: tf.reduce_mean(sparse(o, y)), INDICES, 4, Y, id="mean, indices"),
    pytest.param(lambda o, y: tf.reduce_sum(sparse(o, y)), INDICES, 4, Y, id="sum, indices"),
    pytest.param(sparse, ("int32", (None,)), 4, Y, id="rows, indices"),
    pytest.param(lambda o, y: sparse(o, y[:, 0])[:, None], ("int64", (None, 1)), 4, Y, id="a column, indices in a column"),
    pytest.param(cross_entropy, ROWS, 4, SOFT, id="rows, soft"),
    pytest.param(cross_entropy, ("int32", (None, None)), 4, Y, id="rows, one-hot integers"),
    pytest.param(lambda o, y: tf.reduce_mean((tf.nn.softmax(o) - y) ** 2), ROWS, 4, SOFT, id="brier, mean of outputs too"),
    pytest.param(
        lambda o, y: -tf.reduce_sum(y * tf.nn.log_softmax(o)) / tf.cast(tf.shape(o)[0], tf.float64), ROWS, 4, SOFT, id="by hand",
    ),
    pytest.param(lambda o, y: 3.0 * mean_cross_entropy(o, y) + tf.reduce_mean(o**2), ROWS, 4, SOFT, id="two parts"),
    pytest.param(with_decay, ROWS, 4, Y, id="mean, weight decay"),
    pytest.param(
        lambda o, y: tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=o)),
        ("float64", (None, 1)), 1, BINARY, id="one output",
    ),
    pytest.param(
        lambda o, y: tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=o[:, 0]), ("float64", (None,)), 1, BINARY_SOFT,
        id="one output, rows, soft",
    ),
    pytest.param(
        lambda o, y: tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(y, o.dtype), logits=o[:, 0])),
        INDICES, 1, BINARY, id="one output, indices",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "labels", "nb_outputs", "y"), LOSSES)
def test_rows_make_the_graphs_own_loss_and_are_what_it_is_of_each_alone(
    loss: Loss, labels: Labels, nb_outputs: int, y: np.ndarray
) -> None:
    m = model(mlp(loss, labels, nb_outputs), nb_classes=max(2, nb_outputs))
    rows = m.loss(X, y, training_mode=False)
    assert rows.shape == (5,)
    assert rows.dtype == np.float64
    reduced = rows.sum() / m.loss_divisor(y) if m.loss_reduction == "mean" else rows.sum()
    assert reduced == pytest.approx(own_loss(m, X, y), rel=1e-12)
    alone = [own_loss(m, X[row : row + 1], y[row : row + 1]) for row in range(5)]
    np.testing.assert_allclose(rows, alone, rtol=1e-12)
    np.testing.assert_allclose(m.loss_from_predictions(predict(m, X), y), rows, rtol=1e-12)


@pytest.mark.parametrize(("loss", "labels", "nb_outputs", "y"), LOSSES)
def test_loss_gradient_is_that_of_the_summed_rows(loss: Loss, labels: Labels, nb_outputs: int, y: np.ndarray) -> None:
    m = model(mlp(loss, labels, nb_outputs), nb_classes=max(2, nb_outputs))
    gradient = m.loss_gradient(X, y, training_mode=False)
    expected = differences.gradient(lambda x: m.loss(x, y, training_mode=False), X)
    np.testing.assert_allclose(gradient, expected, **CLOSE)
    assert np.abs(gradient).max() > 1e-3


def smoothed(logits: Any, y: Any) -> Any:
    return mean_cross_entropy(logits, 0.9 * y + 0.025)


def hinges(logits: Any, y: Any) -> Any:
    return tf.reduce_mean(tf.nn.relu(1 - (2 * y - 1) * logits))


def sigmoids(logits: Any, y: Any) -> Any:
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logits))


def total(logits: Any, y: Any) -> Any:
    v1.losses.sigmoid_cross_entropy(y, logits)
    return v1.losses.get_total_loss()


@pytest.mark.parametrize(
    ("loss", "plain", "labels", "y"),
    [
        (lambda o, y: v1.losses.softmax_cross_entropy(y, o, label_smoothing=0.1), smoothed, ROWS, SOFT),
        (
            lambda o, y: v1.losses.sparse_softmax_cross_entropy(y, o, weights=tf.gather(WEIGHTS, y)),
            lambda o, y: tf.reduce_mean(sparse(o, y) * tf.gather(WEIGHTS, y)),
            INDICES,
            Y,
        ),
        (lambda o, y: v1.losses.hinge_loss(y, o), hinges, ROWS, Y),
        (total, sigmoids, ROWS, SOFT),
    ],
    ids=["smoothing", "class weights", "hinge, mean of outputs too", "total"],
)
def test_losses_of_tf_losses_are_taken_row_by_row(loss: Loss, plain: Loss, labels: Labels, y: np.ndarray) -> None:
    ours, expected = model(mlp(loss, labels)), model(mlp(plain, labels))
    assert ours.loss_reduction == "mean"
    # tf.losses computes in float32, whatever the outputs are.
    close = {"rtol": 1e-5, "atol": 1e-7}
    for operation in ("loss", "loss_gradient"):
        found = getattr(ours, operation)(X, y, training_mode=False)
        np.testing.assert_allclose(found, getattr(expected, operation)(X, y, training_mode=False), **close)
    assert ours.loss(X, y, training_mode=False).mean() == pytest.approx(own_loss(ours, X, y), rel=1e-6)
    np.testing.assert_allclose(ours.loss_from_predictions(predict(ours, X), y), ours.loss(X, y, training_mode=False), rtol=1e-6)


def test_a_sum_with_weight_decay_adds_it_to_each_row_and_has_the_gradient_of_the_sum() -> None:
    m = model(mlp(lambda o, y: tf.reduce_sum(cross_entropy(o, y)) + tf.nn.l2_loss(v1.trainable_variables()[0])))
    assert m.loss_reduction == "sum"
    alone = [own_loss(m, X[row : row + 1], Y[row : row + 1]) for row in range(5)]
    np.testing.assert_allclose(m.loss(X, Y, training_mode=False), alone, rtol=1e-12)
    plain = model(mlp(lambda o, y: tf.reduce_sum(cross_entropy(o, y))))
    expected = plain.loss_gradient(X, Y, training_mode=False)
    np.testing.assert_allclose(m.loss_gradient(X, Y, training_mode=False), expected, rtol=1e-12)


@pytest.mark.parametrize("starts_at", ["zero", "random"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_how_one_number_treats_rows_is_found_out(reduction: str, starts_at: str) -> None:
    def zeroed() -> Graph:
        graph = mlp(lambda o, y: getattr(tf, f"reduce_{reduction}")(cross_entropy(o, y)))()
        with graph.session.graph.as_default():
            variables = v1.trainable_variables()
            graph.session.run(
                [v1.assign(variable, tf.zeros_like(variable)) for variable in variables] if starts_at == "zero" else []
            )
        return graph

    m = model(zeroed)
    assert m.loss_reduction == reduction
    assert any("taken out of it" in note for note in m.notes)


def test_losses_a_row_count_as_summed_unless_said() -> None:
    assert model(mlp(cross_entropy)).loss_reduction == "sum"
    assert model(mlp(cross_entropy), loss_reduction="mean").loss_reduction == "mean"


def test_loss_of_more_than_outputs_has_no_loss_of_predictions() -> None:
    def of_logits(outputs: Any, y: Any) -> Any:
        return mean_cross_entropy(outputs.op.inputs[0], y)

    m = model(mlp(of_logits, end=tf.nn.softmax))
    assert m.output_kind == "probabilities"
    assert m.loss_from_predictions is None
    expected = differences.gradient(lambda x: m.loss(x, Y, training_mode=False), X)
    np.testing.assert_allclose(m.loss_gradient(X, Y, training_mode=False), expected, **CLOSE)


def over_weights(logits: Any, y: Any) -> Any:
    return v1.losses.sparse_softmax_cross_entropy(y, logits, weights=tf.gather(WEIGHTS, y), reduction=v1.losses.Reduction.MEAN)


@pytest.mark.parametrize(("loss", "labels"), [(mean_cross_entropy, ("float64", (None, 3))), (sparse, INDICES)])
def test_labels_of_more_classes_than_the_graph_takes_are_refused_at_loading(loss: Loss, labels: Labels) -> None:
    with pytest.raises(errors.ModelConfigError, match="does not take so many") as e:
        model(mlp(loss, labels), nb_classes=5)
    assert e.value.key == "nb_classes"


@pytest.mark.parametrize(
    ("loss", "labels", "keys", "text"),
    [
        (over_weights, INDICES, {}, r"neither a mean nor a sum\. Let loss be .* or set loss_reduction"),
        (lambda o, y: tf.math.log(mean_cross_entropy(o, y)), ROWS, {}, "neither a mean nor a sum"),
        (lambda o, y: 0.0 * mean_cross_entropy(o, y), ROWS, {}, "neither a mean nor a sum"),
        (mean_cross_entropy, ROWS, {"loss_reduction": "sum"}, "cannot be derived as parts of a sum"),
        (lambda o, y: (o - y) ** 2, ROWS, {}, r"shape \(4, 4\); expected the losses of the rows"),
        (lambda o, y: tf.argmax(o, 1) + tf.argmax(y, 1), ROWS, {}, "dtype int64"),
    ],
)
def test_losses_that_are_none_of_rows_are_refused_at_loading(loss: Loss, labels: Labels, keys: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.ModelConfigError, match=text) as e:
        model(mlp(loss, labels), **keys)
    assert e.value.key == "factory"


# Labels.


@pytest.mark.parametrize("labels", [INDICES, ("int32", (None,)), ("int64", None)])
def test_soft_labels_are_refused_where_the_placeholder_takes_indices(labels: Labels) -> None:
    m = model(mlp(lambda o, y: tf.reduce_mean(sparse(o, tf.ensure_shape(y, (None,)))), labels))
    with pytest.raises(errors.InvalidLabel, match="soft.*indices or one-hot"):
        m.loss(X, SOFT, training_mode=False)
    one_hot = model().loss(X, Y, training_mode=False)
    np.testing.assert_allclose(m.loss(X, Y, training_mode=False), one_hot, rtol=1e-12)


def test_soft_labels_are_refused_where_the_placeholder_takes_integer_rows() -> None:
    with pytest.raises(errors.InvalidLabel, match="soft.*int32: one-hot rows only"):
        model(mlp(cross_entropy, ("int32", (None, 4)))).loss(X, SOFT, training_mode=False)


@pytest.mark.parametrize("labels", [ROWS, ("float64", (None, None)), ("float64", None)])
def test_floating_rows_take_soft_labels(labels: Labels) -> None:
    m = model(mlp(lambda o, y: cross_entropy(o, tf.ensure_shape(y, (None, 4))), labels))
    expected = -(SOFT * np.log(np.exp(predict(m, X)) / np.exp(predict(m, X)).sum(1, keepdims=True))).sum(1)
    np.testing.assert_allclose(m.loss(X, SOFT, training_mode=False), expected, rtol=1e-10)


def test_label_1_is_the_positive_class_of_one_output() -> None:
    m = model(
        mlp(lambda o, y: -y * tf.math.log(o) - (1 - y) * tf.math.log(1 - o), ("float64", (None, 1)), 1, end=tf.sigmoid),
        nb_classes=2,
    )
    p = predict(m, X)[:, 0]
    np.testing.assert_allclose(m.loss(X, BINARY, training_mode=False), -np.log(np.where(BINARY == 1, p, 1 - p)), rtol=1e-10)
    soft = -(BINARY_SOFT[:, 0] * np.log(1 - p) + BINARY_SOFT[:, 1] * np.log(p))
    np.testing.assert_allclose(m.loss(X, BINARY_SOFT, training_mode=False), soft, rtol=1e-10)


@pytest.mark.parametrize("labels", [("float64", (None,)), ("float64", (None, 1)), ("float64", None)])
@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_regression_targets_never_broadcast(labels: Labels, shape: tuple[int, ...]) -> None:
    def error(outputs: Any, y: Any) -> Any:
        return tf.reduce_mean(tf.abs(outputs[:, 0] - tf.reshape(y, [-1])))

    m = model(mlp(error, labels, 1), task="regression", nb_classes=1)
    y = np.arange(5.0)
    assert m.output_kind == "values"
    np.testing.assert_allclose(m.loss(X, y.reshape(shape), training_mode=False), np.abs(predict(m, X)[:, 0] - y), rtol=1e-10)
    with pytest.raises(errors.InvalidLabel, match=r"\(5, 2\)"):
        m.loss(X, np.zeros((5, 2)), training_mode=False)


# Gradients of classes, layers.


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_class_gradients_agree_with_differences(rows: int) -> None:
    m = model()
    x = X[:rows]
    expected = differences.gradient(lambda x: predict(m, x), x)
    np.testing.assert_allclose(m.class_gradient(x, None, training_mode=False), expected, **CLOSE)
    chosen = m.class_gradient(x, Y[:rows], training_mode=False)
    np.testing.assert_allclose(chosen, expected[np.arange(rows), Y[:rows]][:, None], **CLOSE)


def test_class_gradients_are_those_of_plain_session_code() -> None:
    m, plain = model(), mlp()()
    with plain.session.graph.as_default():
        columns = [v1.gradients(plain.output[:, k], plain.input)[0] for k in range(4)]
    expected = np.stack(plain.session.run(columns, {plain.input: X}), axis=1)
    np.testing.assert_allclose(m.class_gradient(X, None, training_mode=False), expected, rtol=1e-12)
    with plain.session.graph.as_default():
        (gradient,) = v1.gradients(plain.loss, plain.input)
    expected = plain.session.run(gradient, {plain.input: X, plain.labels: np.eye(4)[Y]})
    np.testing.assert_allclose(m.loss_gradient(X, Y, training_mode=False) / m.loss_divisor(Y), expected, rtol=1e-12)


@pytest.mark.parametrize("training_mode", [False, True])
def test_class_gradients_of_many_classes_come_in_parts(training_mode: bool) -> None:
    m = model(mlp(labels=("float64", (None, 70)), nb_outputs=70), nb_classes=70)
    expected = differences.gradient(lambda x: predict(m, x), X)
    before = nb_operations(m)
    for rows in (1, 2, 5):
        gradients = m.class_gradient(X[:rows], None, training_mode=training_mode)
        np.testing.assert_allclose(gradients, expected[:rows], **CLOSE)
    assert nb_operations(m) == before


@pytest.mark.parametrize("vector", [False, True])
def test_single_output_has_one_class_gradient(vector: bool) -> None:
    def loss(outputs: Any, y: Any) -> Any:
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=tf.reshape(outputs, [-1]))

    m = model(mlp(loss, ("float64", (None,)), 1, end=(lambda o: o[:, 0]) if vector else (lambda o: o)), nb_classes=2)
    assert predict(m, X).shape == (5, 1)
    expected = differences.gradient(lambda x: predict(m, x), X)
    for rows in (1, 5):
        np.testing.assert_allclose(m.class_gradient(X[:rows], None, training_mode=False), expected[:rows], **CLOSE)
    np.testing.assert_allclose(m.class_gradient(X, np.zeros(5, np.int64), training_mode=False), expected, **CLOSE)
    np.testing.assert_allclose(m.vjp(X, np.full((5, 1), 2.0), None, training_mode=False), 2 * expected[:, 0], **CLOSE)
    np.testing.assert_allclose(m.loss_from_predictions(predict(m, X), BINARY), m.loss(X, BINARY, training_mode=False), rtol=1e-12)
    with pytest.raises(errors.InvalidLabel, match="1 output"):
        m.class_gradient(X, np.ones(5, np.int64), training_mode=False)


@pytest.mark.parametrize("layer", [None, "tanh", "hidden/BiasAdd:0", "hidden/matmul", -1, 0])
def test_vjp_agrees_with_differences(layer: str | int | None) -> None:
    m = model()

    def f(x: np.ndarray) -> np.ndarray:
        return predict(m, x) if layer is None else m.activations(x, layer, training_mode=False)

    cotangent = np.random.default_rng(4).normal(size=f(X).shape)
    expected = differences.gradient(lambda x: (f(x) * cotangent).sum(1), X)
    for _ in range(2):
        np.testing.assert_allclose(m.vjp(X, cotangent, layer, training_mode=False), expected, **CLOSE)


def test_vjp_refuses_a_cotangent_of_another_shape() -> None:
    with pytest.raises(errors.InvalidShape, match=r"\(5, 3\).*\(5, 4\).*outputs"):
        model().vjp(X, np.ones((5, 3)), None, training_mode=False)
    with pytest.raises(errors.InvalidShape, match=r"\(5, 4\).*\(5, 8\).*layer 'tanh'"):
        model().vjp(X, np.ones((5, 4)), "tanh", training_mode=False)


@pytest.mark.parametrize("known", [2, None])
def test_outputs_and_layers_of_shapes_that_the_graph_does_not_tell_are_tried(known: int | None) -> None:
    def end(outputs: Any) -> Any:
        sizes = v1.placeholder_with_default([-1, 4], (known,))
        return tf.reshape(outputs, sizes, name="free")

    m = model(mlp(lambda o, y: mean_cross_entropy(tf.ensure_shape(o, (None, 4)), y), end=end))
    expected = differences.gradient(lambda x: predict(m, x), X)
    for rows in (1, 5):
        np.testing.assert_allclose(m.class_gradient(X[:rows], None, training_mode=False), expected[:rows], **CLOSE)
    for layer in (None, -1):
        np.testing.assert_allclose(m.vjp(X, np.ones((5, 4)), layer, training_mode=False), expected.sum(1), **CLOSE)
        with pytest.raises(errors.InvalidShape, match=r"\(5, 3\).*\(5, 4\)"):
            m.vjp(X, np.ones((5, 3)), layer, training_mode=False)


@pytest.mark.parametrize("free", [False, True])
def test_outputs_of_more_axes_predict_and_have_products_but_no_class_gradients(free: bool) -> None:
    def steps() -> Graph:
        with tf.Graph().as_default() as graph:
            x = v1.placeholder("float64", (None, None if free else 3, 6))
            return Graph(initialised(graph), x, tf.tanh(x[..., :2] * x[..., 2:4]))

    m = model(steps, input_shape=(-1 if free else 3, 6), nb_classes=2, task="regression")
    x = np.random.default_rng(3).normal(size=(4, 3, 6))
    assert predict(m, x).shape == (4, 3, 2)
    cotangent = np.random.default_rng(4).normal(size=(4, 3, 2))
    expected = differences.gradient(lambda x: (predict(m, x) * cotangent).sum((1, 2)), x)
    np.testing.assert_allclose(m.vjp(x, cotangent, None, training_mode=False), expected, **CLOSE)
    with pytest.raises(errors.Unsupported, match="class gradients are of outputs"):
        m.class_gradient(x, None, training_mode=False)
    with pytest.raises(errors.InvalidShape, match="cotangent"):
        m.vjp(x, np.ones((4, 2)), None, training_mode=False)


def test_layers_are_the_last_tensors_of_scopes_and_found_by_index_scope_and_name() -> None:
    m = model()
    assert m.layer_names == ["hidden/BiasAdd:0", "tanh:0", "logits/BiasAdd:0"]
    network = m._network
    tensor = network.session.graph.get_tensor_by_name("hidden/matmul:0")
    product = network.session.run(tensor, {network.input: X})
    for layer in ("hidden/matmul:0", "hidden/matmul"):
        np.testing.assert_array_equal(m.activations(X, layer, training_mode=False), product)
    for layer in ("hidden", "hidden/BiasAdd", "hidden/BiasAdd:0", 0, -3):
        np.testing.assert_allclose(m.activations(X, layer, training_mode=False), product + 0.1, rtol=1e-12)
    np.testing.assert_array_equal(m.activations(X, -1, training_mode=False), predict(m, X))


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (3, "out of range.*3 layers: hidden"),
        (-4, "out of range"),
        ("nose", "no layer 'nose'; there are hidden/BiasAdd:0"),
        ("", "no layer"),
        ("hidden/BiasAdd:7", "no layer"),
        ("x", "does not depend on the input alone"),
        ("hidden/kernel", "does not depend on the input alone"),
        ("Mean", "does not depend on the input alone"),  # The loss, which needs labels.
        ("hidden/kernel/Assign", "no layer|does not depend"),
        ("gradwire/gradients/hidden/BiasAdd_grad/BiasAddGrad", "no layer|does not depend"),
    ],
)
def test_what_is_no_layer_is_refused_with_those_that_there_are(layer: str | int, text: str) -> None:
    with pytest.raises(errors.InvalidLayer, match=text):
        model(mlp(optimizer=lambda: v1.train.GradientDescentOptimizer(0.1))).activations(X, layer, training_mode=False)


def test_layer_without_rows_in_front_is_an_error() -> None:
    m = model(mlp(end=lambda o: o + 0.0 * tf.reduce_sum(o, axis=0, name="total")))
    with pytest.raises(errors.InvalidLayer, match=r"\(4,\) for 5 rows"):
        m.activations(X, "total", training_mode=False)
    assert m.activations(X, "tanh", training_mode=False).shape == (5, 8)


def test_activations_may_be_integers_but_have_no_gradient() -> None:
    m = model(mlp(end=lambda o: o + 0.0 * tf.cast(tf.argmax(o, axis=1, name="best"), o.dtype)[:, None]))
    best = m.activations(X, "best", training_mode=False)
    assert best.dtype == np.int64
    with pytest.raises(errors.Unsupported, match="no gradient from layer 'best"):
        m.vjp(X, best, "best", training_mode=False)


# The graph.


def test_the_graph_does_not_grow_with_calls() -> None:
    m = model(optimizer_mlp())

    def every_call(rows: int) -> None:
        x, y = X[:rows], Y[:rows]
        for training_mode in (False, True):
            m.predict(x, training_mode=training_mode)
            m.loss(x, y, training_mode=training_mode)
            m.loss_gradient(x, y, training_mode=training_mode)
            m.class_gradient(x, None, training_mode=training_mode)
            m.class_gradient(x, y, training_mode=training_mode)
            m.activations(x, "tanh", training_mode=training_mode)
            m.vjp(x, np.ones((rows, 8)), "tanh", training_mode=training_mode)
            m.vjp(x, np.ones((rows, 4)), None, training_mode=training_mode)
            m.train_step(x, y, training_mode=training_mode)
        m.loss_from_predictions(np.zeros((rows, 4)), y)
        m.rollback(m.snapshot())

    every_call(5)
    before = nb_operations(m)
    for rows in (1, 2, 3, 4, 5):
        every_call(rows)
    assert nb_operations(m) == before


def test_gradients_of_tensors_that_are_no_layers_are_bounded() -> None:
    def deep(outputs: Any) -> Any:
        with tf.name_scope("deep"):
            for _ in range(40):
                outputs = tf.tanh(outputs)
        return outputs

    m = model(mlp(end=deep))
    names = [op.name for op in m._network.session.graph.get_operations() if op.name.startswith("deep/Tanh")]
    for name in names[:32]:
        m.vjp(X, np.ones((5, 4)), name, training_mode=False)
        m.activations(X, name, training_mode=False)
    with pytest.raises(errors.Unsupported, match="32 tensors .* choose one of the layers"):
        m.vjp(X, np.ones((5, 4)), names[35], training_mode=False)
    assert m.vjp(X, np.ones((5, 4)), names[0], training_mode=False).shape == (5, 6)
    assert m.vjp(X, np.ones((5, 8)), "tanh", training_mode=False).shape == (5, 6)
    for name in names:
        m.activations(X, name, training_mode=False)
    assert len(m._layers._activations) <= 64


# A branch is a function, which reference variables cannot be written in.
@pytest.mark.parametrize(("where", "use_resource"), [("beside", False), ("beside", True), ("in a branch", True)])
def test_graph_that_writes_variables_on_its_way_is_left_as_it_was(where: str, use_resource: bool) -> None:
    def counting() -> Graph:
        with tf.Graph().as_default() as graph:
            x, learning = v1.placeholder("float64", (None, 6)), v1.placeholder_with_default(False, ())
            count = v1.get_variable("count", (), tf.float64, v1.initializers.ones(), trainable=False, use_resource=use_resource)
            if where == "beside":
                with tf.control_dependencies([v1.assign_add(count, 1.0)]):
                    outputs = tf.identity(dense(x, 4, "logits"))
            else:
                scale = v1.cond(learning, lambda: tf.identity(v1.assign_add(count, 1.0)), lambda: count.read_value())
                outputs = dense(x, 4, "logits") * scale
        return Graph(initialised(graph), x, outputs, learning=learning)

    m = model(counting)
    before = m.snapshot()
    evaluated = predict(m, X)
    trained = m.predict(X, training_mode=True)
    m.class_gradient(X, None, training_mode=True)
    m.vjp(X, evaluated, None, training_mode=True)
    m.activations(X, -1, training_mode=True)
    after = m.snapshot()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    np.testing.assert_array_equal(predict(m, X), evaluated)
    if where == "in a branch":
        np.testing.assert_allclose(trained, 2 * evaluated, rtol=1e-12)


def test_answers_do_not_share_memory_with_the_model() -> None:
    def answers(of: str) -> Callable[[], Graph]:
        def factory() -> Graph:
            with tf.Graph().as_default() as graph:
                x = v1.placeholder("float64", (None, 6))
                kept = v1.get_variable("kept", (2, 4), tf.float64, v1.initializers.ones())
                return Graph(initialised(graph), x, kept.read_value() if of == "variable" else tf.ones((2, 4), tf.float64))

        return factory

    for of in ("variable", "constant"):
        m = load(config(answers(of)))
        predict(m, X[:2])[:] = 7
        np.testing.assert_array_equal(predict(m, X[:2]), np.ones((2, 4)))
        m.snapshot()["kept"][:] = 7
        np.testing.assert_array_equal(predict(m, X[:2]), np.ones((2, 4)))


@pytest.mark.parametrize("make", [lambda x: x[:, ::-1], lambda x: np.asfortranarray(x), lambda x: x.astype(">f8"), lambda x: x])
def test_any_layout_of_inputs_is_taken_without_a_warning(make: Any) -> None:
    m = model()
    x = make(X.copy())
    x.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = predict(m, x)
        gradient = m.loss_gradient(x, Y, training_mode=False)
    np.testing.assert_array_equal(outputs, predict(m, np.ascontiguousarray(x, np.float64)))
    assert gradient.flags.writeable
    assert gradient.flags.c_contiguous


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-3), ("bfloat16", 5e-2)])
def test_half_graphs_take_and_answer_float32(dtype: str, tolerance: float) -> None:
    half, full = (model(mlp(mean_cross_entropy, (d, (None, 4)), dtype=d)) for d in (dtype, "float32"))
    x = X.astype(np.float32)
    assert half.input_dtype == np.float32
    for operation, labels in (("predict", ()), ("loss", (Y,)), ("loss_gradient", (Y,))):
        ours, expected = (getattr(m, operation)(x, *labels, training_mode=False) for m in (half, full))
        assert ours.dtype == np.float32
        # Half precision has 3 (float16) or 2 (bfloat16) digits.
        np.testing.assert_allclose(ours, expected, atol=tolerance)
    assert half.snapshot().keys() == full.snapshot().keys()


@pytest.mark.parametrize("dtype", ["int32", "uint8"])
def test_integer_inputs_predict_and_have_losses_but_no_gradients(dtype: str) -> None:
    def embedded() -> Graph:
        with tf.Graph().as_default() as graph:
            x, y = v1.placeholder(dtype, (None, 7)), v1.placeholder(*INDICES)
            table = v1.get_variable("table", (11, 3), tf.float32, v1.initializers.glorot_normal(seed=1))
            logits = tf.reduce_mean(tf.gather(table, tf.cast(x, tf.int32)), axis=1)
            return Graph(initialised(graph), x, logits, labels=y, loss=tf.reduce_mean(sparse(logits, y)))

    m = model(embedded, input_shape=(7,), nb_classes=3)
    tokens = np.random.default_rng(6).integers(0, 11, size=(4, 7)).astype(m.input_dtype)
    assert m.input_dtype == np.dtype(dtype)
    assert predict(m, tokens).dtype == np.float32
    assert m.loss(tokens, Y[:4] % 3, training_mode=False).shape == (4,)
    can = capabilities(m)
    assert {Operation.PREDICT, Operation.LOSS, Operation.GET_ACTIVATIONS, Operation.CLONE} <= can
    assert not {Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT, Operation.VJP, Operation.FIT} & can


def test_no_way_back_to_the_inputs_means_no_gradients_and_not_zeros() -> None:
    for cut in (tf.stop_gradient, tf.round, lambda o: tf.cast(tf.cast(o, tf.int32), o.dtype)):
        m = model(mlp(end=cut))
        can = capabilities(m)
        assert not {Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT, Operation.VJP} & can
        assert {Operation.PREDICT, Operation.LOSS} <= can
        assert any("no way back" in note for note in m.notes)
        with pytest.raises(errors.Unsupported, match="no gradient from layer"):
            m.vjp(X, np.ones((5, 4)), -1, training_mode=False) if m.vjp else m._layers.product(layers.find(m._layers, -1))


def test_inputs_that_are_gathered_have_gradients() -> None:
    def turned() -> Graph:
        with tf.Graph().as_default() as graph:
            x = v1.placeholder("float64", (None, 6))
            outputs = dense(tf.transpose(tf.gather(tf.transpose(x), [5, 1, 3])), 4, "logits")
            return Graph(initialised(graph), x, outputs)

    m = model(turned)
    expected = differences.gradient(lambda x: predict(m, x), X)
    np.testing.assert_allclose(m.class_gradient(X, None, training_mode=False), expected, **CLOSE)


def test_capabilities_follow_from_the_graph() -> None:
    every = set(Operation)
    fit = {Operation.FIT, Operation.FIT_BATCHES}
    assert capabilities(model(optimizer_mlp())) == every
    assert capabilities(model()) == every - fit
    assert capabilities(model(mlp(loss=None))) == every - fit - {Operation.LOSS, Operation.LOSS_GRADIENT}


def optimizer_mlp(optimizer: Any = lambda: v1.train.AdamOptimizer(0.05), **keys: Any) -> Callable[[], Graph]:
    return mlp(optimizer=optimizer, **keys)


# The learning phase, and other placeholders.


def with_batch_norm(learning_dtype: str = "bool", rate: float = 0.0) -> Callable[[], Graph]:
    """Batch normalisation with moving averages that the train operation updates; dropout; float64."""

    def factory() -> Graph:
        with tf.Graph().as_default() as graph:
            x, y = v1.placeholder("float64", (None, 6)), v1.placeholder(*ROWS)
            learning = v1.placeholder(learning_dtype, ())
            is_training = tf.cast(learning, tf.bool)
            h = dense(x, 8, "hidden")
            mean, variance = tf.nn.moments(h, [0])
            moving = [v1.get_variable(name, (8,), tf.float64, v1.initializers.ones(), trainable=False) for name in ("mean", "var")]
            updates = [v1.assign(m, 0.9 * m + 0.1 * batch) for m, batch in zip(moving, (mean, variance), strict=True)]
            used = [tf.where(is_training, batch, m) for m, batch in zip(moving, (mean, variance), strict=True)]
            h = tf.tanh(tf.nn.batch_normalization(h, *used, None, None, 1e-3))
            h = tf.nn.dropout(h, rate=tf.where(is_training, tf.constant(rate, tf.float64), 0.0))
            logits = dense(h, 4, "logits")
            loss = mean_cross_entropy(logits, y)
            with tf.control_dependencies(updates):
                train = v1.train.AdamOptimizer(0.05).minimize(loss)
        return Graph(initialised(graph), x, logits, labels=y, loss=loss, train=train, learning=learning)

    return factory


@pytest.mark.parametrize("dtype", ["bool", "int32", "float32"])
def test_calls_in_training_mode_see_the_batch_and_leave_nothing_behind(dtype: str) -> None:
    m = model(with_batch_norm(dtype))
    before, evaluated = m.snapshot(), predict(m, X)
    plain = with_batch_norm()()
    fed = {plain.input: X, plain.labels: np.eye(4)[Y], plain.learning: True}
    with plain.session.graph.as_default():
        columns = [v1.gradients(plain.output[:, k], plain.input)[0] for k in range(4)]
        (loss_gradient,) = v1.gradients(plain.loss * 5, plain.input)
    for answered, expected in (
        (m.predict(X, training_mode=True), plain.session.run(plain.output, fed)),
        (m.loss_gradient(X, Y, training_mode=True), plain.session.run(loss_gradient, fed)),
        (m.class_gradient(X, None, training_mode=True), np.stack(plain.session.run(columns, fed), axis=1)),
        (m.vjp(X, np.ones((5, 4)), None, training_mode=True), sum(plain.session.run(columns, fed))),
        (m.loss(X, Y, training_mode=True).mean(), plain.session.run(plain.loss, fed)),
    ):
        np.testing.assert_allclose(answered, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        m.class_gradient(X[:2], None, training_mode=True),
        np.stack(plain.session.run(columns, {**fed, plain.input: X[:2]}), axis=1), rtol=1e-9, atol=1e-12,
    )  # fmt: skip
    after = m.snapshot()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    np.testing.assert_array_equal(predict(m, X), evaluated)
    assert not np.allclose(m.predict(X, training_mode=True), evaluated)


def with_rate(default: bool, **more: Any) -> Callable[[], Graph]:
    """Outputs scaled by the value of a placeholder of the owner's."""

    def factory() -> Graph:
        with tf.Graph().as_default() as graph:
            x = v1.placeholder("float64", (None, 6))
            scale = (
                v1.placeholder_with_default(tf.constant(1.0, tf.float64), (), name="scale")
                if default
                else v1.placeholder("float64", (), name="scale")
            )
            outputs = dense(x, 4, "logits") * scale
            given = {key: {scale if by == "tensor" else by: value} for key, (by, value) in more.items()}
        return Graph(initialised(graph), x, outputs, **given)

    return factory


@pytest.mark.parametrize("by", ["tensor", "scale", "scale:0"])
def test_other_placeholders_get_their_values_by_tensor_or_name(by: str) -> None:
    m = model(with_rate(False, feed_dict=(by, 1.0), training_feed_dict=(by, 3.0)))
    evaluated = predict(m, X)
    np.testing.assert_allclose(m.predict(X, training_mode=True), 3 * evaluated, rtol=1e-12)
    np.testing.assert_array_equal(predict(m, X), evaluated)
    default = model(with_rate(True, training_feed_dict=(by, 3.0)))
    np.testing.assert_array_equal(predict(default, X), evaluated)
    np.testing.assert_allclose(default.predict(X, training_mode=True), 3 * evaluated, rtol=1e-12)


def test_graph_without_a_learning_phase_says_so() -> None:
    assert any("no learning phase" in note for note in model().notes)
    assert not any("no learning phase" in note for note in model(with_batch_norm()).notes)


# Weights.


@pytest.mark.parametrize("use_resource", [False, True])
def test_all_variables_survive_save_and_restore(tmp_path: Path, use_resource: bool) -> None:
    m = model(optimizer_mlp(use_resource=use_resource))
    for _ in range(3):
        m.train_step(X, Y, training_mode=True)
    outputs, before = predict(m, X), m.snapshot()
    assert {"hidden/kernel", "beta1_power", "hidden/kernel/Adam_1"} <= before.keys()
    m.save(tmp_path / "w.safetensors")
    other = m.untrained_clone()
    assert not np.allclose(predict(other, X), outputs)
    other.restore(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(predict(other, X), outputs)
    # Slots of the optimizer and its scalars too: the next step is the same.
    for each in (m, other):
        each.train_step(X, Y, training_mode=True)
    np.testing.assert_array_equal(predict(other, X), predict(m, X))


def test_weights_come_from_safetensors_and_slots_need_not_be_there(tmp_path: Path) -> None:
    trained = model(optimizer_mlp())
    trained.train_step(X, Y, training_mode=True)
    kept = {name: array for name, array in trained.snapshot().items() if "Adam" not in name and "power" not in name}
    safetensors.numpy.save_file(kept, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(predict(model(optimizer_mlp(), weights=tmp_path / "w.safetensors"), X), predict(trained, X))


def test_weights_that_do_not_fit_are_named_and_change_nothing(tmp_path: Path) -> None:
    m = model()
    path, before = tmp_path / "w.safetensors", predict(m, X)
    arrays = dict(m.snapshot())
    arrays["extra"] = arrays.pop("hidden/bias")
    arrays["logits/kernel"] = np.zeros((8, 3))
    safetensors.numpy.save_file(arrays, path)
    text = r"missing: hidden/bias; unexpected: extra; of another shape: logits/kernel \(8, 3\), expected \(8, 4\)"
    for call in (lambda: m.restore(path), lambda: model(weights=path)):
        with pytest.raises(errors.ModelConfigError, match=text) as e:
            call()
        assert e.value.key == "weights"
    np.testing.assert_array_equal(predict(m, X), before)


# Training.


def test_train_steps_are_those_of_plain_session_code() -> None:
    m, plain = model(with_batch_norm()), with_batch_norm()()
    fed = {plain.input: X, plain.labels: np.eye(4)[Y], plain.learning: True}
    for _ in range(3):
        loss, _ = plain.session.run([plain.loss, plain.train], fed)
        assert m.train_step(X, Y, training_mode=True) == pytest.approx(loss, rel=1e-12)
    with plain.session.graph.as_default():
        expected = {v.op.name: plain.session.run(v) for v in v1.global_variables()}
    found = m.snapshot()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("loss", "reduction"), [(cross_entropy, "sum"), (cross_entropy, "mean"), (None, "mean")])
def test_training_tells_the_loss_as_it_is_reduced(loss: Loss | None, reduction: str) -> None:
    def factory() -> Graph:
        graph = optimizer_mlp(loss=cross_entropy)()
        return graph if loss else Graph(graph.session, graph.input, graph.output, labels=graph.labels, train=graph.train)

    m = model(factory, loss_reduction=reduction)
    before = m.loss(X, Y, training_mode=False) if loss else None
    told = m.train_step(X, Y, training_mode=True)
    assert told == (None if before is None else pytest.approx(getattr(before, reduction)(), rel=1e-12))


def test_one_snapshot_brings_back_weights_and_optimizer_any_number_of_times() -> None:
    m = model(with_batch_norm())
    m.train_step(X, Y, training_mode=True)
    snapshot, before = m.snapshot(), m.snapshot()
    after = []
    for _ in range(3):
        m.train_step(X, Y, training_mode=True)
        m.train_step(X[::-1], Y, training_mode=True)
        after.append(m.snapshot())
        m.rollback(snapshot)
        assert all(np.array_equal(array, before[name]) for name, array in m.snapshot().items())
    assert all(np.array_equal(array, after[0][name]) for later in after for name, array in later.items())
    assert not all(np.array_equal(array, before[name]) for name, array in after[0].items())


def test_a_fit_that_ends_early_or_fails_leaves_the_weights() -> None:
    estimator = load_estimator(config(optimizer_mlp()))
    before = estimator.predict(X)
    fit = estimator.fit(X, Y, FitOptions(batch_size=2, nb_epochs=5))
    for _ in range(4):
        next(fit)
    assert not np.allclose(predict(estimator.model, X), before)
    fit.close()
    np.testing.assert_array_equal(estimator.predict(X), before)

    def failing() -> Any:
        yield X, Y
        raise RuntimeError("the caller's own")

    with pytest.raises(errors.ModelFailed, match="own"):
        list(estimator.fit_batches(failing(), True))
    np.testing.assert_array_equal(estimator.predict(X), before)


def test_gradients_go_through_defences_and_standardisation() -> None:
    keys = {"preprocessing": {"mean": 0.3, "std": 0.7}, "preprocessing_defences": [Halve]}
    estimator = load_estimator(config(optimizer_mlp(), **keys))
    for y in (Y, SOFT):
        gradient = estimator.loss_gradient(X, estimator.prepare_labels(y, 5)) * 5
        expected = differences.gradient(lambda x: estimator.loss(x, estimator.prepare_labels(y, 5)), X)  # noqa: B023, called at once
        np.testing.assert_allclose(gradient, expected, **CLOSE)
    expected = differences.gradient(estimator.predict, X)
    np.testing.assert_allclose(estimator.class_gradient(X, None), expected, **CLOSE)


def test_fresh_model_is_independent_and_untrained() -> None:
    m = model(optimizer_mlp())
    before = predict(m, X)
    m.train_step(X, Y, training_mode=True)
    trained = predict(m, X)
    other = m.untrained_clone()
    np.testing.assert_array_equal(predict(other, X), before)
    other.train_step(X[::-1], Y, training_mode=True)
    np.testing.assert_array_equal(predict(m, X), trained)


def test_fresh_refuses_a_factory_that_returns_the_served_graph() -> None:
    one = mlp()()
    with pytest.raises(errors.Unsupported, match="same session or graph"):
        model(lambda: one).untrained_clone()


# Files.


def trained_graph(learning: bool = True) -> tuple[Graph, np.ndarray]:
    graph = (with_batch_norm() if learning else optimizer_mlp())()
    fed = {graph.input: X, graph.labels: np.eye(4)[Y], **({graph.learning: True} if learning else {})}
    for _ in range(5):
        graph.session.run(graph.train, fed)
    if learning:
        fed[graph.learning] = False
    return graph, graph.session.run(graph.output, fed)


def names_of(graph: Graph) -> dict[str, str]:
    parts = {part: getattr(graph, part) for part in ("input", "output", "labels", "loss", "train", "learning")}
    return {part: tensor.name for part, tensor in parts.items() if tensor is not None}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Graph, np.ndarray]:
    graph, outputs = trained_graph()
    with graph.session.graph.as_default():
        v1.saved_model.simple_save(graph.session, str(tmp_path / "m"), {"rows": graph.input}, {"scores": graph.output})
    return tmp_path / "m", graph, outputs


def test_saved_model_is_served_with_all_operations(saved: tuple[Path, Graph, np.ndarray], tmp_path: Path) -> None:
    path, graph, outputs = saved
    names = {part: name for part, name in names_of(graph).items() if part not in ("input", "output")}
    m = model(saved_model=path, tensors=names)
    np.testing.assert_array_equal(predict(m, X), outputs)
    assert capabilities(m) == set(Operation)
    expected = differences.gradient(lambda x: m.loss(x, Y, training_mode=False), X)
    np.testing.assert_allclose(m.loss_gradient(X, Y, training_mode=False), expected, **CLOSE)
    m.save(tmp_path / "w")
    m.train_step(X, Y, training_mode=True)
    assert not np.allclose(predict(m, X), outputs)
    m.restore(tmp_path / "w")
    np.testing.assert_array_equal(predict(m, X), outputs)
    other = m.untrained_clone()
    np.testing.assert_allclose(predict(other, X), predict(model(with_batch_norm()), X), rtol=1e-12)
    assert other.train_step(X, Y, training_mode=True) is not None
    np.testing.assert_array_equal(predict(m, X), outputs)


def test_paths_in_a_configuration_file_are_relative_to_it(saved: tuple[Path, Graph, np.ndarray]) -> None:
    path, graph, outputs = saved
    keys = {"backend": "tensorflow_v1", "saved_model": path.name, "feed_dict": {graph.learning.name: False}}
    content = {"models": [{"name": "m", **keys, "input_shape": [6], "nb_classes": 4}]}
    (served,) = parse_config(content, path.parent, "models.yaml").models
    assert served.model is not None
    np.testing.assert_array_equal(load_estimator(served.model).predict(X), outputs)


@pytest.mark.parametrize(
    "tensors", [{"input": "rows", "output": "scores"}, {"input": "Placeholder:0"}, {"output": "logits/BiasAdd"}]
)
def test_input_and_output_are_named_by_the_signature_or_by_tensor(
    saved: tuple[Path, Graph, np.ndarray], tensors: dict[str, str]
) -> None:
    path, graph, outputs = saved
    m = model(saved_model=path, tensors=tensors, feed_dict={graph.learning.name: False})
    np.testing.assert_array_equal(predict(m, X), outputs)
    assert not {Operation.LOSS, Operation.FIT} & capabilities(m)


def test_meta_graph_and_checkpoint_are_served_with_all_operations(tmp_path: Path) -> None:
    graph, outputs = trained_graph(learning=False)
    with graph.session.graph.as_default():
        prefix = v1.train.Saver().save(graph.session, str(tmp_path / "model"), global_step=5)
    for checkpoint in (Path(prefix), tmp_path):
        m = model(meta_graph=Path(f"{prefix}.meta"), checkpoint=checkpoint, tensors=names_of(graph))
        np.testing.assert_array_equal(predict(m, X), outputs)
    assert capabilities(m) == set(Operation)
    np.testing.assert_allclose(predict(m.untrained_clone(), X), predict(model(optimizer_mlp()), X), rtol=1e-12)
    m.train_step(X, Y, training_mode=True)
    fed = {graph.input: X, graph.labels: np.eye(4)[Y]}
    graph.session.run(graph.train, fed)
    np.testing.assert_allclose(predict(m, X), graph.session.run(graph.output, fed), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_of_a_saved_model_of_tensorflow_2_are_right_or_not_there(tmp_path: Path, dtype: Any) -> None:
    class Linear(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(np.random.default_rng(0).normal(size=(6, 4)).astype(dtype))

        @tf.function(input_signature=[tf.TensorSpec((None, 6), dtype)])
        def __call__(self, x: Any) -> Any:
            return x @ self.kernel

    module = Linear()
    tf.saved_model.save(module, str(tmp_path / "m"))
    m, x = model(saved_model=tmp_path / "m"), X.astype(dtype)
    np.testing.assert_allclose(predict(m, x), module(tf.constant(x)).numpy(), rtol=1e-6)
    if Operation.VJP in capabilities(m):
        expected = np.tile(module.kernel.numpy().sum(1), (5, 1))
        np.testing.assert_allclose(m.vjp(x, np.ones((5, 4)), None, training_mode=False), expected, rtol=1e-5)
    else:
        assert any("no way back" in note for note in m.notes)


def test_wrong_files_are_named_with_their_key(saved: tuple[Path, Graph, np.ndarray], tmp_path: Path) -> None:
    path, graph, _ = saved
    with graph.session.graph.as_default():
        prefix = v1.train.Saver().save(graph.session, str(tmp_path / "model"))
        v1.train.export_meta_graph(str(tmp_path / "bare.meta"))
        other = v1.train.Saver([v1.global_variables()[0]]).save(graph.session, str(tmp_path / "part"), write_meta_graph=False)
    (tmp_path / "bad.meta").write_bytes(b"no graph")
    fed = {"feed_dict": {graph.learning.name: False}}
    names = {"input": graph.input.name, "output": graph.output.name}
    whole = Path(f"{prefix}.meta")
    for keys, key, text in (
        ({"saved_model": tmp_path / "gone"}, "saved_model", "no saved_model.pb"),
        ({"saved_model": path, "tags": ["train"]}, "saved_model", "train"),
        ({"saved_model": path, "signature": "classify"}, "signature", "'classify'.*serving_default"),
        (
            {"saved_model": path, "tensors": {"input": "nose"}},
            "saved_model",
            "input: 'nose:0' is no tensor|input: 'nose' is no tensor",
        ),
        ({"saved_model": path}, "saved_model", "needs a value for Placeholder_2:0"),
        ({"saved_model": path, **fed, "device": "gpu:7"}, "device", "gpu:7 is not available"),
        ({"meta_graph": tmp_path / "gone.meta", "checkpoint": tmp_path}, "meta_graph", "does not exist"),
        ({"meta_graph": tmp_path / "bad.meta", "checkpoint": prefix, "tensors": names}, "meta_graph", "cannot be read"),
        ({"meta_graph": whole, "checkpoint": tmp_path / "gone", "tensors": names}, "checkpoint", "does not exist"),
        ({"meta_graph": whole, "checkpoint": other, "tensors": names}, "checkpoint", "does not fit"),
        ({"meta_graph": whole, "checkpoint": prefix}, "tensors", "input is missing"),
    ):
        with pytest.raises(errors.ModelConfigError, match=text) as e:
            model(**keys)
        assert e.value.key == key


# Configuration.


def changed(**parts: Any) -> Callable[[], Graph]:
    def factory() -> Graph:
        graph = mlp()()
        return Graph(**{**vars(graph), **parts})

    return factory


def finalised() -> Graph:
    graph = mlp()()
    graph.session.graph.finalize()
    return graph


def uninitialised() -> Graph:
    with tf.Graph().as_default() as graph:
        x = v1.placeholder("float64", (None, 6))
        outputs = dense(x, 4, "logits")
        v1.get_variable("not_needed", (3,))
    return Graph(v1.Session(graph=graph), x, outputs)


@pytest.mark.parametrize(
    ("factory", "keys", "key", "text"),
    [
        (lambda: 3, {}, "factory", "returned int; expected a gradwire.backends.tensorflow_v1.Graph"),
        (changed(session=None), {}, "factory", "session is NoneType"),
        (changed(input="nose"), {}, "factory", "input: 'nose' is no tensor of the session's graph; its placeholders are x:0, y:0"),
        (lambda: changed(input=mlp()().input)(), {}, "factory", "input: .* is no tensor of the session's graph"),
        (changed(output=None), {}, "factory", "output is None"),
        (changed(labels=None), {}, "factory", "loss and train need labels"),
        (changed(train="nose"), {}, "factory", "train: 'nose' is no operation"),
        (changed(feed_dict={"nose": 1}), {}, "factory", "feed_dict: 'nose' is no tensor"),
        (changed(feed_dict={"tanh": "text"}), {}, "factory", "'text' is no value for tanh:0"),
        (changed(feed_dict={"tanh": [1.0]}), {}, "factory", r"shape \(1,\); expected \(None, 8\)"),
        (finalised, {}, "factory", "finalized"),
        (uninitialised, {}, "factory", "variables logits/bias, logits/kernel have no value; run .*global_variables_initializer"),
        (with_rate(False), {}, "factory", "output needs a value for scale:0 too; give it in feed_dict"),
        (with_rate(False, training_feed_dict=("scale", 1.0)), {}, "factory", "give both"),
        (mlp(shape=(3, 6)), {}, "factory", "input has a fixed number of rows"),
        (mlp(labels=("float64", (4, 4))), {}, "factory", "labels has a fixed number of rows"),
        (mlp(lambda o, y: tf.reduce_mean(o * y), ("float64", ())), {}, "factory", r"labels has shape \(\)"),
        (mlp(), {"input_shape": (5,)}, "input_shape", r"\[5\] is not what the graph takes: \(None, 6\)"),
        (mlp(shape=None), {"input_shape": (5,)}, "input_shape", r"does not take a row of shape \[5\]"),
    ],
)
def test_wrong_configuration_names_its_key(factory: Any, keys: dict[str, Any], key: str, text: str) -> None:
    with pytest.raises(errors.ModelConfigError, match=text) as e:
        model(factory, **keys)
    assert e.value.key == key


def test_parts_may_be_given_by_name() -> None:
    graph = optimizer_mlp()()
    by_name = Graph(graph.session, **{**names_of(graph), "input": "x"})
    assert capabilities(model(lambda: by_name)) == set(Operation)


@pytest.mark.parametrize(
    "keys",
    [
        {"factory": None},
        {"factory": mlp(), "saved_model": "m"},
        {"meta_graph": "m.meta"},
        {"saved_model": "m", "checkpoint": "m"},
        {"factory": mlp(), "tensors": {"input": "x"}},
        {"factory": mlp(), "feed_dict": {"x": 1}},
        {"factory": mlp(), "device": "gpu"},
        {"saved_model": "m", "device": "cuda:0"},
        {"saved_model": "m", "tensors": {"nose": "x"}},
        {"factory": mlp(), "loss_reduction": "none"},
    ],
)
def test_configuration_that_makes_no_sense_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        Config(backend="tensorflow_v1", input_shape=(6,), nb_classes=4, **keys)


def test_free_sizes_are_tried_and_their_losses_told() -> None:
    def pooled() -> Graph:
        with tf.Graph().as_default() as graph:
            x, y = v1.placeholder("float64", (None, None, 3)), v1.placeholder(*ROWS)
            logits = dense(tf.tanh(tf.reduce_sum(x, axis=1)), 4, "logits")
            return Graph(initialised(graph), x, logits, labels=y, loss=mean_cross_entropy(logits, y))

    m = model(pooled, input_shape=(-1, 3))
    for size in (1, 4, 11):
        x = np.random.default_rng(size).normal(size=(5, size, 3))
        expected = differences.gradient(lambda x: m.loss(x, Y, training_mode=False), x)
        np.testing.assert_allclose(m.loss_gradient(x, Y, training_mode=False), expected, **CLOSE)


# Company.


def test_graphs_live_beside_eager_tensorflow_and_each_other() -> None:
    first, second = model(), model(optimizer_mlp())
    before = predict(first, X)
    assert tf.executing_eagerly()
    variable = tf.Variable(X)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.tanh(variable) ** 2)
    gradient = tape.gradient(total, variable).numpy()
    second.train_step(X, Y, training_mode=True)
    np.testing.assert_array_equal(predict(first, X), before)
    assert not np.allclose(predict(second, X), before)
    np.testing.assert_allclose(gradient, 2 * np.tanh(X) * (1 - np.tanh(X) ** 2), rtol=1e-9)
    assert tf.executing_eagerly()


def test_a_process_that_served_a_graph_ends_without_noise() -> None:
    code = (
        "from one_model.tensorflow_v1_nets import DENSE; from gradwire.backends.tensorflow_v1 import Config, load; "
        "model = load(Config(**DENSE)); print(model.layer_names[-1])"
    )
    tests = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], cwd=tests, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "logits/outputs:0"
    assert not re.search("Traceback|Exception ignored", ended.stderr)
