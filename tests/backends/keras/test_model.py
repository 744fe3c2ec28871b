"""Keras models against central differences, Keras itself and ART in the same process; losses are in tensorflow's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import differences
import keras
import numpy as np
import pydantic
import pytest
import tensorflow as tf

from gradwire.backends import errors
from gradwire.backends.capabilities import Operation, capabilities
from gradwire.backends.keras import Config, load
from gradwire.backends.tensorflow.model import TensorFlowModel

layers = keras.layers
X = np.random.default_rng(1).normal(size=(5, 6))
Y = np.array([0, 3, 1, 1, 2])
SOFT = np.random.default_rng(2).dirichlet(np.ones(4), size=5)
# Central differences in float64 with steps of 1e-5 are good to about 1e-9 on these models.
CLOSE = {"rtol": 1e-6, "atol": 1e-8}
EXACT = {"rtol": 1e-12, "atol": 1e-14}
WIDE = {"dtype": "float64"}
ADAM = {"path": "keras.optimizers.Adam", "args": {"learning_rate": 0.05}}


def spec(name: str, **args: Any) -> dict[str, Any]:
    return {"path": f"keras.losses.{name}", "args": args}


ENTROPY = spec("SparseCategoricalCrossentropy", from_logits=True)
ENTROPY_OF_PROBABILITIES = spec("SparseCategoricalCrossentropy")


def config(owner: Any, **keys: Any) -> Config:
    return Config(backend="keras", **{"factory": owner, "input_shape": (6,), "nb_classes": 4, "loss": ENTROPY, **keys})


def model(owner: Any, **keys: Any) -> TensorFlowModel:
    return load(config(owner, **keys))


def predict(m: TensorFlowModel, x: Any) -> Any:
    return m.predict(x, training_mode=False)


def weights_of(m: TensorFlowModel) -> dict[str, Any]:
    return {name: variable.numpy() for name, variable in m._network.variables.items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def mlp(end: str | None = None, outputs: int = 4) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6,), **WIDE),
            layers.Dense(8, activation="tanh", name="hidden", **WIDE),
            layers.Dense(outputs, activation=end, name="head", bias_initializer="random_normal", **WIDE),
        ]
    )


def softmax_layer() -> Any:
    return keras.Sequential([*mlp().layers, layers.Softmax(name="softmax", **WIDE)])


def activation_layer() -> Any:
    return keras.Sequential([*mlp().layers, layers.Activation("softmax", name="softmax", **WIDE)])


def normalised(dtype: str = "float64") -> Any:
    """A model with all layers that differ in training."""
    keras.utils.set_random_seed(0)
    penalties = {"kernel_regularizer": "l2", "activity_regularizer": "l1", "kernel_constraint": "max_norm"}
    return keras.Sequential(
        [
            keras.Input((6,), dtype=dtype),
            layers.Dense(8, name="hidden", dtype=dtype, **penalties),
            layers.BatchNormalization(name="norm", dtype=dtype),
            layers.Dropout(0.3, seed=1, name="dropout", dtype=dtype),
            layers.Dense(4, name="head", dtype=dtype),
        ]
    )


class Subclassed(keras.Model):
    """Returns several outputs, and has layers in lists and in a layer of its own."""

    def __init__(self) -> None:
        super().__init__(**WIDE)
        keras.utils.set_random_seed(0)
        self.stem = layers.Dense(6, activation="tanh", name="stem", **WIDE)
        self.block = Residual(name="block", **WIDE)
        self.heads = [layers.Dense(3, name="small", **WIDE), layers.Dense(4, activation="softmax", name="large", **WIDE)]
        self.unused = layers.Dense(2, name="unused", **WIDE)

    def call(self, x: Any) -> Any:
        h = self.block(self.stem(x))
        return [head(h) for head in self.heads]


class Residual(layers.Layer):
    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.inner = layers.Dense(6, activation="tanh", name="inner", **WIDE)

    def call(self, x: Any) -> Any:
        return x + self.inner(self.inner(x))


def branches() -> Any:
    """Model of two inputs and three outputs: the first depends on one input, the second on both, the third on the other."""
    keras.utils.set_random_seed(0)
    x, context = keras.Input((6,), name="x", **WIDE), keras.Input((3,), name="context", **WIDE)
    body = keras.Sequential([keras.Input((6,), **WIDE), layers.Dense(8, activation="tanh", name="inner", **WIDE)], name="body")
    h = body(x)
    joined = layers.Concatenate(name="joined", **WIDE)([h, layers.Dense(2, name="side", **WIDE)(context)])
    outputs = [
        layers.Dense(4, name="first", **WIDE)(h),
        layers.Dense(4, name="second", **WIDE)(joined),
        layers.Dense(4, name="last", **WIDE)(context),
    ]
    return keras.Model([x, context], outputs)


KINDS = [
    pytest.param(mlp, {}, id="sequential"),
    pytest.param(lambda: mlp("softmax"), {"loss": ENTROPY_OF_PROBABILITIES}, id="softmax"),
    pytest.param(lambda: mlp("softmax"), {"loss": ENTROPY_OF_PROBABILITIES, "use_logits": True}, id="logits of a softmax"),
    pytest.param(lambda: mlp("sigmoid"), {"loss": spec("BinaryCrossentropy"), "use_logits": True}, id="logits of sigmoids"),
    pytest.param(lambda: mlp("softmax"), {"loss": spec("MeanSquaredError"), "use_logits": True}, id="squared error of a softmax"),
    pytest.param(branches, {"output_layer": 0}, id="first output"),
    pytest.param(branches, {"output_layer": 1, "other_inputs": {"context": [1.0, -1.0, 0.5]}}, id="second output"),
    pytest.param(Subclassed, {"output_layer": 1, "loss": ENTROPY_OF_PROBABILITIES}, id="subclassed"),
    pytest.param(normalised, {}, id="normalised"),
]


@pytest.mark.parametrize(("owner", "keys"), KINDS)
@pytest.mark.parametrize("y", [Y, SOFT], ids=["indices", "soft"])
def test_loss_gradient_is_that_of_the_loss(owner: Any, keys: dict[str, Any], y: Any) -> None:
    m = model(owner, **keys)
    gradient = m.loss_gradient(X, y, training_mode=False)
    expected = differences.gradient(lambda x: m.loss(x, y, training_mode=False), X)
    np.testing.assert_allclose(gradient, expected, **CLOSE)
    assert np.abs(gradient).max() > 1e-3
    rows = m.loss_from_predictions(predict(m, X), y)
    # Keras clips probabilities by 1e-7 where it does not see their logits.
    np.testing.assert_allclose(rows, m.loss(X, y, training_mode=False), rtol=1e-5)


@pytest.mark.parametrize(("owner", "keys"), KINDS)
def test_class_gradients_and_vjps_are_those_of_the_outputs(owner: Any, keys: dict[str, Any]) -> None:
    m = model(owner, **keys)
    expected = differences.gradient(lambda x: predict(m, x), X)
    for n in (1, 5):
        np.testing.assert_allclose(m.class_gradient(X[:n], None, training_mode=False), expected[:n], **CLOSE)
    chosen = m.class_gradient(X, Y, training_mode=False)
    np.testing.assert_allclose(chosen, expected[np.arange(5), Y][:, None], **CLOSE)
    product = np.einsum("nk,nki->ni", SOFT, expected)
    np.testing.assert_allclose(m.vjp(X, SOFT, None, training_mode=False), product, **CLOSE)


def test_nothing_is_traced_again_whatever_the_number_of_rows() -> None:
    m = model(normalised, optimizer=ADAM)

    def every_operation(n: int) -> None:
        x, y, soft = np.resize(X, (n, 6)), np.resize(Y, n), np.resize(SOFT, (n, 4))
        m.loss_from_predictions(predict(m, x), y)
        m.loss_gradient(x, y, training_mode=False)
        m.class_gradient(x, None, training_mode=False)
        m.class_gradient(x, y, training_mode=False)
        m.vjp(x, soft, None, training_mode=False)
        m.activations(x, "norm", training_mode=False)
        m.train_step(x, y, training_mode=True)

    for n in (1, 3):  # Gradients of all outputs have one graph for few rows and one for many.
        every_operation(n)
    before = m._graphs.traces()
    for n in range(1, 129, 7):
        every_operation(n)
    assert m._graphs.traces() == before == len(m._graphs._made)
    assert not m.notes


# Outputs.


@pytest.mark.parametrize("owner", [lambda: mlp("softmax"), softmax_layer, activation_layer])
def test_use_logits_takes_what_is_before_the_last_softmax(owner: Any) -> None:
    logits, probabilities = (
        model(owner, use_logits=True, loss=ENTROPY_OF_PROBABILITIES),
        model(owner, loss=ENTROPY_OF_PROBABILITIES),
    )
    bare = model(mlp)
    np.testing.assert_allclose(predict(logits, X), predict(bare, X), **EXACT)
    np.testing.assert_allclose(tf.nn.softmax(predict(logits, X)), predict(probabilities, X), **EXACT)
    np.testing.assert_allclose(logits.loss(X, Y, training_mode=False), probabilities.loss(X, Y, training_mode=False), **EXACT)
    assert (logits.output_kind, probabilities.output_kind) == ("logits", "probabilities")
    assert "logits before" in logits.notes[0]


def test_use_logits_of_one_output_is_that_of_its_sigmoid() -> None:
    keys: dict[str, Any] = {"nb_classes": 2, "loss": spec("BinaryCrossentropy")}
    logits, probabilities = (model(lambda: mlp("sigmoid", 1), use_logits=use, **keys) for use in (True, None))
    np.testing.assert_allclose(tf.sigmoid(predict(logits, X)), predict(probabilities, X), **EXACT)
    y = np.array([0, 1, 1, 0, 1])
    np.testing.assert_allclose(logits.loss(X, y, training_mode=False), probabilities.loss(X, y, training_mode=False), **EXACT)


@pytest.mark.parametrize(
    ("owner", "keys", "kind"),
    [
        (mlp, {}, "logits"),
        (mlp, {"use_logits": True, "loss": None}, "logits"),
        (mlp, {"use_logits": False}, "probabilities"),
        (mlp, {"loss": None}, "logits"),
        (lambda: mlp("softmax"), {"loss": None}, "probabilities"),
        (mlp, {"loss": spec("MeanSquaredError"), "task": "regression"}, "values"),
        (mlp, {"output": "probabilities"}, "probabilities"),
    ],
)
def test_kind_of_outputs_is_seen_unless_said(owner: Any, keys: dict[str, Any], kind: str) -> None:
    assert model(owner, **keys).output_kind == kind


def test_one_of_several_outputs_is_served_with_the_other_inputs_constant() -> None:
    whole, context = branches(), np.array([1.0, -1.0, 0.5])
    expected = [each.numpy() for each in whole([X, np.tile(context, (5, 1))])]
    np.testing.assert_allclose(predict(model(branches), X), expected[0], **EXACT)
    second = model(branches, output_layer=1, other_inputs={"context": list(context)})
    np.testing.assert_allclose(predict(second, X), expected[1], **EXACT)
    assert second.layer_names == ["body", "side", "joined", "second"]
    last = model(branches, input_layer=1, output_layer=2, input_shape=(3,))
    np.testing.assert_allclose(predict(last, context[None]), expected[2][:1], **EXACT)
    np.testing.assert_allclose(predict(model(Subclassed, output_layer=0, nb_classes=3), X), Subclassed()(X)[0], **EXACT)


@pytest.mark.parametrize(
    ("owner", "keys", "key", "text"),
    [
        (branches, {"output_layer": 3}, "output_layer", "is 3; the model has 3"),
        (branches, {"input_layer": 2}, "input_layer", "is 2; the model has 2"),
        (branches, {"output_layer": -1}, "output_layer", "is -1"),
        (Subclassed, {"output_layer": 2}, "output_layer", "is 2; the model has 2"),
        (branches, {"output_layer": 1}, "other_inputs", r"output 1 does not depend on input 0 \(x\) alone.*context"),
        (branches, {"output_layer": 1, "other_inputs": {"nose": 1.0}}, "other_inputs", "nose: .* are: context"),
        (branches, {"output_layer": 1, "other_inputs": {"context": [1.0, 2.0]}}, "other_inputs", r"context has rows \(3,\)"),
        (mlp, {"other_inputs": {"nose": 1.0}}, "other_inputs", "are: none"),
    ],
)
def test_inputs_and_outputs_that_are_not_there_are_named(owner: Any, keys: dict[str, Any], key: str, text: str) -> None:
    with pytest.raises(errors.ModelConfigError, match=text) as e:
        model(owner, **keys)
    assert e.value.key == key


# Layers.


def test_layers_of_a_functional_model_are_found_by_index_and_by_path() -> None:
    m, whole = model(branches), branches()
    assert m.layer_names == ["body", "first"]
    inner = whole.get_layer("body")(X)
    for layer in ("body", 0, "body/inner"):
        np.testing.assert_allclose(m.activations(X, layer, training_mode=False), inner, **EXACT)
    np.testing.assert_allclose(m.activations(X, -1, training_mode=False), predict(m, X), **EXACT)
    cotangent = np.random.default_rng(4).normal(size=(5, 8))
    expected = differences.gradient(lambda x: (m.activations(x, "body/inner", training_mode=False) * cotangent).sum(1), X)
    np.testing.assert_allclose(m.vjp(X, cotangent, "body/inner", training_mode=False), expected, **CLOSE)


def test_layers_of_a_subclassed_model_are_found_and_left_as_they_were() -> None:
    m, owner = model(Subclassed, output_layer=1), Subclassed()
    assert m.layer_names == ["stem", "block", "small", "large", "unused"]
    stem = owner.stem(X)
    expected = {"stem": stem, "block": owner.block(stem), "block/inner": owner.block.inner(owner.block.inner(stem))}
    for name, value in expected.items():
        np.testing.assert_allclose(m.activations(X, name, training_mode=False), value, **EXACT)
    for layer, text in (("unused", "not called"), ("inner", "e.g. block/inner"), (5, "stem, block"), (-6, "5 layers")):
        with pytest.raises(errors.InvalidLayer, match=text):
            m.activations(X, layer, training_mode=False)
    assert not any("call" in vars(layer) for layer in m._network.owner._flatten_layers())


def test_a_cell_inside_a_recurrent_layer_is_not_to_be_had() -> None:
    m = model(recurrent, input_shape=(7, 3))
    x = np.random.default_rng(5).normal(size=(3, 7, 3))
    assert m.activations(x, "gru", training_mode=False).shape == (3, 5)
    with pytest.raises(errors.InvalidLayer, match="inside a loop"):
        m.activations(x, "gru/cell", training_mode=False)
    expected = differences.gradient(lambda x: m.loss(x, Y[:3], training_mode=False), x)
    np.testing.assert_allclose(m.loss_gradient(x, Y[:3], training_mode=False), expected, **CLOSE)


def recurrent() -> Any:
    keras.utils.set_random_seed(5)
    gru = layers.RNN(layers.GRUCell(5, name="cell", **WIDE), name="gru", **WIDE)
    return keras.Sequential([keras.Input((7, 3), **WIDE), gru, layers.Dense(4, name="head", **WIDE)])


# Modes and dtypes.


def test_calls_in_training_mode_leave_nothing_behind() -> None:
    m = model(normalised, optimizer=ADAM)
    before, evaluated = weights_of(m), predict(m, X)
    trained = m.predict(X, training_mode=True)
    m.loss_gradient(X, Y, training_mode=True)
    m.class_gradient(X, None, training_mode=True)
    m.activations(X, 0, training_mode=True)
    assert not np.allclose(trained, evaluated)
    assert same(weights_of(m), before)
    np.testing.assert_array_equal(predict(m, X), evaluated)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16"])
def test_half_precision_takes_and_answers_float32(policy: str) -> None:
    def owner(dtype: str) -> Any:
        keras.utils.set_random_seed(0)
        made = keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="tanh", dtype=dtype), layers.Dense(4, dtype=dtype)])
        # Keras draws other numbers in another precision.
        made.set_weights(mlp().get_weights())
        return made

    # Not Adam: 0.999 is 1 in bfloat16, and then it stands still.
    sgd = {"path": "keras.optimizers.SGD", "args": {"learning_rate": 0.1}}
    half, full = model(lambda: owner(policy), optimizer=sgd), model(lambda: owner("float32"), optimizer=sgd)
    x = X.astype("f4")
    for call in (predict, lambda m, x: m.loss_gradient(x, Y, training_mode=False)):
        assert call(half, x).dtype == np.float32
        # bfloat16 has 2 digits.
        np.testing.assert_allclose(call(half, x), call(full, x), atol=5e-2)
    assert "float16" in half.notes[0]
    first = half.train_step(x, Y, training_mode=True)
    assert first == pytest.approx(full.train_step(x, Y, training_mode=True), rel=5e-2)
    assert half.train_step(x, Y, training_mode=True) < first


def test_integer_inputs_predict_and_have_losses_but_no_gradients() -> None:
    def owner() -> Any:
        return keras.Sequential(
            [keras.Input((7,), dtype="int32"), layers.Embedding(11, 4), layers.GlobalAveragePooling1D(), layers.Dense(4)]
        )

    m = model(owner, input_shape=(7,))
    tokens = np.random.default_rng(6).integers(0, 11, size=(4, 7))
    assert m.input_dtype == np.int64
    assert m.loss(tokens, Y[:4], training_mode=False).shape == (4,)
    assert not {Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT, Operation.VJP} & capabilities(m)


def test_rows_of_any_length_are_taken_by_one_graph() -> None:
    def owner() -> Any:
        keras.utils.set_random_seed(5)
        return keras.Sequential([keras.Input((None, 3), **WIDE), layers.GRU(5, **WIDE), layers.Dense(4, name="head", **WIDE)])

    m = model(owner, input_shape=(-1, 3))
    for steps in (1, 4, 9):
        x = np.random.default_rng(steps).normal(size=(2, steps, 3))
        expected = differences.gradient(lambda x: m.loss(x, Y[:2], training_mode=False), x)
        np.testing.assert_allclose(m.loss_gradient(x, Y[:2], training_mode=False), expected, **CLOSE)
    assert m._graphs.traces() == len(m._graphs._made)


def test_a_model_without_an_input_is_built_by_its_first_row() -> None:
    def owner() -> Any:
        keras.utils.set_random_seed(0)
        return keras.Sequential([layers.Dense(8, activation="tanh", **WIDE), layers.Dense(4, **WIDE)])

    m = model(owner)
    assert m.input_dtype == np.float64
    expected = differences.gradient(lambda x: m.loss(x, Y, training_mode=False), X)
    np.testing.assert_allclose(m.loss_gradient(X, Y, training_mode=False), expected, **CLOSE)
    with pytest.raises(errors.ModelConfigError, match=r"row of shape \[5\]") as e:
        model(mlp, input_shape=(5,))
    assert e.value.key == "input_shape"


# Files.


def test_a_keras_file_is_a_model(tmp_path: Path) -> None:
    theirs = normalised()
    theirs.save(tmp_path / "m.keras")
    m = model(None, weights=tmp_path / "m.keras", optimizer=ADAM)
    assert capabilities(m) == set(Operation)
    np.testing.assert_allclose(predict(m, X), theirs(X), **EXACT)
    other = m.untrained_clone()
    assert not np.array_equal(predict(other, X), predict(m, X))
    assert other.layer_names == m.layer_names


def test_code_in_a_file_runs_only_if_it_is_trusted(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((6,), **WIDE), *mlp().layers, layers.Lambda(lambda x: 2 * x, **WIDE)]).save(tmp_path / "m.keras")
    with pytest.raises(errors.ModelConfigError, match="Python code.*trust_pickle: true") as e:
        model(None, weights=tmp_path / "m.keras")
    assert e.value.key == "weights"
    m = model(None, weights=tmp_path / "m.keras", trust_pickle=True)
    np.testing.assert_allclose(predict(m, X), 2 * mlp()(X), **EXACT)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_an_old_file_needs_trust_because_it_is_read_without_safe_mode(tmp_path: Path) -> None:
    mlp().save(tmp_path / "m.h5")
    with pytest.raises(errors.ModelConfigError, match="trust_pickle: true"):
        model(None, weights=tmp_path / "m.h5")
    np.testing.assert_allclose(predict(model(None, weights=tmp_path / "m.h5", trust_pickle=True), X), mlp()(X), **EXACT)


@pytest.mark.parametrize("name", ["w.weights.h5", "w.keras", "w.safetensors"])
def test_a_factory_takes_weights_in_each_format(tmp_path: Path, name: str) -> None:
    trained = model(normalised, optimizer=ADAM)
    trained.train_step(X, Y, training_mode=True)
    if name.endswith(".safetensors"):
        trained.save(tmp_path / name)
    elif name.endswith(".h5"):
        trained._network.owner.save_weights(tmp_path / name)
    else:
        trained._network.owner.save(tmp_path / name)
    np.testing.assert_array_equal(predict(model(normalised, weights=tmp_path / name), X), predict(trained, X))


@pytest.mark.parametrize(
    ("factory", "name", "text"),
    [
        (mlp, "gone.weights.h5", "does not exist"),
        (mlp, "gone.safetensors", "does not exist"),
        (mlp, "bad.weights.h5", "does not fit"),
        (mlp, "bad.safetensors", "not a readable"),
        (mlp, "w.pt", "ends in '.pt'; expected one of .weights.h5"),
        (None, "gone.keras", "does not exist"),
        (None, "bad.keras", "cannot be read"),
        (None, "w.safetensors", "not a .keras file"),
        (None, "folder", "backend: tensorflow"),
    ],
)
def test_unreadable_files_are_a_configuration_error(tmp_path: Path, factory: Any, name: str, text: str) -> None:
    if name == "folder":
        (tmp_path / name).mkdir()
    elif not name.startswith("gone"):
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(errors.ModelConfigError, match=text) as e:
        model(factory, weights=tmp_path / name)
    assert e.value.key == "weights"


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    mlp(outputs=3).save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(errors.ModelConfigError, match="does not fit"):
        model(mlp, weights=tmp_path / "w.weights.h5")


def test_versions_do_not_depend_on_how_keras_numbers_its_layers(tmp_path: Path) -> None:
    def unnamed() -> Any:
        return keras.Sequential([keras.Input((6,)), layers.Dense(8), layers.BatchNormalization(), layers.Dense(4)])

    m = model(unnamed, optimizer=ADAM)
    x = X.astype("f4")
    m.train_step(x, Y, training_mode=True)
    m.save(tmp_path / "w.safetensors")
    other = model(unnamed)
    assert other.layer_names != m.layer_names
    other.restore(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(predict(other, x), predict(m, x))


# Training.


def test_train_steps_are_those_of_keras() -> None:
    """Fits with regularisation, constraints, dropout and running statistics."""
    # In float32, because Keras cannot add an activity regularisation in float64.
    m, theirs, x = model(lambda: normalised("float32"), optimizer=ADAM), normalised("float32"), X.astype("f4")
    theirs.compile(optimizer=keras.optimizers.Adam(0.05), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for step in range(3):
        told = theirs.train_on_batch(x, Y, return_dict=True)["loss"]
        ours = m.train_step(x, Y, training_mode=True)
        if step == 0:  # Keras tells the mean over all steps.
            assert ours == pytest.approx(float(told), rel=1e-6)
    # Adam divides by the root of small numbers, which enlarges roundings.
    np.testing.assert_allclose(predict(m, x), theirs(x), rtol=1e-3, atol=1e-4)


def test_what_a_model_is_compiled_with_is_its_loss_and_optimizer() -> None:
    def compiled() -> Any:
        owner = branches()
        entropy = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
        owner.compile(optimizer=keras.optimizers.SGD(0.1), loss={"first": "mse", "second": entropy, "last": "mse"})
        return owner

    first = model(compiled, loss=None)
    assert (first.loss_name, capabilities(first)) == ("mean_squared_error", set(Operation))
    np.testing.assert_allclose(first.loss(X, Y, training_mode=False), ((predict(first, X) - np.eye(4)[Y]) ** 2).mean(1), **EXACT)
    second = model(compiled, loss=None, output_layer=1, other_inputs={"context": 0.0})
    assert second.loss_name == "CategoricalCrossentropy"
    expected = differences.gradient(lambda x: second.loss(x, Y, training_mode=False), X)
    np.testing.assert_allclose(second.loss_gradient(X, Y, training_mode=False), expected, **CLOSE)
    before = second.loss(X, Y, training_mode=False).sum()
    second.train_step(X, Y, training_mode=True)
    assert second.loss(X, Y, training_mode=False).sum() < before
    assert model(compiled, loss=ENTROPY).loss_name == "SparseCategoricalCrossentropy"


def test_what_the_owner_froze_is_not_trained() -> None:
    def frozen() -> Any:
        owner = normalised()
        owner.get_layer("hidden").trainable = False
        owner.get_layer("norm").trainable = False
        return owner

    m = model(frozen, optimizer=ADAM)
    before = weights_of(m)
    m.train_step(X, Y, training_mode=True)
    after = weights_of(m)
    assert {name for name in after if not np.array_equal(after[name], before[name])} == {"6.kernel", "7.bias"}


def test_one_snapshot_brings_back_weights_optimizer_and_seeds() -> None:
    m = model(normalised, optimizer=ADAM)
    m.train_step(X, Y, training_mode=True)
    snapshot, before = m.snapshot(), weights_of(m)
    after = []
    for _ in range(3):
        m.train_step(X, Y, training_mode=True)
        m.train_step(X[::-1], Y, training_mode=True)
        after.append(weights_of(m))
        m.rollback(snapshot)
        assert same(weights_of(m), before)
    # With another optimizer state, or another dropout, the same steps would end elsewhere.
    assert all(same(later, after[0]) for later in after)


def test_fresh_model_is_independent_and_has_the_same_operations() -> None:
    m = model(branches, optimizer=ADAM, output_layer=1, other_inputs={"context": 1.0})
    other, before = m.untrained_clone(), predict(m, X)
    other.train_step(X, Y, training_mode=True)
    assert not np.array_equal(predict(other, X), before)
    np.testing.assert_array_equal(predict(m, X), before)
    always = mlp()
    with pytest.raises(errors.Unsupported, match="same model"):
        model(lambda: always).untrained_clone()


# Configuration.


@pytest.mark.parametrize(
    ("owner", "keys", "key", "text"),
    [
        (lambda: 3, {}, "factory", "returned int; expected a keras.Model"),
        (mlp, {"loss": None, "optimizer": ADAM}, "optimizer", "needs loss, which a model is fitted to"),
        (mlp, {"loss": spec("Nothing")}, "loss", "Nothing"),
        (mlp, {"optimizer": {"path": "keras.losses.Huber"}}, "optimizer", "expected a keras.optimizers"),
        (mlp, {"device": "gpu:63"}, "device", "gpu:63 is not available"),
    ],
)
def test_wrong_configuration_names_its_key(owner: Any, keys: dict[str, Any], key: str, text: str) -> None:
    with pytest.raises(errors.ModelConfigError, match=text) as e:
        model(owner, **keys)
    assert e.value.key == key


def test_there_must_be_a_factory_or_a_file() -> None:
    with pytest.raises(pydantic.ValidationError, match="needs factory or weights"):
        config(None)


ANOTHER_BACKEND = """
from gradwire.backends import errors, keras
try:
    keras.load(keras.Config(backend="keras", factory="keras:Sequential", input_shape=[6], nb_classes=4))
