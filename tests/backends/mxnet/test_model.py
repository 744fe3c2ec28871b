"""Parts that are special to MXNet: the settings that its gradients need, its losses, its files, and its errors.

Models are served from the other environment, and a process there runs plain MXNet.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import differences
import numpy as np
import pytest
import torch
from environments import MXNET, python_of
from mxnet_process import there
from processes import server_process
from torch import nn

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.registry import backend
from gradwire.client import RemoteEstimator, Server, connect
from gradwire.client.errors import LabelError, LayerError, ModelFailed, Unsupported

OF = "mxnet.gluon.loss."
CROSS_ENTROPY = f"{OF}SoftmaxCrossEntropyLoss"
FILES = Path(__file__).parents[2] / "mxnet_files"
# float64, and steps of 1e-5.
CLOSE: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-8}


def model(factory: Any = "dense", input_shape: Any = (6,), nb_classes: int = 4, **keys: Any) -> dict[str, Any]:
    path = (
        {"path": f"mxnet_models:{factory}"} if isinstance(factory, str) else {**factory, "path": f"mxnet_models:{factory['path']}"}
    )
    return {"backend": "mxnet", "factory": path, "input_shape": list(input_shape), "nb_classes": nb_classes, **keys}


def recurrent(kind: str, dropout: float, hybridize: bool) -> dict[str, Any]:
    factory = {"path": "Recurrent", "args": {"kind": kind, "dropout": dropout}}
    return model(factory, (7, 3), loss=CROSS_ENTROPY, hybridize=hybridize)


def through(operator: str, **keys: Any) -> dict[str, Any]:
    return model({"path": "Through", "args": {"operator": operator}}, (6,), 3, **keys)


ROW_LOSSES: dict[str, dict[str, Any]] = {
    "sparse": {"path": "SoftmaxCrossEntropyLoss"},
    "weighted": {"path": "SoftmaxCrossEntropyLoss", "args": {"weight": 3.0}},
    "dense": {"path": "SoftmaxCrossEntropyLoss", "args": {"sparse_label": False}},
    "axis": {"path": "SoftmaxCrossEntropyLoss", "args": {"axis": 1}},
    "sigmoid": {"path": "SigmoidBinaryCrossEntropyLoss"},
    "l2": {"path": "L2Loss"},
    "l1": {"path": "L1Loss"},
    "huber": {"path": "HuberLoss", "args": {"rho": 0.3}},
    "hinge": {"path": "HingeLoss"},
    "squared-hinge": {"path": "SquaredHingeLoss"},
    "logistic": {"path": "LogisticLoss"},
    "logistic-binary": {"path": "LogisticLoss", "args": {"label_format": "binary"}},
    "divergence": {"path": "KLDivLoss", "args": {"from_logits": False}},
}
"""Losses of logits by name."""
SIGNED = ("hinge", "squared-hinge", "logistic")

MODELS: dict[str, dict[str, Any]] = {
    **{f"loss-{name}": model(loss={**loss, "path": OF + loss["path"]}) for name, loss in ROW_LOSSES.items()},
    "loss-log-softmax": model({"path": "dense", "args": {"end": "log_softmax"}},
                              loss={"path": CROSS_ENTROPY, "args": {"from_logits": True}}),
    "loss-probability": model({"path": "binary", "args": {"end": "sigmoid"}}, (5,), 2,
                              loss={"path": f"{OF}SigmoidBinaryCrossEntropyLoss", "args": {"from_sigmoid": True}}),
    "loss-own": model(loss="mxnet_models:squares"),
    "regression": model({"path": "dense", "args": {"nb_outputs": 2}}, nb_classes=2, task="regression", loss=f"{OF}L2Loss"),
    "defended": model(loss=CROSS_ENTROPY, preprocessing={"mean": 0.3, "std": 0.4},
                      preprocessing_defences=["conformance.case:Halve"]),
    "pooled": model("pooled_cnn", (1, 8, 8), 5, loss=CROSS_ENTROPY, optimizer="sgd"),
    "pooled-written": model("pooled_cnn", (1, 8, 8), 5, loss=CROSS_ENTROPY, hybridize=False),
    "smooth": model("smooth_cnn", (1, 8, 8), 10, loss=CROSS_ENTROPY),
    "selu": model("selu", loss=CROSS_ENTROPY),
    "selu-written": model("selu", loss=CROSS_ENTROPY, hybridize=False),
    **{f"{kind}-{dropout}-{'traced' if hybridize else 'written'}": recurrent(kind, dropout, hybridize)
       for kind in ("LSTM", "GRU", "RNN") for dropout in (0.0, 0.5) for hybridize in (True, False)},
    "lstm-float32": model({"path": "Recurrent", "args": {"kind": "LSTM", "dtype": "float32"}}, (7, 3), loss=CROSS_ENTROPY),
    "deep": model("Deep", loss=CROSS_ENTROPY),
    "untraceable": model("Untraceable", loss=CROSS_ENTROPY),
    "embedded": model("Embedded", (7,), 3, loss=CROSS_ENTROPY, input_dtype="int64"),
    **{f"through-{operator}": through(operator) for operator in ("BlockGrad", "compare", "sign")},
    **{f"through-{operator}-written": through(operator, hybridize=False) for operator in ("BlockGrad", "sign")},
    "fails-backward": model("fails_backward", loss=CROSS_ENTROPY, access="trainer",
                            optimizer={"path": "sgd", "args": {"learning_rate": 0.1, "momentum": 0.9}}),
    "fails-later": model("FailsLater", loss=CROSS_ENTROPY, optimizer="adam", access="trainer"),
    "exported": {"backend": "mxnet", "symbol": str(FILES / "smooth-symbol.json"), "weights": str(FILES / "smooth-0000.params"),
                 "input_shape": [6], "nb_classes": 4, "loss": CROSS_ENTROPY, "optimizer": "sgd", "access": "trainer"},
}  # fmt: skip
FORMS = ("saved", "stripped")
HEADS = ("SoftmaxOutput", "LinearRegressionOutput", "LogisticRegressionOutput", "MAERegressionOutput")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mxnet")


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, Any]:
    """The report of `mxnet_plain.write_files` on the files that it wrote."""
    return there("write_files", folder=folder, heads=HEADS)


@pytest.fixture(scope="module")
def server(folder: Path, written: dict[str, Any]) -> Iterator[Server]:
    models = [{"name": name, **keys} for name, keys in MODELS.items()]
    for head in HEADS:
        checkpoint = {"symbol": str(folder / f"{head}-symbol.json"), "weights": str(folder / f"{head}-0001.params")}
        models.append({"name": head, "backend": "mxnet", "input_shape": [6], "nb_classes": 4, "loss": CROSS_ENTROPY, **checkpoint})
    models += [{"name": f"weights-{form}", **model("not_initialised"), "weights": str(folder / f"{form}.params")} for form in FORMS]
    with server_process(folder, models, python=python_of(MXNET)) as process, connect(process.address) as connection:
        yield connection


def rows(remote: RemoteEstimator, n: int = 5, seed: int = 0) -> Any:
    shape = (n, *remote.input_shape)
    return np.random.default_rng(seed).uniform(0.05, 0.95, shape).astype(remote.card.input_dtype)


def labels(remote: RemoteEstimator, n: int = 5) -> Any:
    return np.arange(n) % remote.nb_classes


def check_loss_gradient(remote: RemoteEstimator, y: Any, x: Any = None) -> None:
    x = rows(remote) if x is None else x
    numeric = differences.gradient(lambda x: remote.compute_loss(x, y), x) / len(x)
    np.testing.assert_allclose(remote.loss_gradient(x, y), numeric, **CLOSE)
    assert np.abs(numeric).max() > 1e-4


# The settings.


class PooledInTorch(nn.Sequential):
    """Answers of `mxnet_models.pooled_cnn` in evaluation."""

    def __init__(self, weights: dict[str, Any]) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=1e-5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
        )
        names = {"0.weight": "0.weight", "0.bias": "0.bias", "1.weight": "1.gamma", "1.bias": "1.beta", "5.weight": "6.weight",
                 "5.bias": "6.bias", "1.running_mean": "1.running_mean", "1.running_var": "1.running_var"}  # fmt: skip
        state = {ours: torch.from_numpy(weights[theirs]) for ours, theirs in names.items()}
        self.load_state_dict({**state, "1.num_batches_tracked": torch.tensor(0)})
        self.eval()

    def gradient(self, x: Any, y: Any) -> Any:
        leaf = torch.from_numpy(x).requires_grad_()
        nn.functional.cross_entropy(self(leaf), torch.from_numpy(y), reduction="sum").backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return leaf.grad.numpy()


SETTINGS: dict[str, tuple[dict[str, str], bool, bool]] = {
    "all three": ({}, False, False),
    "oneDNN left on": ({"MXNET_MKLDNN_ENABLED": "1"}, False, False),
    "recorded as training": ({}, True, False),
    "backward as training": ({}, False, True),
}


@pytest.mark.parametrize("missing", SETTINGS)
def test_each_of_three_settings_is_needed_and_set(server: Server, missing: str) -> None:
    changes, record, backward = SETTINGS[missing]
    x, y = rows(server.estimator("pooled"), 8), np.arange(8) % 5
    plain = there("pooled_gradient", changes, x=x, y=y, record=record, backward=backward)
    expected = PooledInTorch(plain).gradient(x, y)
    largest = np.abs(expected).max()
    off = np.abs(plain["gradient"] - expected).max() / largest
    if missing == "all three":
        assert off < 1e-5
    else:
        assert off > 0.05
    for name in ("pooled", "pooled-written"):
        served = server.estimator(name).loss_gradient(x, y) * len(x)
        np.testing.assert_allclose(served, expected, rtol=1e-4, atol=1e-5 * largest)


def test_a_servers_own_environment_does_not_switch_onednn_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_MKLDNN_ENABLED", "1")
    files = folder / "switched"
    files.mkdir()
    with server_process(files, [{"name": "pooled", **MODELS["pooled"]}], python=python_of(MXNET)) as process:
        with connect(process.address) as server:
            remote = server.estimator("pooled")
            x, y = rows(remote, 8), np.arange(8) % 5
            plain = there("pooled_gradient", x=x, y=y, record=False, backward=False)
            np.testing.assert_allclose(remote.loss_gradient(x, y) * 8, plain["gradient"], rtol=1e-4, atol=1e-6)


def test_a_process_that_used_mxnet_before_with_onednn_is_refused() -> None:
    said = json.loads(str(there("used_before", {"MXNET_MKLDNN_ENABLED": "1"})["said"]))
    assert "MXNET_MKLDNN_ENABLED=0" in said[0]
    assert json.loads(str(there("used_before")["said"])) == [""]


def test_without_mxnet_the_error_says_what_to_install() -> None:
    with pytest.raises(ModelConfigError, match=r"pip install 'gradwire\[mxnet\]'"):
        backend("mxnet")


# Gradients that MXNet has wrong in itself.


def test_the_gradient_of_selu_is_right_where_mxnets_is_not(server: Server) -> None:
    remote = server.estimator("selu")
    x, y = rows(remote) * 4 - 2, labels(remote)
    for name in ("selu", "selu-written"):
        check_loss_gradient(server.estimator(name), y, x)
    plain = there("selu_gradient", x=x, y=y)["gradient"] / len(x)
    right = remote.loss_gradient(x, y)
    assert np.abs(plain - right).max() > 0.01 * np.abs(right).max()


@pytest.mark.parametrize("how", ["traced", "written"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_have_gradients(server: Server, kind: str, dropout: float, how: str) -> None:
    remote = server.estimator(f"{kind}-{dropout}-{how}")
    check_loss_gradient(remote, labels(remote))
    x = rows(remote, 3)
    np.testing.assert_allclose(remote.class_gradient(x), differences.gradient(remote.predict, x), **CLOSE)


@pytest.mark.parametrize("kind", ["GRU", "RNN"])
def test_the_gradient_of_a_recurrent_layer_with_frozen_weights_is_wrong_in_mxnet(server: Server, kind: str) -> None:
    remote = server.estimator(f"{kind}-0.0-traced")
    x, y = rows(remote), labels(remote)
    plain = there("recurrent_gradient", x=x, y=y, kind=kind)["gradient"] / len(x)
    right = remote.loss_gradient(x, y)
    assert np.abs(plain - right).max() > 0.05 * np.abs(right).max()


def test_recurrent_layers_run_in_single_precision(server: Server) -> None:
    remote = server.estimator("lstm-float32")
    x, y = rows(remote), labels(remote)
    double = server.estimator("LSTM-0.0-traced")
    np.testing.assert_allclose(remote.loss_gradient(x, y), double.loss_gradient(x, y), rtol=1e-3, atol=1e-6)


# Parity with plain Gluon, and central differences.


@pytest.mark.parametrize("name", ["smooth", "deep"])
def test_operations_answer_what_plain_gluon_answers(server: Server, name: str) -> None:
    remote = server.estimator(name)
    x = rows(remote)
    plain = there("outputs_of", x=x, factory={"smooth": "smooth_cnn", "deep": "Deep"}[name])
    close = {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(remote.predict(x), plain["outputs"], **close)
    np.testing.assert_allclose(remote.class_gradient(x), plain["class_gradients"], **close)
    # Two rows are repeated for each class, more are looped over: see `_REPEAT_MAX_ROWS`.
    np.testing.assert_allclose(remote.class_gradient(x[:2]), plain["class_gradients"][:2], **close)
    np.testing.assert_allclose(remote.loss_gradient(x, np.zeros(5, int)) * 5, plain["loss_gradient"], **close)
    for layer in remote.layer_names:
        np.testing.assert_allclose(remote.get_activations(x, layer), plain[f"layer {layer}"], **close)


OUTPUTS = np.random.default_rng(4).normal(size=(5, 4))
INDICES, ROWS = np.arange(5) % 4, np.random.default_rng(1).dirichlet(np.ones(4), 5)


@pytest.fixture(scope="module")
def plain_losses() -> dict[str, Any]:
    """Labels for every loss, indices and soft rows, in the form that the loss takes."""
    cases = {}
    for name, loss in ROW_LOSSES.items():
        args = loss.get("args", {})
        sparse = loss["path"] == "SoftmaxCrossEntropyLoss" and args.get("sparse_label", True)
        for form, y in (("indices", INDICES if sparse else np.eye(4)[INDICES]), ("rows", ROWS)):
            changed = {**args, "sparse_label": False} if sparse and form == "rows" else args
            cases[f"{name} {form}"] = {"path": loss["path"], "args": changed, "y": (2 * y - 1 if name in SIGNED else y).tolist()}
    return there("loss_rows", outputs=OUTPUTS, cases=json.dumps(cases))


@pytest.mark.parametrize("name", ROW_LOSSES)
def test_a_loss_is_plain_gluons_and_its_gradient_that_of_central_differences(
    server: Server, plain_losses: dict[str, Any], name: str
) -> None:
    remote = server.estimator(f"loss-{name}")
    for form, y in (("indices", INDICES), ("rows", ROWS)):
        of_outputs = remote.compute_loss_from_predictions(OUTPUTS, y)
        np.testing.assert_allclose(of_outputs, plain_losses[f"{name} {form}"], rtol=1e-10)
        x = rows(remote)
        np.testing.assert_allclose(
            remote.compute_loss(x, y), remote.compute_loss_from_predictions(remote.predict(x), y), rtol=1e-10
        )
        check_loss_gradient(remote, y)


@pytest.mark.parametrize("name", ["loss-log-softmax", "loss-probability", "loss-own", "defended"])
def test_gradients_of_other_losses_are_those_of_central_differences(server: Server, name: str) -> None:
    remote = server.estimator(name)
    check_loss_gradient(remote, labels(remote))
    check_loss_gradient(remote, np.random.default_rng(2).dirichlet(np.ones(remote.nb_classes), 5))


def test_regression_takes_targets(server: Server) -> None:
    remote = server.estimator("regression")
    x, y = rows(remote), np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(remote.compute_loss(x, y), ((remote.predict(x) - y) ** 2).mean(1) / 2, rtol=1e-10)
    check_loss_gradient(remote, y)
    with pytest.raises(LabelError, match="targets have shape"):
        remote.compute_loss(x, y[:, :1])


def test_outputs_are_what_their_last_layer_and_loss_make_them(server: Server) -> None:
    kinds = {"loss-sparse": "logits", "loss-probability": "probabilities", "loss-hinge": "logits", "loss-l2": "probabilities",
             "regression": "values", "SoftmaxOutput": "probabilities"}  # fmt: skip
    assert {name: server.estimator(name).card.output_kind for name in kinds} == kinds
    assert server.estimator("loss-sparse").card.loss_reduction == "mean"


# Kinds of model.


@pytest.mark.parametrize("head", HEADS)
def test_the_training_loss_at_the_end_of_an_old_graph_is_what_it_puts_out(
    server: Server, written: dict[str, Any], head: str
) -> None:
    # Its own backward pass ignores what comes in: gradients of it are none of the outputs.
    remote = server.estimator(head)
    x = rows(remote)
    w = written
    logits = np.tanh(x @ w["fc1_weight"].T + w["fc1_bias"]) @ w["fc2_weight"].T + w["fc2_bias"]
    squash = {
        "SoftmaxOutput": lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True),
        "LogisticRegressionOutput": lambda z: 1 / (1 + np.exp(-z)),
    }
    np.testing.assert_allclose(remote.predict(x), squash.get(head, lambda z: z)(logits), rtol=1e-10)
    np.testing.assert_allclose(remote.class_gradient(x), differences.gradient(remote.predict, x), **CLOSE)
    assert remote.layer_names[-1] == "head"
    np.testing.assert_array_equal(remote.get_activations(x, -1), remote.predict(x))


def test_an_exported_graph_has_its_operators_for_layers_and_can_be_cloned(server: Server) -> None:
    remote = server.estimator("exported")
    x, y = rows(remote), labels(remote)
    check_loss_gradient(remote, y)
    hidden = remote.get_activations(x, "tanh0_fwd")
    assert hidden.shape == (5, 8)
    clone = remote.clone_for_refitting()
    assert not np.allclose(clone.predict(x), remote.predict(x))
    clone.fit(x, y, nb_epochs=2)
    clone.delete()


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_read_in_the_forms_that_gluon_writes(server: Server, written: dict[str, Any], form: str) -> None:
    np.testing.assert_allclose(server.estimator(f"weights-{form}").predict(np.ones((1, 6))), written["outputs"], rtol=1e-12)


def test_layers_are_reached_at_any_depth(server: Server) -> None:
    remote = server.estimator("deep")
    x = rows(remote)
    assert tuple(remote.layer_names) == ("body", "head")
    np.testing.assert_array_equal(remote.get_activations(x, "body.1.1"), remote.get_activations(x, "body"))
    inner = remote.get_activations(x, "body.1.0")
    np.testing.assert_allclose(inner, np.tanh(remote.get_activations(x, "body.0")), rtol=1e-10)
    gradient = remote.vjp(x, np.ones_like(inner), layer="body.1.0")
    numeric = differences.gradient(lambda x: remote.get_activations(x, "body.1.0").sum(1), x)
    np.testing.assert_allclose(gradient, numeric, **CLOSE)
    with pytest.raises(LayerError, match=r"body\.9"):
        remote.get_activations(x, "body.9")


def test_a_block_that_cannot_be_traced_runs_as_it_is_written_and_its_card_says_so(server: Server) -> None:
    remote = server.estimator("untraceable")
    assert any("cannot be traced" in note for note in remote.card.notes)
    assert server.estimator("loss-sparse").card.notes == ()
    x = rows(remote)
    np.testing.assert_array_equal(remote.predict(x), server.estimator("loss-sparse").predict(x))
    check_loss_gradient(remote, labels(remote))


def test_an_embedding_takes_integers_and_has_no_gradients(server: Server) -> None:
    remote = server.estimator("embedded")
    x = np.random.default_rng(0).integers(0, 20, (5, 7))
    assert remote.predict(x).shape == (5, 3)
    assert remote.compute_loss(x, labels(remote)).shape == (5,)
    assert not remote.card.operations & {"loss_gradient", "class_gradient", "vjp"}


# No gradient is not a gradient of zeros.


@pytest.mark.parametrize("name", ["through-BlockGrad", "through-compare", "through-BlockGrad-written"])
def test_a_way_that_is_blocked_is_told(server: Server, name: str) -> None:
    remote = server.estimator(name)
    x = rows(remote, 2)
    with pytest.raises(Unsupported, match="no path"):
        remote.class_gradient(x)
    with pytest.raises(Unsupported, match="no path"):
        remote.vjp(x, np.ones((2, 3)))


@pytest.mark.parametrize("name", ["through-sign", "through-sign-written"])
def test_a_gradient_that_is_zero_is_zero(server: Server, name: str) -> None:
    remote = server.estimator(name)
    np.testing.assert_array_equal(remote.class_gradient(rows(remote, 2)), 0)


# Training.


def test_a_backward_that_fails_is_told_and_leaves_weights_and_momenta(server: Server) -> None:
    remote = server.estimator("fails-backward")
    x, y = rows(remote, 40), labels(remote, 40)
    bad = x.copy()
    bad[-1] = 1e6 * np.array([1, -1, 1, -1, 1, -1])
    before = remote.predict(x)
    with pytest.raises(ModelFailed):
        remote.loss_gradient(bad, y)
    remote.fit(x, y, batch_size=8, nb_epochs=1, seed=0)
    remote.fit(x, y, batch_size=8, nb_epochs=1, seed=1)
    expected = remote.predict(x)
    remote.reset()
    np.testing.assert_array_equal(remote.predict(x), before)
    remote.fit(x, y, batch_size=8, nb_epochs=1, seed=0)
    after_one = remote.predict(x)
    with pytest.raises(ModelFailed):
        remote.fit(bad, y, batch_size=8, nb_epochs=1, seed=1)
    np.testing.assert_array_equal(remote.predict(x), after_one)
    remote.fit(x, y, batch_size=8, nb_epochs=1, seed=1)
    np.testing.assert_array_equal(remote.predict(x), expected)
    remote.reset()


def test_a_fit_that_fails_in_the_block_changes_nothing(server: Server) -> None:
    remote = server.estimator("fails-later")
    x, y = rows(remote, 64), labels(remote, 64)
    before = remote.predict(x)
    with pytest.raises(ModelFailed, match="out of ideas"):
        remote.fit(x, y, batch_size=8, nb_epochs=2)
    np.testing.assert_array_equal(remote.predict(x), before)


def test_training_mode_moves_no_running_statistics(server: Server) -> None:
    remote = server.estimator("pooled")
    x, y = rows(remote), labels(remote)
    before = remote.predict(x)
    in_training = remote.loss_gradient(x, y, training_mode=True)
    remote.class_gradient(x, training_mode=True)
    np.testing.assert_array_equal(remote.predict(x), before)
    assert not np.allclose(in_training, remote.loss_gradient(x, y))


# Calls.


def test_threads_get_their_own_rows(server: Server) -> None:
    wrong: list[str] = []

    def call(name: str, seed: int) -> None:
        remote = server.estimator(name)
        x, y = rows(remote, 20, seed), labels(remote, 20)
        outputs, gradient = remote.predict(x), remote.class_gradient(x, label=y)
        for _ in range(30):
            if not np.allclose(remote.predict(x), outputs, rtol=1e-5, atol=1e-6):
                wrong.append(f"predict of {name}")
            if not np.allclose(remote.class_gradient(x, label=y), gradient, rtol=1e-4, atol=1e-5):
                wrong.append(f"class_gradient of {name}")

    threads = [
        threading.Thread(target=call, args=(name, seed))
        for seed, name in enumerate(["pooled", "smooth", "pooled", "GRU-0.5-written"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not any(thread.is_alive() for thread in threads)


def test_graphs_are_compiled_once_whatever_the_batch_size_and_no_hook_stays() -> None:
    found = there("programs_and_hooks")
    # Of the outputs, and of one layer.
    assert found["programs"] == 2
    assert not found["hooks"].any()


def test_answers_are_not_the_models_memory() -> None:
    found = there("answers_are_their_own")
    assert found["own"].all()
    assert found["fitted"].all()
    assert found["contiguous"].all()


def test_what_cannot_be_loaded_is_told_with_its_key(server: Server, folder: Path) -> None:
    base: dict[str, Any] = {"factory": "mxnet_models:dense", "input_shape": [6], "nb_classes": 4}
    params = str(FILES / "smooth-0000.params")
    exported = {"symbol": str(FILES / "smooth-symbol.json"), "input_shape": [6], "nb_classes": 4}
    trained = {**base, "loss": CROSS_ENTROPY}
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "no block": ({**base, "factory": "mxnet_models:squares"}, "factory.*returned function"),
        "another object": ({**base, "factory": "builtins:dict"}, "factory.*returned dict; expected a mxnet.gluon.Block"),
        "no weights": ({**base, "factory": "mxnet_models:not_initialised"}, "factory.*initialize"),
        "neither": ({"input_shape": [6], "nb_classes": 4}, "neither of factory and symbol"),
        "both": ({**base, **exported}, "both of factory and symbol"),
        "no params": (exported, "symbol needs weights"),
        "no optimizer of that name": ({**trained, "optimizer": "adm"}, "optimizer.*'adm'; it has.*adam"),
        "no optimizer": ({**trained, "optimizer": "builtins:dict"}, "optimizer.*expected a mxnet.optimizer"),
        "optimizer alone": ({**base, "optimizer": "adam"}, "optimizer needs loss"),
        "not of rows": ({**base, "loss": f"{OF}CTCLoss"}, "loss.*does not return one value for each row"),
        "mean of all": ({**base, "loss": f"{OF}PoissonNLLLoss"}, "loss.*does not return one value for each row"),
        "batch axis": ({**base, "loss": {"path": f"{OF}L2Loss", "args": {"batch_axis": 1}}}, "batch_axis.*is 1; expected 0"),
        "half precision": ({**base, "factory": {"path": "mxnet_models:dense", "args": {"dtype": "float16"}}}, "factory.*float16"),
        "no GPU": ({**base, "device": "gpu:0"}, "device.*MXNet sees 0"),
        "no device": ({**base, "device": "cuda:0"}, "device"),
        "row": ({**base, "input_shape": [7]}, "input_shape"),
        "classes": ({**base, "nb_classes": 5}, "nb_classes"),
        "no file": ({**base, "weights": "/nowhere/w.params"}, "weights.*does not exist"),
        "format": ({**base, "weights": "/nowhere/w.pkl"}, r"weights.*'\.pkl'; expected \.params"),
        "broken": ({**base, "weights": str(folder / "broken.params")}, "weights.*not a readable .params file"),
        "unnamed": ({**base, "weights": str(folder / "unnamed.params")}, "weights.*without names"),
        "other weights": ({**base, "factory": "mxnet_models:selu", "weights": params}, "weights.*does not fit"),
        "weights lack": ({**exported, "weights": str(folder / "saved.params")}, "weights.*lacks.*dense0_weight"),
        "no graph": ({**exported, "symbol": params, "weights": params}, "symbol.*not a readable graph"),
    }  # fmt: skip
    said = json.loads(str(there("refusals", configs=json.dumps([config for config, _ in cases.values()]))["said"]))
    for (name, (_, expected)), text in zip(cases.items(), said, strict=True):
        assert re.search(expected, text, re.DOTALL), (name, text)


def test_a_factory_that_returns_the_same_block_again_makes_no_clone(folder: Path) -> None:
    files = folder / "shared"
    files.mkdir()
    with server_process(files, [{"name": "m", **model("shared"), "access": "trainer"}], python=python_of(MXNET)) as process:
        with connect(process.address) as server:
            remote = server.estimator("m")
            x = rows(remote)
            before = remote.predict(x)
            with pytest.raises(Unsupported, match="returns the same block"):
                remote.clone_for_refitting()
            np.testing.assert_array_equal(remote.predict(x), before)
