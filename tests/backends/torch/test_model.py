"""Torch models against central differences, plain torch and ART in the same process."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import differences
import numpy as np
import pydantic
import pytest
import safetensors.torch
import torch
from torch import nn

import models
from gradwire.backends import errors
from gradwire.backends.capabilities import Operation, capabilities
from gradwire.backends.torch import Config, TorchModel, load

X = np.random.default_rng(1).normal(size=(5, 6))
Y = np.array([0, 3, 1, 1, 2])
SOFT = np.random.default_rng(2).dirichlet(np.ones(4), size=5)
# Central differences in float64 with steps of 1e-5 are good to about 1e-9 on these models.
CLOSE = {"rtol": 1e-6, "atol": 1e-8}


def config(factory: str = "mlp", factory_args: dict[str, Any] | None = None, **keys: Any) -> Config:
    given: dict[str, Any] = {"input_shape": (6,), "nb_classes": 4, "loss": "torch.nn.CrossEntropyLoss", **keys}
    return Config(backend="torch", factory={"path": f"models:{factory}", "args": factory_args or {}}, **given)


def model(factory: str = "mlp", factory_args: dict[str, Any] | None = None, **keys: Any) -> TorchModel:
    return load(config(factory, factory_args, **keys))


def loss_spec(name: str, **args: Any) -> dict[str, Any]:
    return {"path": f"torch.nn.{name}", "args": args}


def predict(m: TorchModel, x: np.ndarray) -> np.ndarray:
    return m.predict(x, training_mode=False)


WEIGHT = [1.0, 2.0, 3.0, 0.5]
LOSSES = [
    pytest.param("", loss_spec("CrossEntropyLoss"), 4, Y, id="cross entropy"),
    pytest.param("", loss_spec("CrossEntropyLoss"), 4, SOFT, id="cross entropy, soft"),
    pytest.param(
        "", loss_spec("CrossEntropyLoss", weight=WEIGHT, label_smoothing=0.1), 4, Y, id="cross entropy, weights, smoothing"
    ),
    pytest.param("", loss_spec("CrossEntropyLoss", weight=WEIGHT), 4, SOFT, id="cross entropy, weights, soft"),
    pytest.param("", loss_spec("CrossEntropyLoss", weight=WEIGHT, ignore_index=1), 4, Y, id="cross entropy, weights, ignored"),
    pytest.param("", loss_spec("CrossEntropyLoss", reduction="sum"), 4, Y, id="cross entropy, sum"),
    pytest.param("LogSoftmax", loss_spec("NLLLoss", weight=WEIGHT, ignore_index=1), 4, Y, id="nll, weights, ignored"),
    pytest.param("", loss_spec("MultiMarginLoss", weight=WEIGHT), 4, Y, id="margin, weights"),
]


@pytest.mark.parametrize(("end", "loss", "nb_outputs", "y"), LOSSES)
def test_rows_sum_to_torchs_own_loss_over_the_divisor(end: str, loss: dict[str, Any], nb_outputs: int, y: np.ndarray) -> None:
    m = model(factory_args={"end": end}, loss=loss)
    args = {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in loss["args"].items()}
    own = getattr(nn, m.loss_name)(**args)(models.mlp(end=end)(torch.from_numpy(X)), torch.from_numpy(y)).item()
    rows = m.loss(X, y, training_mode=False)
    assert rows.shape == (5,)
    total = rows.sum() / m.loss_divisor(y) if m.loss_reduction == "mean" else rows.sum()
    assert total == pytest.approx(own, rel=1e-12)
    assert m.loss_divisor(y) == pytest.approx(m.loss_divisor(y[:2]) + m.loss_divisor(y[2:]), rel=1e-12)
    np.testing.assert_array_equal(m.loss_from_predictions(predict(m, X), y), rows)


BINARY = np.array([0, 1, 1, 0, 1])
BINARY_SOFT = np.stack([1 - SOFT[:, 0], SOFT[:, 0]], axis=1)


@pytest.mark.parametrize(
    ("end", "loss", "nb_outputs", "y"),
    [
        *LOSSES,
        pytest.param("LogSoftmax", loss_spec("NLLLoss", weight=WEIGHT), 4, SOFT, id="nll, soft"),
        pytest.param("Sigmoid", loss_spec("BCELoss"), 1, BINARY, id="bce"),
        pytest.param("Sigmoid", loss_spec("BCELoss"), 1, BINARY_SOFT, id="bce, soft"),
        pytest.param("", loss_spec("BCEWithLogitsLoss", pos_weight=[3.0]), 1, BINARY, id="bce of logits, positive weight"),
        pytest.param("", loss_spec("BCEWithLogitsLoss"), 4, SOFT, id="bce of logits, an output a class"),
        pytest.param("", loss_spec("MSELoss"), 4, Y, id="squared error of one-hot rows"),
        pytest.param("LogSoftmax", loss_spec("KLDivLoss", reduction="batchmean"), 4, SOFT, id="divergence"),
        pytest.param("", {"path": "models:brier_loss"}, 4, Y, id="the owner's own"),
    ],
)
def test_loss_gradient_is_that_of_the_summed_rows(end: str, loss: dict[str, Any], nb_outputs: int, y: np.ndarray) -> None:
    m = model(factory_args={"end": end, "nb_outputs": nb_outputs}, loss=loss, nb_classes=max(2, nb_outputs))
    gradient = m.loss_gradient(X, y, training_mode=False)
    expected = differences.gradient(lambda x: m.loss(x, y, training_mode=False), X)
    np.testing.assert_allclose(gradient, expected, **CLOSE)
    assert np.abs(gradient).max() > 1e-3


def test_bce_row_losses_take_label_1_as_the_positive_class() -> None:
    m = model(factory_args={"end": "Sigmoid", "nb_outputs": 1}, loss="torch.nn.BCELoss", nb_classes=2)
    p = predict(m, X)[:, 0]
    np.testing.assert_allclose(m.loss(X, BINARY, training_mode=False), -np.log(np.where(BINARY == 1, p, 1 - p)), rtol=1e-10)
    soft = -(BINARY_SOFT[:, 0] * np.log(1 - p) + BINARY_SOFT[:, 1] * np.log(p))
    np.testing.assert_allclose(m.loss(X, BINARY_SOFT, training_mode=False), soft, rtol=1e-10)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_nll_of_soft_rows_is_cross_entropy_of_the_logits(weight: list[float] | None) -> None:
    nll = model(factory_args={"end": "LogSoftmax"}, loss=loss_spec("NLLLoss", weight=weight))
    entropy = model(loss=loss_spec("CrossEntropyLoss", weight=weight))
    np.testing.assert_allclose(nll.loss(X, SOFT, training_mode=False), entropy.loss(X, SOFT, training_mode=False), rtol=1e-10)
    assert nll.loss_divisor(SOFT) == entropy.loss_divisor(SOFT)


def test_one_hot_targets_go_to_losses_of_whole_rows() -> None:
    m = model(loss="torch.nn.MSELoss")
    np.testing.assert_allclose(m.loss(X, Y, training_mode=False), ((predict(m, X) - np.eye(4)[Y]) ** 2).mean(1), rtol=1e-10)


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_regression_targets_never_broadcast(shape: tuple[int, ...]) -> None:
    m = model(factory_args={"nb_outputs": 1}, loss="torch.nn.L1Loss", task="regression", nb_classes=1)
    y = np.arange(5.0)
    np.testing.assert_allclose(m.loss(X, y.reshape(shape), training_mode=False), np.abs(predict(m, X)[:, 0] - y), rtol=1e-10)
    with pytest.raises(errors.InvalidLabel, match=r"\(5, 2\).*\(5, 1\)"):
        m.loss(X, np.zeros((5, 2)), training_mode=False)


def test_mean_loss_of_several_regression_outputs_is_torchs_mean() -> None:
    m = model(loss="torch.nn.MSELoss", task="regression")
    y = np.random.default_rng(3).normal(size=(5, 4))
    expected = nn.MSELoss()(models.mlp()(torch.from_numpy(X)), torch.from_numpy(y)).item()
    assert m.loss(X, y, training_mode=False).sum() / m.loss_divisor(y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("spec", [loss_spec("MultiMarginLoss"), loss_spec("CrossEntropyLoss", ignore_index=0)])
def test_soft_labels_are_refused_where_the_loss_has_no_meaning_for_them(spec: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidLabel, match="soft"):
        model(loss=spec).loss(X, SOFT, training_mode=False)


def test_index_beyond_the_outputs_is_refused_before_the_device_sees_it() -> None:
    with pytest.raises(errors.InvalidLabel, match="4 outputs"):
        model(nb_classes=9).loss(X, np.full(5, 7), training_mode=False)


def test_loss_that_reduces_by_itself_is_refused() -> None:
    with pytest.raises(errors.ModelFailed, match=r"\(\) for 5 rows"):
        model(loss="models:mean_loss").loss(X, Y, training_mode=False)


def test_loss_of_reduction_none_counts_as_a_sum() -> None:
    assert model(loss=loss_spec("CrossEntropyLoss", reduction="none")).loss_reduction == "sum"


def test_loss_object_of_others_is_left_as_it_is() -> None:
    theirs = nn.CrossEntropyLoss()
    m = model(loss=theirs)
    m.loss(X, Y, training_mode=False)
    assert theirs.reduction == "mean"


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_class_gradients_agree_with_differences(rows: int) -> None:
    m = model()
    x = X[:rows]
    expected = differences.gradient(lambda x: predict(m, x), x)
    for _ in range(2):  # The way taken may depend on calls before.
        np.testing.assert_allclose(m.class_gradient(x, None, training_mode=False), expected, **CLOSE)
    chosen = m.class_gradient(x, Y[:rows], training_mode=False)
    np.testing.assert_allclose(chosen, expected[np.arange(rows), Y[:rows]][:, None], **CLOSE)


def test_class_gradients_of_many_classes_come_in_parts() -> None:
    m = model(factory_args={"nb_outputs": 150}, nb_classes=150)
    predict(m, X)
    every = m.class_gradient(X, None, training_mode=False)
    for rows in (1, 2):
        np.testing.assert_allclose(m.class_gradient(X[:rows], None, training_mode=False), every[:rows], rtol=1e-12, atol=1e-15)


def test_single_output_has_one_class_gradient() -> None:
    m = model(factory_args={"nb_outputs": 1}, nb_classes=2, loss="torch.nn.BCEWithLogitsLoss")
    expected = differences.gradient(lambda x: predict(m, x), X)
    np.testing.assert_allclose(m.class_gradient(X, None, training_mode=False), expected, **CLOSE)
    np.testing.assert_allclose(m.class_gradient(X[:1], None, training_mode=False), expected[:1], **CLOSE)
    np.testing.assert_allclose(m.class_gradient(X, np.zeros(5, np.int64), training_mode=False), expected, **CLOSE)
    with pytest.raises(errors.InvalidLabel, match="1 output"):
        m.class_gradient(X, np.ones(5, np.int64), training_mode=False)


def test_class_gradients_in_training_mode_are_of_the_batch_together() -> None:
    m = model("normalised")
    x = torch.from_numpy(X[:2]).requires_grad_()
    module = models.normalised().train()
    expected = [torch.autograd.grad(module(x)[:, k].sum(), x)[0].numpy() for k in range(4)]
    predict(m, X)
    np.testing.assert_allclose(m.class_gradient(X[:2], None, training_mode=True), np.stack(expected, 1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layer", [None, "1", -1, 0])
def test_vjp_agrees_with_differences(layer: str | int | None) -> None:
    m = model()

    def f(x: np.ndarray) -> np.ndarray:
        return predict(m, x) if layer is None else m.activations(x, layer, training_mode=False)

    cotangent = np.random.default_rng(4).normal(size=f(X).shape)
    expected = differences.gradient(lambda x: (f(x) * cotangent).sum(1), X)
    np.testing.assert_allclose(m.vjp(X, cotangent, layer, training_mode=False), expected, **CLOSE)


def test_vjp_of_a_layer_before_one_that_works_in_place_agrees_with_differences() -> None:
    m = model("Inner")
    cotangent = np.random.default_rng(4).normal(size=(5, 6))
    expected = differences.gradient(lambda x: (m.activations(x, "body.0", training_mode=False) * cotangent).sum(1), X)
    np.testing.assert_allclose(m.vjp(X, cotangent, "body.0", training_mode=False), expected, **CLOSE)
    assert (m.activations(X, "body.0", training_mode=False) < 0).any()


def test_vjp_refuses_a_cotangent_of_another_shape() -> None:
    with pytest.raises(errors.InvalidShape, match=r"\(5, 3\).*\(5, 4\).*outputs"):
        model().vjp(X, np.ones((5, 3)), None, training_mode=False)
    with pytest.raises(errors.InvalidShape, match=r"\(5, 4\).*\(5, 8\).*layer '0'"):
        model().vjp(X, np.ones((5, 4)), "0", training_mode=False)


def test_layers_are_found_by_index_and_by_name_at_any_depth() -> None:
    m = model("Inner")
    assert m.layer_names == ["body", "turn", "unused", "head"]
    module = models.Inner()
    with torch.no_grad():
        before = module.body[0](torch.from_numpy(X)).numpy().copy()
        hidden, outputs = (t.numpy() for t in module(torch.from_numpy(X)))
    np.testing.assert_allclose(m.activations(X, "body.0", training_mode=False), before, rtol=1e-12)
    np.testing.assert_allclose(m.activations(X, "turn", training_mode=False), hidden, rtol=1e-12)
    np.testing.assert_array_equal(m.activations(X, 1, training_mode=False), m.activations(X, "turn", training_mode=False))
    np.testing.assert_allclose(m.activations(X, -1, training_mode=False), outputs, rtol=1e-12)
    np.testing.assert_allclose(predict(m, X), outputs, rtol=1e-12)


@pytest.mark.parametrize(("layer", "text"), [(4, "0|body, turn"), (-5, "4 layers"), ("nose", "body, turn"), ("", "no layer")])
def test_unknown_layers_are_named_with_those_that_exist(layer: str | int, text: str) -> None:
    with pytest.raises(errors.InvalidLayer, match=text):
        model("Inner").activations(X, layer, training_mode=False)


def test_layer_that_is_never_called_is_an_error() -> None:
    with pytest.raises(errors.InvalidLayer, match="not called"):
        model("Inner").activations(X, "unused", training_mode=False)


def test_hooks_are_gone_after_calls_and_failures() -> None:
    m = model("Inner")
    m.activations(X, "turn", training_mode=False)
    with pytest.raises(RuntimeError):
        m.activations(X[:, :2], "turn", training_mode=False)
    assert not any(module._forward_hooks for module in m._module.modules())


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_models_have_gradients_and_activations(kind: str) -> None:
    m = model("Recurrent", {"kind": kind}, input_shape=(7, 3))
    x = np.random.default_rng(5).normal(size=(3, 7, 3))
    expected = differences.gradient(lambda x: m.loss(x, Y[:3], training_mode=False), x)
    np.testing.assert_allclose(m.loss_gradient(x, Y[:3], training_mode=False), expected, **CLOSE)
    assert m.activations(x, "rnn", training_mode=False).shape == (3, 7, 5)


def test_integer_inputs_predict_and_have_losses_but_no_gradients() -> None:
    m = model("Embedded", input_shape=(7,), nb_classes=3, input_dtype="int64")
    tokens = np.random.default_rng(6).integers(0, 11, size=(4, 7))
    assert m.input_dtype == np.int64
    assert predict(m, tokens).dtype == np.float32
    assert m.loss(tokens, Y[:4] % 3, training_mode=False).shape == (4,)
    can = capabilities(m)
    assert {Operation.PREDICT, Operation.LOSS, Operation.GET_ACTIVATIONS} <= can
    assert not {Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT, Operation.VJP} & can


def test_capabilities_follow_from_the_configuration() -> None:
    every = set(Operation)
    fit = {Operation.FIT, Operation.FIT_BATCHES}
    assert capabilities(model(optimizer="torch.optim.SGD")) == every
    assert capabilities(model()) == every - fit
    assert capabilities(model(loss=None)) == every - fit - {Operation.LOSS, Operation.LOSS_GRADIENT}


def test_no_way_back_to_the_inputs_is_an_error_and_not_zeros() -> None:
    m = model("Detached")
    for call in (
        lambda: m.loss_gradient(X, Y, training_mode=False),
        lambda: m.class_gradient(X, None, training_mode=False),
        lambda: m.vjp(X, np.ones((5, 4)), None, training_mode=False),
    ):
        with pytest.raises(errors.Unsupported, match="detached"):
            call()


def test_calls_in_training_mode_leave_nothing_behind() -> None:
    m = model("normalised", {"dropout": 0.5}, optimizer="torch.optim.SGD")
    before = {name: t.clone() for name, t in m._module.state_dict().items()}
    evaluated = predict(m, X)
    trained = [
        m.predict(X, training_mode=True),
        m.loss_gradient(X, Y, training_mode=True),
        m.class_gradient(X, None, training_mode=True),
        m.activations(X, 0, training_mode=True),
        m.vjp(X, np.ones((5, 4)), None, training_mode=True),
    ]
    assert not np.allclose(trained[0], evaluated)
    assert all(torch.equal(before[name], t) for name, t in m._module.state_dict().items())
    assert not any(module.training for module in m._module.modules())
    np.testing.assert_array_equal(predict(m, X), evaluated)


def test_failure_in_training_mode_leaves_nothing_behind() -> None:
    m = model("normalised")
    with pytest.raises(ValueError, match="more than 1 value"):
        m.predict(X[:1], training_mode=True)
    assert not any(module.training for module in m._module.modules())


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


def test_model_that_writes_into_its_inputs_leaves_the_callers_rows_alone() -> None:
    m = model("InPlaceFirst")
    x = X.copy()
    predict(m, x)
    gradient = m.loss_gradient(x, Y, training_mode=False)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_allclose(gradient, differences.gradient(lambda x: m.loss(x, Y, training_mode=False), X), **CLOSE)


def test_answers_are_in_c_order_whatever_the_model_does_with_axes() -> None:
    m = model("Turned", input_shape=(3, 4), loss=None)
    x = np.random.default_rng(7).random((2, 3, 4)).astype(np.float32)
    activations, gradient = m.activations(x, "turn", training_mode=False), m.vjp(x, x[:, 0], None, training_mode=False)
    np.testing.assert_array_equal(activations, x.transpose(0, 2, 1))
    np.testing.assert_array_equal(gradient, np.repeat(x[:, :1], 3, axis=1))
    assert activations.flags.c_contiguous
    assert gradient.flags.c_contiguous


def test_expanded_gradients_are_arrays_of_their_own() -> None:
    m = model("Vector", nb_classes=1, task="regression", loss="torch.nn.MSELoss")
    x = X.astype(np.float32)
    assert predict(m, x).shape == (5, 1)
    gradient = m.vjp(x, np.ones((5, 1)), None, training_mode=False)
    gradient /= 2
    np.testing.assert_array_equal(gradient, np.full((5, 6), 0.5))


def test_answers_do_not_share_memory_with_the_model() -> None:
    m = model("OwnBuffer")
    x = X[:2].astype(np.float32)
    predict(m, x)[:] = 7
    np.testing.assert_array_equal(predict(m, x), np.ones((2, 4)))


def test_model_that_caches_a_tensor_in_predict_has_gradients_afterwards() -> None:
    m = model("Caching")
    predict(m, X)
    assert np.isfinite(m.loss_gradient(X, Y, training_mode=False)).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-3), ("bfloat16", 5e-2)])
def test_half_models_take_and_answer_float32(dtype: str, tolerance: float) -> None:
    half, full = model(factory_args={"dtype": dtype}), model(factory_args={"dtype": "float32"})
    x = X.astype(np.float32)
    assert half.input_dtype == np.float32
    for answer in ("predict", "loss_gradient"):
        labels = () if answer == "predict" else (Y,)
        ours, expected = (getattr(m, answer)(x, *labels, training_mode=False) for m in (half, full))
        assert ours.dtype == np.float32
        # Half precision has 3 (float16) or 2 (bfloat16) digits.
        np.testing.assert_allclose(ours, expected, atol=tolerance)
    assert any(dtype in note for note in half.notes)


def test_mixed_precision_answers_in_float32() -> None:
    mixed, full = model(factory_args={"dtype": "float32"}, amp=True), model(factory_args={"dtype": "float32"})
    x = X.astype(np.float32)
    outputs, gradient = predict(mixed, x), mixed.loss_gradient(x, Y, training_mode=False)
    assert outputs.dtype == gradient.dtype == np.float32
    np.testing.assert_allclose(outputs, predict(full, x), atol=5e-2)
    assert not np.array_equal(outputs, predict(full, x))
    np.testing.assert_allclose(gradient, full.loss_gradient(x, Y, training_mode=False), atol=5e-2)


# Weights.


def test_weights_come_from_safetensors(tmp_path: Path) -> None:
    other = models.mlp(seed=7)
    safetensors.torch.save_model(other, str(tmp_path / "w.safetensors"))
    m = model(weights=tmp_path / "w.safetensors")
    np.testing.assert_array_equal(predict(m, X), other(torch.from_numpy(X)).detach().numpy())


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = models.mlp(nb_outputs=3).state_dict()
    state["extra"] = state.pop("0.bias")
    safetensors.torch.save_file(state, path)
    with pytest.raises(
        errors.ModelConfigError, match=r"missing: 0\.bias; unexpected: extra; of another shape: .*2\.weight \(3, 8\)"
    ) as e:
        model(weights=path)
    assert e.value.key == "weights"


@pytest.mark.parametrize("whole", [True, False])
def test_pickled_weights_need_trust(tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "w.pt"
    other = models.mlp(seed=7)
    torch.save(other if whole else other.state_dict(), path)
    with pytest.raises(errors.ModelConfigError, match="trust_pickle: true"):
        model(weights=path)
    m = model(weights=path, trust_pickle=True)
    np.testing.assert_array_equal(predict(m, X), other(torch.from_numpy(X)).detach().numpy())


@pytest.mark.parametrize(
    ("name", "text"), [("gone.safetensors", "does not exist"), ("bad.safetensors", "not a readable"), ("w.h5", "'.h5'")]
)
def test_unreadable_weights_are_a_configuration_error(tmp_path: Path, name: str, text: str) -> None:
    if name != "gone.safetensors":
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(errors.ModelConfigError, match=text):
        model(weights=tmp_path / name)


def test_tied_weights_survive_save_and_restore(tmp_path: Path) -> None:
    m = model("Tied", input_shape=(4,))
    x = X[:, :4].astype(np.float32)
    before = predict(m, x)
    m.save(tmp_path / "w.safetensors")
    other = m.untrained_clone()
    assert not np.array_equal(predict(other, x), before)
    other.restore(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(predict(other, x), before)
    assert other._module.second.weight is other._module.first.weight


def test_restore_changes_nothing_if_the_file_does_not_fit(tmp_path: Path) -> None:
    m = model()
    state = {**models.mlp(seed=7).state_dict(), "2.bias": torch.zeros(9)}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    before = predict(m, X)
    with pytest.raises(errors.ModelConfigError, match=r"2\.bias \(9,\)"):
        m.restore(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(predict(m, X), before)


# Training.

ADAM = {"path": "torch.optim.Adam", "args": {"lr": 0.05}}


def weights_of(m: TorchModel) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in m._module.state_dict().items()}


def test_train_steps_are_those_of_plain_torch() -> None:
    m = model("normalised", optimizer=ADAM)
    module = models.normalised().train()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(3):
        loss = nn.functional.cross_entropy(module(torch.from_numpy(X)), torch.from_numpy(Y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert m.train_step(X, Y, training_mode=True) == pytest.approx(loss.item(), rel=1e-12)
    for name, t in module.state_dict().items():
        torch.testing.assert_close(m._module.state_dict()[name], t, rtol=1e-9, atol=1e-12)


def test_parameters_are_frozen_again_after_a_step() -> None:
    m = model(optimizer=ADAM)
    m.train_step(X, Y, training_mode=True)
    assert not any(p.requires_grad or p.grad is not None for p in m._module.parameters())
    with pytest.raises(RuntimeError):
        m.train_step(X[:, :2], Y, training_mode=True)
    assert not any(p.requires_grad or p.grad is not None for p in m._module.parameters())
    assert not any(module.training for module in m._module.modules())


def test_what_the_owner_froze_is_not_trained() -> None:
    m = model("backbone_frozen", optimizer=ADAM)
    before = weights_of(m)
    m.train_step(X, Y, training_mode=True)
    changed = {name for name, t in weights_of(m).items() if not torch.equal(t, before[name])}
    assert changed == {"2.weight", "2.bias"}


def test_one_snapshot_brings_back_weights_and_optimizer_any_number_of_times() -> None:
    m = model("normalised", optimizer=ADAM)
    m.train_step(X, Y, training_mode=True)
    snapshot = m.snapshot()
    before = weights_of(m)
    after = []
    for _ in range(3):
        m.train_step(X, Y, training_mode=True)
        m.train_step(X[::-1], Y, training_mode=True)
        after.append(weights_of(m))
        m.rollback(snapshot)
        assert all(torch.equal(t, before[name]) for name, t in weights_of(m).items())
    # With another optimizer state the same steps would end elsewhere.
    assert all(torch.equal(t, after[0][name]) for later in after for name, t in later.items())
    assert not all(torch.equal(t, before[name]) for name, t in after[0].items())


def test_restored_model_trains_as_one_that_was_never_trained(tmp_path: Path) -> None:
    m, untouched = model(optimizer=ADAM), model(optimizer=ADAM)
    m.save(tmp_path / "w.safetensors")
    m.train_step(X, Y, training_mode=True)
    m.restore(tmp_path / "w.safetensors")
    for each in (m, untouched):
        each.train_step(X, Y, training_mode=True)
    expected = weights_of(untouched)
    assert all(torch.equal(t, expected[name]) for name, t in weights_of(m).items())


def test_fresh_model_is_independent_and_untrained() -> None:
    m = model(factory_args={"seed": None}, optimizer=ADAM)
    before = predict(m, X)
    other = m.untrained_clone()
    assert not np.array_equal(predict(other, X), before)
    other.train_step(X, Y, training_mode=True)
    np.testing.assert_array_equal(predict(m, X), before)


def test_fresh_refuses_a_factory_that_returns_the_served_model() -> None:
    with pytest.raises(errors.Unsupported, match="same module"):
        model("always_the_same").untrained_clone()


# Configuration.


@pytest.mark.parametrize(
    ("keys", "key", "text"),
    [
        ({"factory": "not_a_module"}, "factory", "returned int; expected a torch.nn.Module"),
        ({"device": "cuda:63"}, "device", "cuda:63 is not available"),
        ({"loss": "torch.nn.Nothing"}, "loss", "Nothing"),
        ({"loss": loss_spec("CrossEntropyLoss", weight=["a"])}, "loss", "numbers"),
        ({"loss": "models:not_a_module"}, "loss", "returned int; expected a callable"),
        ({"optimizer": "torch.optim.LBFGS"}, "optimizer", "several times"),
        ({"optimizer": "models:brier_loss"}, "optimizer", "brier_loss"),
    ],
)
def test_wrong_configuration_names_its_key(keys: dict[str, Any], key: str, text: str) -> None:
    with pytest.raises(errors.ModelConfigError, match=text) as e:
        model(**keys)
    assert e.value.key == key


@pytest.mark.parametrize("keys", [{"loss": None, "optimizer": "torch.optim.SGD"}, {"device": "gpu"}, {"input_dtype": "int32"}])
def test_configuration_that_makes_no_sense_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        config(**keys)


@pytest.mark.parametrize(
    ("end", "keys", "kind"),
    [
        ("", {}, "logits"),
        ("", {"loss": None}, "logits"),
        ("Softmax", {}, "probabilities"),
        ("LogSoftmax", {"loss": "torch.nn.NLLLoss"}, "logits"),
        ("", {"loss": "torch.nn.MSELoss"}, "probabilities"),
        ("", {"loss": "torch.nn.MSELoss", "task": "regression"}, "values"),
        ("", {"output": "probabilities"}, "probabilities"),
    ],
)
def test_kind_of_outputs_is_guessed_unless_said(end: str, keys: dict[str, Any], kind: str) -> None:
    assert model(factory_args={"end": end}, **keys).output_kind == kind


# Parity with ART.

IMAGES = np.random.default_rng(8).random((6, 1, 8, 8)).astype(np.float32)
CLASSES = np.array([0, 4, 2, 2, 1, 3])
# The same operations in float32, in another order where rows are repeated.
FLOAT32 = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def art_class() -> Any:
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier


def both(art_class: Any) -> tuple[TorchModel, Any]:
    ours = model("cnn", input_shape=(1, 8, 8), nb_classes=5, optimizer=ADAM)
    module = models.cnn()
    theirs = art_class(
        module,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(module.parameters(), lr=0.05),
        input_shape=(1, 8, 8),
        nb_classes=5,
        device_type="cpu",
    )
    return ours, theirs


def test_predictions_losses_and_activations_are_arts(art_class: Any) -> None:
    ours, theirs = both(art_class)
    np.testing.assert_allclose(predict(ours, IMAGES), theirs.predict(IMAGES), **FLOAT32)
    one_hot = np.eye(5, dtype=np.float32)[CLASSES]
    np.testing.assert_allclose(ours.loss(IMAGES, CLASSES, training_mode=False), theirs.compute_loss(IMAGES, one_hot), **FLOAT32)
    assert ours.layer_names == theirs.layer_names
    for layer in (*range(len(ours.layer_names)), "4", -1):
        expected = theirs.get_activations(IMAGES, layer, batch_size=6)
        np.testing.assert_allclose(ours.activations(IMAGES, layer, training_mode=False), expected, **FLOAT32)


@pytest.mark.parametrize("soft", [False, True])
def test_loss_gradients_are_arts(art_class: Any, soft: bool) -> None:
    ours, theirs = both(art_class)
    y = np.random.default_rng(9).dirichlet(np.ones(5), size=6).astype(np.float32) if soft else np.eye(5, dtype=np.float32)[CLASSES]
    gradient = ours.loss_gradient(IMAGES, y if soft else CLASSES, training_mode=False) / 6
    np.testing.assert_allclose(gradient, theirs.loss_gradient(IMAGES, y), **FLOAT32)


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("label", [None, 2, "array"])
def test_class_gradients_are_arts(art_class: Any, label: Any, rows: int) -> None:
    ours, theirs = both(art_class)
    predict(ours, IMAGES)
    given = CLASSES[:rows] if label == "array" else label
    canonical = np.full(rows, 2) if label == 2 else given
    gradient = ours.class_gradient(IMAGES[:rows], canonical, training_mode=False)
    expected = theirs.class_gradient(IMAGES[:rows], given)
    assert gradient.shape == expected.shape
    np.testing.assert_allclose(gradient, expected, **FLOAT32)


def test_fit_of_whole_batches_is_arts(art_class: Any) -> None:
    ours, theirs = both(art_class)
    theirs.fit(IMAGES, CLASSES, batch_size=6, nb_epochs=4)  # One batch holds all rows, so that their order does not count.
    for _ in range(4):
        ours.train_step(IMAGES, CLASSES, training_mode=True)
    # Adam divides by the root of small numbers, which enlarges the rounding of sums in another order.
    np.testing.assert_allclose(predict(ours, IMAGES), theirs.predict(IMAGES), rtol=1e-3, atol=1e-3)