except errors.ModelConfigError as e:
    print(e)
"""


def test_keras_on_another_framework_is_refused() -> None:
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", ANOTHER_BACKEND], env=environment, capture_output=True, text=True, check=True)
    assert "Keras runs on jax" in done.stdout
    assert "KERAS_BACKEND=tensorflow" in done.stdout


# Parity with ART.

IMAGES = np.random.default_rng(8).random((6, 8, 8, 1)).astype(np.float32)
CLASSES = np.array([0, 4, 2, 2, 1, 3])
ONE_HOT = np.eye(5, dtype=np.float32)[CLASSES]
# The same operations in float32, in another order where rows are repeated.
FLOAT32 = {"rtol": 1e-4, "atol": 1e-6}


def cnn() -> Any:
    keras.utils.set_random_seed(0)
    owner = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.MaxPooling2D(2, name="pool"),
            layers.Flatten(name="flat"),
            layers.Dense(5, activation="softmax", name="scores"),
        ]
    )
    owner.compile(optimizer=keras.optimizers.Adam(0.05), loss="categorical_crossentropy")
    return owner


@pytest.fixture(scope="module")
def art_class() -> Any:
    from art.estimators.classification import KerasClassifier

    return KerasClassifier


def both(art_class: Any, owner: Any = cnn) -> tuple[TensorFlowModel, Any]:
    return model(owner, input_shape=(8, 8, 1), nb_classes=5, loss=None), art_class(owner())


def test_class_gradients_and_losses_are_arts(art_class: Any) -> None:
    ours, theirs = both(art_class)
    np.testing.assert_allclose(ours.loss(IMAGES, CLASSES, training_mode=False), theirs.compute_loss(IMAGES, ONE_HOT), **FLOAT32)
    for label, canonical in ((None, None), (2, np.full(6, 2)), (CLASSES, CLASSES)):
        expected = theirs.class_gradient(IMAGES, label)
        np.testing.assert_allclose(ours.class_gradient(IMAGES, canonical, training_mode=False), expected, **FLOAT32)


def test_art_sums_keras_loss_gradients_where_the_loss_is_a_mean(art_class: Any) -> None:
    ours, theirs = both(art_class)
    gradient = ours.loss_gradient(IMAGES, CLASSES, training_mode=False)
    np.testing.assert_allclose(theirs.loss_gradient(IMAGES, ONE_HOT), gradient, **FLOAT32)
    # What a caller gets is that of the mean, as from every other framework: see `Estimator.loss_gradient`.
    assert (ours.loss_reduction, ours.loss_divisor(CLASSES)) == ("mean", 6)
    with tf.GradientTape() as tape:
        x = tf.constant(IMAGES)
        tape.watch(x)
        loss = keras.losses.CategoricalCrossentropy()(ONE_HOT, cnn()(x))
    np.testing.assert_allclose(gradient / 6, tape.gradient(loss, x), **FLOAT32)


def test_art_cannot_fit_keras_models_with_a_sparse_loss(art_class: Any) -> None:
    def sparse() -> Any:
        owner = cnn()
        owner.compile(optimizer=keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy")
        return owner

    ours, theirs = both(art_class, sparse)
    with pytest.raises(ValueError, match="rank"):
        theirs.fit(IMAGES, ONE_HOT, nb_epochs=1)
    before = ours.loss(IMAGES, CLASSES, training_mode=False).mean()
    assert ours.train_step(IMAGES, CLASSES, training_mode=True) == pytest.approx(before, rel=1e-5)
    assert ours.loss(IMAGES, CLASSES, training_mode=False).mean() < before


def test_art_cannot_call_keras_models_of_several_inputs(art_class: Any) -> None:
    owner = branches()
    owner.compile(loss="mse")
    theirs = art_class(owner, input_layer=0, output_layer=0)
    with pytest.raises(ValueError, match="expects 2"):
        theirs.class_gradient(X, None)
    m = model(branches)
    expected = differences.gradient(lambda x: predict(m, x), X)
    np.testing.assert_allclose(m.class_gradient(X, None, training_mode=False), expected, **CLOSE)


def test_art_leaves_the_output_out_of_the_layers_of_keras(art_class: Any) -> None:
    ours, theirs = both(art_class)
    assert ours.layer_names == [*theirs.layer_names, "scores"]
    for layer in (0, 1, 2, "flat"):
        expected = theirs.get_activations(IMAGES, layer, batch_size=6)
        np.testing.assert_allclose(ours.activations(IMAGES, layer, training_mode=False), expected, **FLOAT32)
    np.testing.assert_allclose(ours.activations(IMAGES, -1, training_mode=False), predict(ours, IMAGES), **FLOAT32)
